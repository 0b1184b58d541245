"""A split whose detector offers more than scores, or fails."""

import re

import numpy as np
import pytest
from batches import evaluate

import benchmarks.scoring
from benchmarks.contracts import Dataset, Experiment, MissingDataError, SplitError
from benchmarks.detectors import detector_params, method
from benchmarks.inputs import load_pixels

EXPERIMENT = Experiment(
    "toy",
    "one_vs_rest",
    "geom",
    "pixels",
    variant="rotation",
    detector_params=detector_params("geom", "", {}),
)
LABELS = np.arange(60) % 2
IMAGES = np.random.default_rng(0).integers(0, 256, (60, 4, 4), dtype=np.uint8)
TOY = Dataset("toy", IMAGES, LABELS, np.arange(60) < 20, ("a", "b"), "f")


class Accurate:
    """Read score and accuracy off an image's first pixel."""

    def fit(self, X, *, monitor=None, checkpoint=None):
        return self

    def scores_and_accuracy(self, X):
        return X[:, 0, 0, 0] / 1.0, X[:, 0, 0, 0] / 255


class Broken(Accurate):
    error = RuntimeError("no more")

    def scores_and_accuracy(self, X):
        raise self.error


def results(monkeypatch, detector, piece=1000):
    monkeypatch.setattr(method, "make_detector", lambda _: detector)
    monkeypatch.setattr(benchmarks.scoring, "PIECE", piece)
    return list(evaluate([EXPERIMENT], TOY, load_pixels(TOY, "pixels")))


def test_the_cpu_time_of_a_continued_training_is_that_of_all_its_processes(monkeypatch):
    fresh, continued = Accurate(), Accurate()
    continued.earlier_cpu_seconds_ = 5000.0
    seconds = [
        [result.cost["time/cpu_seconds"] for result in results(monkeypatch, one)]
        for one in (fresh, continued)
    ]
    assert all(0 <= one < 1000 for one in seconds[0])
    assert all(5000 <= one < 6000 for one in seconds[1])


@pytest.mark.parametrize("piece", [7, 1000])
def test_accuracy_is_averaged_over_normal_and_over_anomalous_test_images(monkeypatch, piece):
    first = IMAGES[:, 0, 0] / 255
    for label, result in enumerate(results(monkeypatch, Accurate(), piece)):
        test = np.arange(60) >= 20
        assert result.metrics["accuracy_normal"] == pytest.approx(
            first[test & (label == LABELS)].mean()
        )
        assert result.metrics["accuracy_anomaly"] == pytest.approx(
            first[test & (label != LABELS)].mean()
        )
        np.testing.assert_allclose(result.scores, IMAGES[result.rows][:, 0, 0])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("no more"), "geom rotation on toy, a: RuntimeError: no more"),
        (ValueError("images are constant"), "geom rotation on toy, a: images are constant"),
    ],
)
def test_what_fails_names_its_split(monkeypatch, error, words):
    broken = Broken()
    broken.error = error
    with pytest.raises(SplitError) as caught:
        results(monkeypatch, broken)
    where = "" if isinstance(error, ValueError) else rf" \({re.escape(__file__)}, line \d+\)"
    assert re.fullmatch(re.escape(words) + where, str(caught.value)), "a crash says where"


def test_an_error_that_says_it_all_stays_as_it_is(monkeypatch):
    broken = Broken()
    broken.error = MissingDataError("the disk is gone")
    with pytest.raises(MissingDataError, match="the disk is gone"):
        results(monkeypatch, broken)
