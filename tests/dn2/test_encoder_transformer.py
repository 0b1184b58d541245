"""`Encoder`: images in, features out, as scikit-learn expects of a transformer."""

import doctest
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted

from dn2 import DN2, Encoder, features
from dn2.encoders import ENCODERS, EncoderEntry, MissingWeightsError
from dn2.features import NORMALIZATIONS, encode, load_extractor
from dn2.images import CorruptImageError

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 30, 40, 3), dtype=np.uint8)


class Grid(torch.nn.Module):
    """A network that is quick to load: the means of a 3 x 3 grid, by channel."""

    def forward(self, x):
        return torch.nn.functional.adaptive_avg_pool2d(x, 3).flatten(1)


@pytest.fixture(autouse=True)
def grid(monkeypatch, tmp_path):
    """Add an encoder whose weights are a file in DN2_HOME, and count how often it is loaded."""
    entry = EncoderEntry(
        name="grid",
        library="",
        architecture="",
        filename="grid.pth",
        sha256="",
        source="url:https://example.org/grid.pth",
        size_bytes=0,
        width=27,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.25, 0.3),
        licence="",
    )
    loads = []
    monkeypatch.setitem(ENCODERS, "grid", entry)
    monkeypatch.setattr(features, "load_encoder", lambda name, path: loads.append(path) or Grid())
    monkeypatch.setenv("DN2_HOME", str(tmp_path))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/grid.pth").touch()
    return loads


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_transform_encodes_and_normalises(normalize, grid, tmp_path):
    expected = encode(IMAGES, load_extractor("grid", tmp_path / "weights/grid.pth", "torch"))
    made = Encoder("grid", normalize=normalize, engine="torch")
    found = made.transform(IMAGES)
    np.testing.assert_array_equal(found, NORMALIZATIONS[normalize](expected))
    assert (found.dtype, found.shape) == (np.float32, (7, 27))


def test_paths_and_lists_of_arrays_give_the_same(tmp_path):
    made = Encoder("grid", engine="torch")
    expected = made.transform(IMAGES)
    paths = [tmp_path / f"{i}.png" for i in range(len(IMAGES))]
    for image, path in zip(IMAGES, paths, strict=True):
        Image.fromarray(image).save(path)
    for form in (list(IMAGES), paths, [str(path) for path in paths], tuple(paths)):
        np.testing.assert_allclose(made.transform(form), expected, rtol=1e-5, atol=1e-6)


def test_no_images_give_no_rows():
    assert Encoder("grid", engine="torch").transform([]).shape == (0, 27)


def test_the_network_is_loaded_once_and_again_when_a_parameter_changes(grid, tmp_path):
    made = Encoder("grid", engine="torch")
    for _ in range(2):
        made.transform(IMAGES[:1])
    made.set_params(normalize="l2").transform(IMAGES[:1])
    assert len(grid) == 1
    (tmp_path / "mine.pth").touch()
    made.set_params(weights=str(tmp_path / "mine.pth")).transform(IMAGES[:1])
    assert grid == [tmp_path / "weights/grid.pth", tmp_path / "mine.pth"]


def test_it_is_a_transformer_of_scikit_learn(grid):
    made = Encoder("grid", normalize="power", engine="torch")
    made.transform(IMAGES[:1])
    for copy in (clone(made), pickle.loads(pickle.dumps(made))):
        assert copy.get_params() == made.get_params()
        assert not hasattr(copy, "_loaded")
    assert made.fit(IMAGES) is made
    check_is_fitted(Encoder("grid"))
    assert get_tags(made).requires_fit is False
    np.testing.assert_array_equal(made.fit_transform(IMAGES), made.transform(IMAGES))
    pipeline = make_pipeline(Encoder("grid", engine="torch"), StandardScaler()).fit(IMAGES)
    np.testing.assert_allclose(pipeline.transform(IMAGES).mean(0), 0, atol=1e-5)
    assert pipeline.get_params()["encoder__name"] == "grid"
    assert repr(clone(made)).startswith("Encoder(name='grid', normalize='power', weights=None")


def test_missing_weights_say_where_they_were_looked_for(tmp_path):
    with pytest.raises(MissingWeightsError, match=r"no weights for grid: looked for .*not_there"):
        Encoder("grid", weights=tmp_path / "not_there.pth").transform(IMAGES)
    (tmp_path / "weights/grid.pth").unlink()
    with pytest.raises(MissingWeightsError, match=r"weights/grid\.pth; to get them: download"):
        Encoder("grid").transform(IMAGES)


@pytest.mark.parametrize(
    ("change", "X", "message"),
    [
        ({"name": "gird"}, IMAGES, "unknown encoder 'gird'.*did you mean grid"),
        ({"normalize": "l3"}, IMAGES, "normalize 'l3' is unknown: there are none, l2, power"),
        ({"engine": "touch"}, IMAGES, "unknown engine 'touch'"),
        ({}, "folder", "must be a sequence of paths or arrays"),
        ({}, ["a.png", IMAGES[0]], "all paths or all arrays"),
        ({}, IMAGES.astype(float), "must be uint8"),
    ],
)
def test_bad_input_is_refused(change, X, message):
    with pytest.raises(ValueError, match=message):
        Encoder(**{"name": "grid", "engine": "torch"} | change).transform(X)


def test_a_corrupt_file_is_named(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(CorruptImageError, match=r"bad\.png is not a whole image"):
        Encoder("grid", engine="torch").transform([tmp_path / "bad.png"])


def test_examples_in_the_docstrings():
    assert doctest.testmod(features) == (0, 3)


@pytest.mark.filterwarnings("ignore:Can't test estimator Encoder")  # its checks give matrices
@pytest.mark.filterwarnings("ignore:Estimator Encoder does not inherit")
def test_scikit_learn_checks_what_it_can(grid):
    check_estimator(Encoder("grid"))
    names = Encoder("grid", engine="torch").fit(IMAGES).get_feature_names_out()
    assert names.tolist() == [f"grid_{column}" for column in range(27)]


def test_a_pipeline_from_files_to_verdicts_is_validated_and_searched(grid, tmp_path):
    paths = [str(tmp_path / f"{i}.png") for i in range(12)]
    images = np.random.default_rng(1).integers(0, 60, (12, 30, 40, 3), dtype=np.uint8)
    images[9:] += 150
    for image, path in zip(images, paths, strict=True):
        Image.fromarray(image).save(path)
    y = np.repeat([1, -1], [9, 3])
    folds = [(train, np.append(test, [9, 10, 11])) for train, test in KFold(3).split(range(9))]
    pipeline = make_pipeline(Encoder("grid", engine="torch"), DN2(k=2))
    for X in (paths, images, list(images), pd.Series(paths, index=list("abcdefghijkl"))):
        values = cross_val_score(pipeline, X, y, cv=folds, scoring="roc_auc")
        assert values.tolist() == [1, 1, 1]
    search = GridSearchCV(pipeline, {"dn2__k": [1, 3]}, cv=folds, scoring="roc_auc")
    assert search.fit(paths, y).best_score_ == 1
    assert len(grid) == 1, "copies share the network"
    fitted = clone(pipeline).set_params(dn2__k=3, encoder__normalize="l2").fit(paths[:9])
    assert fitted["dn2"].k == 3
    copy = pickle.loads(pickle.dumps(pipeline.fit(paths[:9])))
    np.testing.assert_array_equal(copy.predict(images), pipeline.predict(paths))
    assert set(copy.predict(images)[9:]) == {-1}
