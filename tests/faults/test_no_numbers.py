"""Not-a-number never scores: weights, features, checkpoints and scores that tell nothing.

Each is a failed run with its reason, and none gives a ROCAUC of 50 %. What is truly so (images that
are all the same, ties, a bad point of a grid) is said as what it is, or stays what it was.
"""

import numpy as np
import pytest
import torch
from handmade_store import IDENTITY
from toy_encoder import draw_picture, toy_encoders, write_pictures

import benchmarks.evaluate
import dn2.store
from benchmarks.contracts import Experiment, MissingDataError, Result, SplitError, Workspace
from benchmarks.datasets import load_dataset
from benchmarks.inputs import feature_store, load_input
from dn2 import ImageDetector
from dn2 import encoders as dn2_encoders
from dn2.encoders import BadWeightsError, load_encoder
from dn2.features import Extractor, encode
from dn2.sound import UnsoundFeaturesError, check_finite, check_varied
from dn2.store import FeatureStore

BAD = [float("nan"), float("inf"), -float("inf")]


# Weights


@pytest.fixture(scope="module")
def network_file(tmp_path_factory):
    import timm

    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet", pretrained=False).state_dict(), path)
    return path


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", ["conv1.0.weight", "bn1.running_var"])
def test_weights_with_nan_or_infinity_are_refused_by_name(network_file, tmp_path, name, bad):
    state = torch.load(network_file, weights_only=True)
    state[name].view(-1)[3] = bad
    torch.save(state, tmp_path / "bad.pth")
    with pytest.raises(
        BadWeightsError,
        match=rf"bad\.pth cannot be used for timm:test_resnet: 1 of the .* numbers of {name} are",
    ):
        load_encoder("timm:test_resnet", tmp_path / "bad.pth")


def test_finite_weights_and_infinite_masks_are_no_alarm(network_file):
    load_encoder("timm:test_resnet", network_file)
    network = torch.nn.Linear(2, 2)
    network.register_buffer("mask", torch.tensor([0.0, -float("inf")]))
    dn2_encoders.check_finite_weights("mine", network, network_file)
    network.register_buffer("scale", torch.tensor([float("nan")]))
    with pytest.raises(BadWeightsError, match="numbers of scale are NaN"):
        dn2_encoders.check_finite_weights("mine", network, network_file)


def test_a_run_with_such_weights_is_missing_weights(network_file, tmp_path, monkeypatch):
    state = torch.load(network_file, weights_only=True)
    state["conv1.0.weight"] *= float("nan")
    torch.save(state, tmp_path / "nan.pth")
    dataset = load_dataset("synthetic", home=tmp_path)
    where = Workspace(tmp_path, weights=tmp_path / "nan.pth")
    with pytest.raises(MissingDataError, match=r"nan\.pth cannot be used"):
        load_input(dataset, "features:timm:test_resnet", where)
    assert not list(tmp_path.glob("features/*/shard-*"))


