"""`ImageDetector`: its scores are DN2's, alone or in a batch, after changes and after saving."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from toy_encoder import draw_picture, write_pictures

import dn2
from dn2 import DN2, Encoder, ImageDetector, features, image_detector
from dn2.calibration import p_values
from dn2.encoders import MissingWeightsError
from dn2.image_detector import MOST_NEAREST
from dn2.networks import crops_of
from dn2.saving import read_manifest


@pytest.fixture(scope="module")
def good(home):
    return write_pictures(home / "good", 30)


@pytest.fixture(scope="module")
def new(home):
    return write_pictures(home / "new", 6, first=100) + write_pictures(
        home / "new", 3, first=200, odd=True
    )


@pytest.fixture(scope="module")
def fitted(home, good):
    return ImageDetector("toy", k=3).fit(good)


def values(scores):
    return np.array([(one.score, one.p_value) for one in scores.images])


def test_scores_and_p_values_are_those_of_dn2_on_features(fitted, good, new, monkeypatch):
    from dn2 import networks

    monkeypatch.setattr(features, "load_encoder", networks.load_encoder)
    encoder = Encoder("toy", normalize="power", engine="openvino")
    bank, rows = encoder.transform(good), encoder.transform(new)
    expected = DN2(k=3).fit(bank).anomaly_score(rows)
    scores = fitted.score(new)
    np.testing.assert_allclose(values(scores)[:, 0], expected, rtol=1e-6)
    alone = [
        DN2(k=3).fit(np.delete(bank, i, 0)).anomaly_score(bank[i : i + 1])[0]
        for i in range(len(bank))
    ]
    np.testing.assert_allclose(fitted.calibration_, alone, rtol=1e-6)
    np.testing.assert_allclose(values(scores)[:, 1], p_values(expected, np.array(alone)))
    for one in scores.images:
        assert np.mean([near.distance for near in one.nearest]) == pytest.approx(one.score)
        assert all(near.path in good for near in one.nearest)
    assert values(scores)[:6, 0].max() < values(scores)[6:, 0].min()
    assert (
        scores.flag(fpr=0.05).tolist() == scores.flag(fdr=0.2).tolist() == [False] * 6 + [True] * 3
    )


def test_a_score_depends_on_its_image_alone(fitted, new):
    together = values(fitted.score(new))
    np.testing.assert_array_equal([values(fitted.score([one]))[0] for one in new], together)
    contents = [open(path, "rb").read() for path in new]  # noqa: PTH123, SIM115
    np.testing.assert_array_equal(values(fitted.score(contents)), together)
    arrays = [draw_picture(number) for number in range(100, 106)]
    np.testing.assert_array_equal(values(fitted.score(arrays)), together[:6])


def test_joined_encoders_are_normalised_apart_and_add(home, good, new):
    parts = [ImageDetector(name, k=3).fit(good) for name in ("toy", "toy2")]
    joined = ImageDetector("toy+toy2", k=3).fit(good)
    np.testing.assert_array_equal(
        joined.features_, np.concatenate([part.features_ for part in parts], axis=1)
    )
    assert joined.score(new[:1]).images[0].score > parts[0].score(new[:1]).images[0].score


def test_images_that_cannot_be_read_cost_no_other(home, good, new, fitted, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    bad = str(tmp_path / "bad.png")
    seen = []
    detector = ImageDetector("toy", k=3).fit(
        [bad, *good[:20], bad, *good[20:]], progress=lambda *done: seen.append(done)
    )
    np.testing.assert_array_equal(detector.features_, fitted.features_)
    assert [one.path for one in detector.left_out_] == [bad, bad]
    assert seen == [(32, 32)]
    scores = fitted.score([bad, *new, bad])
    np.testing.assert_array_equal(values(scores), values(fitted.score(new)))
    assert [one.path for one in scores.images] == new
    nothing = fitted.score([bad])
    assert (nothing.images, len(nothing.left_out)) == ((), 1)
    assert nothing.flag(fpr=0.1).shape == fitted.score([]).flag(fdr=0.1).shape == (0,)


def test_images_held_out_are_scored_like_new_ones(home, good):
    detector = ImageDetector("toy", k=2, holdout=0.4, seed=3).fit(good)
    assert detector.in_bank_.sum() == 18
    bank, held = (
        [path for path, inside in zip(good, detector.in_bank_, strict=True) if inside == wanted]
        for wanted in (True, False)
    )
    other = ImageDetector("toy", k=2).fit(bank)
    np.testing.assert_array_equal(detector.calibration_, values(other.score(held))[:, 0])
    assert not np.array_equal(
        detector.in_bank_, ImageDetector("toy", k=2, holdout=0.4).fit(good).in_bank_
    )


def test_adding_and_removing_are_fitting_to_the_other_images(home, good, new, fitted, monkeypatch):
    detector = pickle.loads(pickle.dumps(fitted))
    calls = []
    from dn2 import image_detector

    original = image_detector.encode_sources
    monkeypatch.setattr(
        image_detector,
        "encode_sources",
        lambda sources, *rest: calls.append(len(sources)) or original(sources, *rest),
    )
    assert detector.add(new[:2]) == ()
    assert detector.remove([os.path.relpath(good[0]), "001.png", good[2], good[2]]) == tuple(
        good[:3]
    )
    assert calls == [2]
    monkeypatch.undo()
    expected = ImageDetector("toy", k=3).fit([*good[3:], *new[:2]])
    assert detector.paths_ == expected.paths_
    np.testing.assert_array_equal(detector.calibration_, expected.calibration_)
    np.testing.assert_array_equal(values(detector.score(new)), values(expected.score(new)))
    assert detector.score(new[:1]).images[0].nearest[0].distance == 0
    with pytest.raises(ValueError, match=r"100\.png is in the detector already"):
        detector.add(new[:1])
    for name, message in {
        "01.png": r"01\.png is not in the detector: `dn2 info --images` lists",
        "zzz": "zzz is not in the detector: `dn2 info --images` lists them",
    }.items():
        with pytest.raises(ValueError, match=message):
            detector.remove([name])
    with pytest.raises(ValueError, match="removing 26 of 29 images leaves too few for k=3"):
        detector.remove(list(detector.paths_[:26]))
    assert len(detector.paths_) == 29


def test_images_without_a_path_are_numbered_on(fitted):
    detector = pickle.loads(pickle.dumps(fitted))
    pictures = list(np.random.default_rng(0).integers(0, 256, (4, 30, 30, 3), dtype=np.uint8))
    assert detector.add(pictures[:2]) == ()
    assert [one.path for one in detector.add([b"", pictures[2]])] == ["image 1"]
    assert detector.remove(["image 2"]) == ("image 2",)
    detector.add(pictures[3:4])
    added = detector.paths_[len(fitted.paths_) :]
    assert added == ("image 1", "image 4", "image 5")
    nearest = [one.nearest[0] for one in detector.score([pictures[0], *pictures[2:]]).images]
    assert [(near.path, near.distance) for near in nearest] == [(path, 0) for path in added]


def test_a_name_that_fits_two_images_is_refused(home, tmp_path):
    paths = write_pictures(tmp_path / "a", 4) + write_pictures(tmp_path / "b", 4, first=3)
    detector = ImageDetector("toy", k=1).fit(paths)
    with pytest.raises(ValueError, match=r"003\.png fits 2 images, such as .*a/003\.png and .*b/0"):
        detector.remove(["003.png"])
    assert detector.remove(["b/003.png"]) == (str(tmp_path / "b/003.png"),)


def test_identical_images_are_counted_and_never_odd(home, good, fitted, tmp_path):
    picture = draw_picture(0)
    detector = ImageDetector("toy", k=2).fit([picture] * 25)
    assert detector.n_copies_ == 25
    assert detector.copies() == tuple(f"image {i}" for i in range(2, 26))
    assert (fitted.n_copies_, fitted.copies()) == (0, ())
    (one,) = detector.score([picture]).images
    assert (one.score, one.p_value, one.nearest[0].path) == (0.0, 1.0, "image 1")
    assert detector.score([draw_picture(1)]).images[0].p_value == pytest.approx(1 / 26)


def test_a_large_k_names_ten_images(home, good):
    (one,) = ImageDetector("toy", k=25).fit(good).score(good[:1]).images
    assert len(one.nearest) == MOST_NEAREST


@pytest.mark.parametrize(
    ("parameters", "n", "message"),
    [
        ({"k": 5}, 0, "k=5 needs at least 6 normal images, got 0: give more normal images$"),
        ({"k": 5}, 1, "k=5 needs at least 6 normal images, got 1: give more normal images$"),
        ({"k": 30}, 30, "k=30 needs at least 31 normal images, got 30: .* or lower k"),
        ({"k": 0}, 30, "k must be an integer of at least 1, got 0"),
        ({"holdout": 1.0}, 30, r"holdout must be a fraction in \[0, 1\), got 1.0"),
        ({"holdout": 0.9}, 30, "k=5 with holdout=0.9 needs at least 5 images in the bank and 1"),
        ({"holdout": 0.01}, 30, "and 1 held out, got 30 in all"),
        ({"normalize": "l3"}, 30, "normalize 'l3' is unknown: there are none, l2, power"),
        ({"encoder": "tyo"}, 30, r"unknown encoder 'tyo' \(did you mean toy"),
        ({"encoder": "toy+toy2", "weights": "a"}, 30, "weights are of one encoder, got 2"),
    ],
)
def test_mistakes_are_one_line(home, good, parameters, n, message):
    with pytest.raises(ValueError, match=message):
        ImageDetector(**{"encoder": "toy", **parameters}).fit(good[:n])


def test_missing_weights_are_told(home, good):
    with pytest.raises(MissingWeightsError, match="no weights for resnet18"):
        ImageDetector("resnet18").fit(good)


def test_rates_are_checked(fitted, new):
    scores = fitted.score(new)
    for rates, message in (
        ({}, "give either fpr or fdr, got none"),
        ({"fpr": 0.1, "fdr": 0.1}, "give either fpr or fdr, got both"),
        ({"fpr": 0.01}, "fpr 0.01 needs at least 99 calibration images, got 30: .* 0.033 or more"),
        ({"fdr": 0.01}, "fdr 0.01 needs at least 99"),
        ({"fpr": 0.032}, "fpr 0.032 needs at least 31"),
        ({"fdr": 5e-324}, "fdr must be at least 1e-09, got 4.94066e-324"),
        ({"fpr": 2.0}, "fpr must be a fraction between 0 and 1, got 2"),
    ):
        with pytest.raises(ValueError, match=message):
            scores.flag(**rates)


def test_it_is_an_estimator_of_sklearn(fitted):
    assert clone(fitted).get_params() == fitted.get_params()
    assert repr(ImageDetector(k=2)).startswith("ImageDetector(encoder='efficientnet_lite0'")
    for call in (
        lambda: ImageDetector().score([]),
        lambda: ImageDetector().save("x"),
        lambda: ImageDetector().add([]),
    ):
        with pytest.raises(NotFittedError, match="call fit first"):
            call()


def test_a_saved_detector_gives_the_same_scores(fitted, new, tmp_path):
    fitted.save(tmp_path / "saved")
    loaded = dn2.load(tmp_path / "saved")
    assert loaded.get_params() == {**fitted.get_params(), "weights": None}
    assert loaded.score(new) == fitted.score(new)
    assert (loaded.paths_, loaded.n_copies_) == (fitted.paths_, fitted.n_copies_)


def test_batches_are_not_kept(home, fitted):
    """Several networks share a stream; a batch that all of them have is given up."""
    import weakref

    from dn2 import networks

    kept = []

    def stream():
        for number in range(20):
            batch = np.full(4, number)
            kept.append(weakref.ref(batch))
            yield batch

    most = 0
    for one, other in zip(*networks._branches(stream(), 2), strict=True):
        np.testing.assert_array_equal(one, other)
        most = max(most, sum(reference() is not None for reference in kept))
    assert len(kept) == 20
    assert most <= 3


@pytest.mark.parametrize("given", ["new/001.png", Path("new/001.png"), b"content"])
def test_a_single_image_is_not_read_letter_by_letter(fitted, given):
    for method in (fitted.score, fitted.add, ImageDetector("toy").fit):
        with pytest.raises(TypeError, match=r"must be a list of paths.*give a list"):
            method(given)


def test_any_iterable_of_paths_will_do(fitted, good):
    assert len(fitted.score(path for path in good[:3]).images) == 3


def test_too_few_images_say_what_could_not_be_read(good, tmp_path):
    (tmp_path / "empty.png").touch()
    unread = r"got 2 that can be read, and 2 that cannot .*empty.png: it is empty"
    with pytest.raises(ValueError, match=unread):
        ImageDetector("toy", k=3).fit([*good[:2], tmp_path / "empty.png", tmp_path / "empty.png"])


def test_how_images_are_seen_is_learnt_saved_and_used(home, tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for n in range(8):
        paths.append(tmp_path / f"{n}.png")
        pixels = rng.integers(1000, 1400, (30, 90)).astype(np.uint16)
        Image.fromarray(pixels).save(paths[-1])
    detector = ImageDetector("toy", k=2, square="pad").fit(paths)
    black, white = detector.levels_
    assert 780 < black < 820
    assert 1580 < white < 1620
    assert [round(share, 3) for share in detector.unseen_] == [0.667] * 8
    detector.save(tmp_path / "saved")
    loaded = dn2.load(tmp_path / "saved")
    assert loaded.view == detector.view
    assert loaded.score(paths).images == detector.score(paths).images
    others = [ImageDetector("toy", k=2).fit(paths), ImageDetector("toy", k=2, square="squash")]
    others[1].fit(paths)
    for other in others:
        assert not np.array_equal(other.features_, detector.features_)
    manifest = read_manifest(tmp_path / "saved")
    assert (manifest["square"], manifest["levels"]) == ("pad", [black, white])
    plain = ImageDetector("toy", k=2).fit([rng.integers(0, 9, (9, 9)).astype("u1")] * 4)
    plain.save(tmp_path / "plain")
    manifest = read_manifest(tmp_path / "plain")
    assert not {"square", "levels"} & set(manifest), "older programs read it"
    assert manifest["preprocessing"] == crops_of()


def test_images_above_the_limit_are_left_out_until_it_is_raised(home, tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for n in range(5):
        paths.append(str(tmp_path / f"{n}.png"))
        size = (50, 50) if n == 4 else (20, 20)
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(paths[-1])
    detector = ImageDetector("toy", k=2, most_pixels=1000).fit(paths)
    assert [one.path for one in detector.left_out_] == paths[4:]
    assert "raise --max-pixels" in detector.left_out_[0].reason
    detector.most_pixels = 2500
    assert len(detector.score(paths).images) == 5


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        *(("k", value) for value in (0, True, "5", 2.0, None)),
        *(("normalize", value) for value in ("no", 1)),
        *(("index", value) for value in ("pq", "flat", "HNSW", None)),
        *(("holdout", value) for value in (1, -0.1, "0.5", True)),
        *(("seed", value) for value in (-1, 0.5)),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_is_read(home, parameter, value, monkeypatch):
    def read(*_):
        raise AssertionError("it has begun to work")

    for name in ("convert", "encode_sources"):
        monkeypatch.setattr(image_detector, name, read)
    detector = ImageDetector("toy", **{parameter: value})  # a constructor only stores
    assert detector.get_params()[parameter] is value
    with pytest.raises(ValueError, match=f"^{parameter} .*(must be|is unknown)"):
        detector.fit(["no.png"] * 30)
