"""OC-SVM, compared with scikit-learn's; its grid, and the oracle that chooses from it."""

from dataclasses import replace

import numpy as np
import pytest
from batches import evaluate
from sklearn.svm import OneClassSVM

from baselines.ocsvm import GAMMAS, NUS, OCSVM
from benchmarks.contracts import Dataset, Experiment
from benchmarks.detectors import detector_params, selection_of
from benchmarks.inputs import load_pixels
from benchmarks.metrics import auroc


def images(n, seed, channels=3):
    """Make slight variations of one picture, so that kernels of every gamma differ from 0."""
    rng = np.random.default_rng(seed)
    picture = np.random.default_rng(0).integers(0, 256, (5, 4, channels))
    return np.clip(picture + rng.integers(-25, 26, (n, 5, 4, channels)), 0, 255).astype(np.uint8)


def flat(X):
    return X.reshape(len(X), -1) / 127.5 - 1


@pytest.mark.parametrize("nu", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("gamma", ["scale", 2**-7, 0.5, 4.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_scores_are_sklearns_decisions_with_the_sign_turned(nu, gamma, channels):
    train, test = images(120, 1, channels), images(1100, 2, channels)
    expected = OneClassSVM(nu=nu, gamma=gamma).fit(flat(train)).decision_function(flat(test))
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(
        OCSVM(nu, gamma).fit(train).anomaly_score(test), -expected, rtol=1e-4, atol=1e-8
    )


def test_the_grid_has_a_machine_for_each_nu_and_gamma():
    train, test = images(40, 1), images(30, 2)
    points = list(OCSVM("grid", "grid").fit(train).score_path(test))
    assert [(point["nu"], point["gamma"]) for point, _, _ in points] == [
        (nu, gamma) for gamma in GAMMAS for nu in NUS
    ]
    assert (len(points), GAMMAS[0], GAMMAS[-1]) == (90, 2**-7, 4)
    for params, scores, nearest in points[::13]:
        np.testing.assert_allclose(
            scores, OCSVM(**params).fit(train).anomaly_score(test), rtol=1e-9, atol=1e-12
        )
        assert nearest is None
    with pytest.raises(ValueError, match="call score_path"):
        OCSVM("grid").fit(train).anomaly_score(test)


def test_the_same_images_are_drawn_each_time_if_there_are_too_many():
    train, test = images(50, 1), images(30, 2)
    some = OCSVM(max_images=20).fit(train)
    assert some.rows_.shape == (20, 60)
    assert {tuple(row) for row in some.rows_} <= {tuple(row) for row in flat(train)}
    np.testing.assert_array_equal(OCSVM(max_images=20).fit(train).rows_, some.rows_)
    assert not np.array_equal(
        some.anomaly_score(test), OCSVM(max_images=0).fit(train).anomaly_score(test)
    )
    assert len(OCSVM(max_images=0).fit(train).rows_) == 50


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"nu": 0}, r"nu must be a number in \(0, 1\] or 'grid', got 0"),
        ({"nu": 1.5}, "got 1.5"),
        ({"nu": "grit"}, "got 'grit'"),
        ({"nu": True}, "got True"),
        ({"nu": float("nan")}, "got nan"),
        ({"gamma": 0.0}, "gamma must be a number above 0"),
        ({"gamma": "auto"}, "got 'auto'"),
        ({"gamma": float("inf")}, "got inf"),
        ({"max_images": -1}, "max_images must be a whole number"),
        ({"max_images": 2.5}, r"got 2\.5"),
    ],
)
def test_a_bad_parameter_is_refused_before_any_work(params, words):
    with pytest.raises(ValueError, match=words):
        OCSVM(**params).check_rows(100)


@pytest.fixture
def toy():
    """Make two classes of overlapping pictures, with 40 training and 60 test images each."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    pixels = rng.integers(0, 120, (200, 4, 4)) + labels[:, None, None] * rng.integers(0, 25, (4, 4))
    return Dataset("toy", pixels.astype(np.uint8), labels, np.arange(200) < 80, ("a", "b"), "f")


def experiment(variant):
    params = detector_params("ocsvm", variant, {})
    return Experiment(
        "toy", "one_vs_rest", "ocsvm", "pixels", variant=variant, detector_params=params
    )


def test_an_oracle_is_the_best_of_the_grid_on_the_test_labels_and_names_its_choice(toy):
    oracle = experiment("oracle")
    assert (selection_of(oracle), selection_of(experiment("label_free"))) == ("oracle", "none")
    X = load_pixels(toy, "pixels")
    results = list(evaluate([oracle], toy, X))
    assert [result.split for result in results] == ["a", "b"]
    for label, result in enumerate(results):
        train = np.flatnonzero(toy.is_train & (toy.labels == label))
        points = list(OCSVM("grid", "grid").fit(X[train]).score_path(X[result.rows]))
        values = [auroc(result.is_anomaly, scores) for _, scores, _ in points]
        assert result.metrics["rocauc"] == pytest.approx(max(values), abs=1e-12)
        assert min(values) < max(values)
        best = points[int(np.argmax(values))][0]
        assert (result.metrics["chosen_nu"], result.metrics["chosen_gamma"]) == (
            best["nu"],
            best["gamma"],
        )


def test_an_oracle_of_one_parameter_names_its_number_and_not_the_given_word(toy):
    params = detector_params("ocsvm", "oracle", {"gamma": "scale"})
    oracle = replace(experiment("oracle"), detector_params=params)
    for result in evaluate([oracle], toy, load_pixels(toy, "pixels")):
        assert [name for name in result.metrics if name.startswith("chosen_")] == ["chosen_nu"]
        assert result.metrics["chosen_nu"] in NUS


def test_scoring_in_pieces_equals_scoring_all_at_once(toy, monkeypatch):
    X = load_pixels(toy, "pixels")
    whole = list(evaluate([experiment("label_free")], toy, X))
    calls = []
    monkeypatch.setattr("benchmarks.scoring.PIECE", 7)
    for kept in (1 << 29, 0):
        monkeypatch.setattr("benchmarks.scoring.GATHERED_BYTES", kept)
        pieces = evaluate(
            [experiment("label_free")], toy, X, progress=lambda *call: calls.append(call)
        )
        for one, other in zip(whole, list(pieces), strict=True):
            np.testing.assert_allclose(one.scores, other.scores, rtol=1e-9)
    scored = [
        done
        for what, done, _ in calls
        if what.startswith("scoring ocsvm label_free on toy, a, images")
    ]
    assert scored[:3] == [7, 14, 21]
    assert scored[-1] == 120