def test_altered_weights_of_your_own_are_refused(network_file, tmp_path):
    content = bytearray(network_file.read_bytes())
    content[len(content) // 2] ^= 64
    (tmp_path / "altered.pth").write_bytes(content)
    with pytest.raises(BadWeightsError, match=r"altered\.pth .*it is damaged: the checksum of"):
        load_encoder("timm:test_resnet", tmp_path / "altered.pth")


# Features


@pytest.mark.parametrize("bad", BAD)
def test_a_feature_that_is_not_finite_names_its_image(bad):
    features = np.ones((5, 3), np.float32)
    features[3, 1] = bad
    with pytest.raises(
        UnsoundFeaturesError, match=r"of net must be finite, got NaN .* for image 13"
    ):
        check_finite(features, "net", lambda row: f"image {10 + row}")


def test_large_features_whose_sum_overflows_are_no_alarm():
    check_finite(np.full((9, 9), np.finfo(np.float32).max), "net", str)


def test_equal_features_of_different_images_are_refused():
    same = np.ones((4, 3), np.float32)
    with pytest.raises(UnsoundFeaturesError, match="of net are equal for all 8 images, though"):
        check_varied([same, same], "net", lambda: False)
    check_varied([same, same], "net", lambda: True)


@pytest.mark.parametrize("row", [0, 1, 3])
def test_one_other_image_and_a_single_one_are_no_alarm(row):
    other = np.ones((4, 3), np.float32)
    other[row, 2] = 2
    check_varied([np.ones((4, 3), np.float32), other], "net", lambda: False)
    check_varied([np.ones((1, 3), np.float32)], "net", lambda: False)


class Constant(Extractor):
    """An extractor with the same features, all of this value, for every image."""

    def __init__(self, name, value=1.0):
        super().__init__(dn2_encoders.get_encoder(name), None)
        self.value = value

    def engine_for(self, shape):
        width = self.encoder.width
        return lambda batches: (
            np.full((len(batch), width), self.value, np.float32) for batch in batches
        )


@pytest.mark.parametrize("bad", BAD)
def test_a_network_that_overflows_stores_nothing(tmp_path, bad):
    images = np.zeros((40, 8, 8), np.uint8)
    with pytest.raises(UnsoundFeaturesError, match="image 0"):
        encode(images, Constant("efficientnet_lite0", bad))
    store = FeatureStore(tmp_path, IDENTITY, 40, 2)
    with pytest.raises(UnsoundFeaturesError, match="features of timm:some/net must be finite"):
        store.fill(lambda rows: [np.full((40, 2), bad, np.float32)])
    assert not list(store.path.glob("shard-*"))


def test_stored_shards_with_nan_are_refused(tmp_path, monkeypatch):
    """Earlier versions stored them, with a checksum that fits."""
    store = FeatureStore(tmp_path, IDENTITY, 4, 2)
    with monkeypatch.context() as earlier:
        earlier.setattr(dn2.store, "check_finite", lambda *_: None)
        store.fill(lambda rows: [np.array([[1, 2], [3, 4], [5, np.nan], [7, 8]], np.float32)])
    with pytest.raises(UnsoundFeaturesError, match=rf"{store.path.name} must be finite.* image 2"):
        FeatureStore(tmp_path, IDENTITY, 4, 2).open()


def test_a_whole_shard_of_another_store_is_not_read(tmp_path):
    store, wider = (FeatureStore(tmp_path, IDENTITY, 4, width) for width in (2, 3))
    for one in (store, wider):
        one.fill(lambda rows, one=one: [np.ones((4, one.width), np.float32)])
    (store.path / "shard-00000.npy").chmod(0o644)
    (store.path / "shard-00000.npy").write_bytes((wider.path / "shard-00000.npy").read_bytes())
    assert FeatureStore(tmp_path, IDENTITY, 4, 2).missing() == [0]


@pytest.fixture
def weights(tmp_path, weights_home):
    (tmp_path / "weights").symlink_to(weights_home / "weights")
    return Workspace(tmp_path)


def test_an_encoder_with_equal_features_fails_its_cells(weights, monkeypatch):
    dataset = load_dataset("synthetic", home=weights.home)
    monkeypatch.setattr("dn2.features.load_extractor", lambda name, *_, **__: Constant(name))
    for _ in range(2):  # computed, and read back
        with pytest.raises(SplitError, match=r"synthetic: .*efficientnet_lite0 are equal for all"):
            load_input(dataset, "features:efficientnet_lite0", weights)
    assert feature_store(dataset, "efficientnet_lite0", weights).missing() == []


# Detectors of one's own images


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    with toy_encoders(folder):
        yield folder


def spoiled(monkeypatch, value):
    """Make networks give this value in place of all features."""

    def engine(self):
        width = self.width
        return lambda batches: (np.full((len(one), width), value, np.float32) for one in batches)

    monkeypatch.setattr("dn2.networks.Network.engine", property(engine))


@pytest.fixture
def pictures():
    return [draw_picture(number) for number in range(6)]


@pytest.mark.parametrize(
    ("value", "reason"), [(float("nan"), "for image 1"), (1.0, "equal for all 6 images, though")]
)
def test_no_detector_is_fitted_to_such_features(home, pictures, monkeypatch, value, reason):
    spoiled(monkeypatch, value)
    with pytest.raises(UnsoundFeaturesError, match=f"features of toy .*{reason}"):
        ImageDetector("toy", k=2).fit(pictures)


@pytest.mark.parametrize("others", [0, 1])
def test_copies_are_counted_and_no_alarm(home, pictures, others):
    detector = ImageDetector("toy", k=2).fit([*[pictures[0]] * 4, *pictures[1 : 1 + others]])
    assert detector.n_copies_ == 4


def test_neither_scoring_nor_adding_goes_on_with_nan(home, pictures, tmp_path, monkeypatch):
    detector = ImageDetector("toy", k=2).fit(pictures)
    before = detector.features_
    spoiled(monkeypatch, float("nan"))
    with pytest.raises(UnsoundFeaturesError, match="for image 1:"):
        detector.score(pictures[:1])
    (path,) = write_pictures(tmp_path, 1)
    with pytest.raises(UnsoundFeaturesError, match=rf"for {path}:"):
        detector.add([path])
    assert detector.features_ is before


def test_two_equal_images_may_be_scored(home, pictures):
    detector = ImageDetector("toy", k=2).fit(pictures)
    one, other = detector.score([pictures[0], pictures[0]]).images
    assert one.score == other.score


# Scores


def result(scores, partition="test"):
    scores = np.asarray(scores, np.float32)
    cell = Experiment("toy", "one_vs_rest", "deep_svdd", "pixels", partition=partition)
    is_anomaly = np.arange(len(scores)) % 2 == 0
    return Result(
        cell, "cat", "cat", None, 0, {}, scores, np.arange(len(scores)), is_anomaly, None,
        4, len(scores), 0.0, 0.0, {},
    )  # fmt: skip


def test_one_score_for_all_test_images_fails_the_split():
    images = np.arange(8 * 4).reshape(8, 2, 2)
    check = benchmarks.evaluate._check_scores
    with pytest.raises(ValueError, match=r"same score, 0\.25, though"):
        check(result([0.25] * 8), images)
    with pytest.raises(ValueError, match="all 8 test images are the same to it"):
        check(result([0.25] * 8), np.ones((8, 2, 2)))
    check(result([0.25] * 7 + [0.5]), np.ones((8, 2, 2)))  # ties are no alarm
