"""The detectors are scikit-learn's outlier detectors, with a threshold from the training rows."""

import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone, is_outlier_detector
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from dn2 import DN2, DN2Plus, GroupDN2, KMeansDN2
from dn2.search import INDEXES

ROOT = Path(__file__).parent.parent.parent
RNG = np.random.default_rng(0)
TRAIN, TEST = RNG.standard_normal((60, 5)), RNG.standard_normal((20, 5))

ARRAY_API = (
    "scikit-learn skips it unless SCIPY_ARRAY_API was set before scipy was imported: "
    "test_no_check_is_left_out sets it"
)
OWN_NEIGHBOUR = (
    "it wants anomalies among the rows that were fitted, and with k = 1 each of those is its own "
    "nearest neighbour, at distance 0"
)
EXPECTED = {
    "DN2()": {"check_array_api_input": ARRAY_API},
    "DN2Plus()": {"check_array_api_input": ARRAY_API},
    "KMeansDN2()": {"check_array_api_input": ARRAY_API},
    "DN2(k=3, clean=0.2)": {"check_array_api_input": ARRAY_API},
    "DN2(index='hnsw')": {"check_array_api_input": ARRAY_API},
    "KMeansDN2(k=1, centres=1)": {"check_array_api_input": ARRAY_API},
    "DN2(k=1)": {
        "check_array_api_input": ARRAY_API,
        "check_outliers_fit_predict": OWN_NEIGHBOUR,
        "check_outliers_train": OWN_NEIGHBOUR,
    },
}
"""Detector -> the checks that it does not pass, with the reason."""


@pytest.mark.parametrize("made", EXPECTED)
@pytest.mark.filterwarnings("ignore")
def test_check_estimator(made):
    done = check_estimator(eval(made), on_fail=None)
    assert len(done) > 40
    failed = {check["check_name"] for check in done if check["status"] != "passed"}
    assert failed == set(EXPECTED[made])


@pytest.mark.slow
def test_no_check_is_left_out():
    code = """
from sklearn.utils.estimator_checks import check_estimator
from dn2 import DN2, DN2Plus, KMeansDN2
for detector in (DN2(), DN2Plus(), KMeansDN2()):
    assert {check["status"] for check in check_estimator(detector)} == {"passed"}
"""
    environment = {**os.environ, "SCIPY_ARRAY_API": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environment, check=True)


@pytest.mark.filterwarnings("ignore:Can't test estimator")
@pytest.mark.filterwarnings("ignore:Estimator GroupDN2 does not inherit")
def test_scikit_learn_checks_no_groups_as_they_are_no_matrix():
    """Its checks give matrices. What `GroupDN2` does with sets is DN2's, and shown below."""
    check_estimator(GroupDN2())
    sets = RNG.standard_normal((30, 4, 5))
    fitted, pooled = GroupDN2().fit(sets, None), DN2().fit(sets.mean(1))
    assert is_outlier_detector(fitted)
    np.testing.assert_array_equal(fitted.predict(sets.tolist()), pooled.predict(sets.mean(1)))
    np.testing.assert_array_equal(fitted.kneighbors(sets)[1], pooled.kneighbors(sets.mean(1))[1])
    assert fitted.offset_ == pooled.offset_


# The threshold


@pytest.mark.parametrize("index", ["exact", "flat", "hnsw"])
@pytest.mark.parametrize("k", [1, 4, 59])
def test_training_scores_leave_the_row_itself_out(index, k):
    rows = TRAIN.astype(np.float32)
    rows[7] = rows[3]  # an equal row is a neighbour
    expected = [
        DN2(k=k).fit(np.delete(rows, i, axis=0)).anomaly_score(rows[i : i + 1])[0]
        for i in range(len(rows))
    ]
    found = DN2(k=k, index=index).fit(rows).training_scores_
    np.testing.assert_allclose(found, expected, rtol=1e-4 if index == "flat" else 0, atol=1e-5)


def test_with_many_equal_rows_and_few_others():
    rows = np.repeat([[0.0], [6.0]], [5, 1], axis=0)
    np.testing.assert_array_equal(DN2(k=2).fit(rows).training_scores_, [0, 0, 0, 0, 0, 36])
    np.testing.assert_allclose(DN2(k=6).fit(rows).training_scores_, [7.2] * 5 + [36])


def test_only_rows_that_are_kept_count():
    fitted = DN2(k=2, clean=0.25).fit(TRAIN)
    kept = DN2(k=2).fit(TRAIN[fitted.kept_])
    np.testing.assert_array_equal(fitted.training_scores_, kept.training_scores_)


def test_of_many_rows_some_are_scored():
    rows = np.random.default_rng(1).standard_normal((12_001, 2))
    all_of_them = DN2(k=1).fit(rows).kneighbors(n_neighbors=1)[0][:, 0] ** 2
    found = DN2(k=1).fit(rows).training_scores_
    assert len(found) == 5000
    chosen = np.linspace(0, 12_000, 5000).round().astype(int)
    np.testing.assert_allclose(found, all_of_them[chosen], rtol=1e-6)


def test_training_scores_of_centres_leave_the_row_out_of_its_mean():
    rows = np.concatenate([TRAIN[:9], TRAIN[9:20] + 100, TRAIN[20:21] - 100])
    expected = [
        KMeansDN2(k=1, centres=3 if i < 20 else 2)
        .fit(np.delete(rows, i, axis=0))
        .anomaly_score(rows[i : i + 1])[0]
        for i in range(len(rows))
    ]
    found = KMeansDN2(k=1, centres=3).fit(rows).training_scores_
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("false_alarms", "n", "rank"),
    [(0.05, 60, 58), (0, 60, 60), (0.5, 60, 31), (0.01, 60, 60), (0.29, 99, 71)],
)
def test_the_threshold_is_a_training_score(false_alarms, n, rank):
    fitted = DN2(k=3, false_alarms=false_alarms).fit(RNG.standard_normal((n, 5)))
    assert fitted.offset_ == -np.sort(fitted.training_scores_)[rank - 1]


@pytest.mark.parametrize(
    ("made", "most"),
    [(DN2(k=1), 0.02), (DN2(k=5), 0.02), (KMeansDN2(k=1), 0.06)],
    ids=["k=1", "k=5", "centres"],
)
@pytest.mark.parametrize("false_alarms", [0.05, 0.2])
def test_new_normal_rows_are_called_anomalous_as_often_as_asked(made, most, false_alarms):
    """Centres have adapted to their rows in more ways than are taken back: 24 % instead of 20 %."""
    rng, alarms = np.random.default_rng(2), []
    for _ in range(30):
        train, new = rng.standard_normal((200, 4)), rng.standard_normal((400, 4))
        fitted = clone(made).set_params(false_alarms=false_alarms).fit(train)
        alarms.append((fitted.predict(new) == -1).mean())
    # a threshold of 200 rows moves by up to 0.03 (one sigma), the mean of 30 by a fifth of that
    assert np.mean(alarms) == pytest.approx(false_alarms, abs=most)


def test_the_methods_say_the_same():
    fitted = DN2(k=3, false_alarms=0.2).fit(TRAIN, np.zeros(60))
    scores = fitted.anomaly_score(TEST)
    np.testing.assert_array_equal(fitted.score_samples(TEST), -scores.astype(float))
    np.testing.assert_array_equal(
        fitted.decision_function(TEST), fitted.score_samples(TEST) - fitted.offset_
    )
    np.testing.assert_array_equal(
        fitted.predict(TEST), np.where(fitted.decision_function(TEST) < 0, -1, 1)
    )
    assert set(fitted.predict(TEST)) == {1, -1}
    np.testing.assert_array_equal(DN2(k=3).fit_predict(TRAIN), DN2(k=3).fit(TRAIN).predict(TRAIN))


def test_the_threshold_follows_its_parameters_and_a_refit():
    fitted = DN2(k=3).fit(TRAIN)
    first = fitted.offset_
    for change in ({"k": 1}, {"false_alarms": 0.5}):
        expected = DN2(**({"k": 3} | change)).fit(TRAIN).offset_
        assert fitted.set_params(**({"k": 3, "false_alarms": 0.05} | change)).offset_ == expected
    assert fitted.set_params(k=3, false_alarms=0.05).offset_ == first
    assert fitted.fit(TRAIN * 2).offset_ == pytest.approx(4 * first)


def test_where_there_is_no_threshold():
    one = DN2(k=1).fit(TRAIN[:1])
    assert one.anomaly_score(TRAIN[:1]).tolist() == [0]
    for fitted in (one, KMeansDN2(k=1, centres=1).fit(TRAIN[:1])):
        with pytest.raises(ValueError, match="at least 2 training rows, got 1 sample: compare"):
            fitted.predict(TEST)
    codes = DN2(index="pq").fit(RNG.standard_normal((1000, 5)))
    assert np.isfinite(codes.score_samples(TEST)).all()
    with pytest.raises(ValueError, match="index='pq' keeps codes of them alone: compare"):
        codes.predict(TEST)
    with pytest.raises(ValueError, match="keeps codes and no rows: give X"):
        codes.kneighbors()
    with pytest.raises(ValueError, match=r"false_alarms must be a fraction .* got 1"):
        DN2().fit(TRAIN).set_params(false_alarms=1).predict(TEST)


# Neighbours


def test_neighbours_are_those_of_scikit_learn():
    fitted, theirs = DN2(k=4).fit(TRAIN), NearestNeighbors(n_neighbors=4).fit(TRAIN)
    for X, n in ((TEST, None), (None, None), (TEST, 7), (None, 1)):
        distances, rows = fitted.kneighbors(X, n)
        expected, places = theirs.kneighbors(X, n)
        np.testing.assert_allclose(distances, expected, rtol=1e-5)
        np.testing.assert_array_equal(rows, places)
        np.testing.assert_array_equal(fitted.kneighbors(X, n, False), rows)
    np.testing.assert_allclose(
        (fitted.kneighbors(TEST)[0] ** 2).mean(1), fitted.anomaly_score(TEST), rtol=1e-6
    )


def test_neighbours_are_rows_of_what_was_given():
    rows = np.concatenate([TRAIN[:3] + 50, TRAIN])
    fitted = DN2(k=2, clean=0.1).fit(rows)
    distances, found = fitted.kneighbors(TEST)
    np.testing.assert_allclose(
        np.linalg.norm(rows[found] - TEST[:, None], axis=2), distances, rtol=1e-5
    )


def test_neighbours_among_centres():
    fitted = KMeansDN2(k=5, centres=3)
    with pytest.warns(UserWarning, match="cut to 3"):
        fitted.fit(TRAIN)
    distances, rows = fitted.kneighbors(TEST)
    assert rows.shape == (20, 3)
    np.testing.assert_allclose(
        np.linalg.norm(fitted.centres_[rows] - TEST[:, None], axis=2), distances, rtol=1e-5
    )
    assert fitted.kneighbors(n_neighbors=2)[1].tolist() != [[0, 1], [1, 0], [2, 0]]


@pytest.mark.parametrize("n", [0, 1.5, 61])
def test_a_bad_number_of_neighbours_is_refused(n):
    with pytest.raises(ValueError, match=rf"(k must be|nearest\(k=).*{n}"):
        DN2().fit(TRAIN).kneighbors(TEST, n)


# What comes in


@pytest.mark.parametrize("kind", [DN2, KMeansDN2])
def test_what_is_no_matrix_of_numbers_is_refused_in_one_line(kind):
    fitted = kind().fit(TRAIN)
    for X, error, words in (
        (sparse.csr_matrix(TRAIN), TypeError, "takes a dense array, got a sparse one"),
        (sparse.csr_array(TRAIN), TypeError, "takes a dense array, got a sparse one"),
        (TRAIN + 1j, ValueError, "Complex data not supported"),
        (np.full((20, 5), "a"), ValueError, "takes real numbers, got dtype <U1"),
        (TRAIN[0], ValueError, r"takes a matrix \(rows, columns\), got shape \(5,\)"),
        (TRAIN[:, :0], ValueError, "0 feature"),
        ([[1, 2], [3]], ValueError, "inhomogeneous"),
        (np.where(TRAIN > 1, np.inf, TRAIN), ValueError, "must be finite, got NaN or infinity"),
    ):
        for use in (kind().fit, fitted.predict, fitted.anomaly_score):
            with pytest.raises(error, match=words) as raised:
                use(X)
            assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=f"X has 4 features, but {kind.__name__} is expecting 5"):
        fitted.score_samples(TEST[:, 1:])


@pytest.mark.parametrize(
    "use", ["predict", "score_samples", "decision_function", "kneighbors", "anomaly_score"]
)
@pytest.mark.parametrize("kind", [DN2, KMeansDN2, GroupDN2])
def test_early_use_raises(kind, use):
    with pytest.raises(NotFittedError, match=f"{kind.__name__} has no .* yet: call fit"):
        getattr(kind(), use)(TRAIN.reshape(10, 6, 5) if kind is GroupDN2 else TRAIN)
    assert not hasattr(kind(), "offset_")


def test_lists_and_data_frames_are_taken_and_their_columns_compared():
    fitted = DN2().fit(TRAIN)
    expected = fitted.predict(TEST)
    np.testing.assert_array_equal(DN2().fit(TRAIN.tolist()).predict(TEST.tolist()), expected)
    columns = list("abcde")
    named = DN2().fit(pd.DataFrame(TRAIN, columns=columns))
    assert named.feature_names_in_.tolist() == columns
    assert (named.n_features_in_, fitted.n_features_in_) == (5, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = pd.DataFrame(TEST, columns=columns)
        np.testing.assert_array_equal(named.predict(frame), expected)
    with pytest.raises(ValueError, match="feature names should match"):
        named.predict(frame[columns[::-1]])
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        named.predict(TEST)
    assert not hasattr(named.fit(TRAIN), "feature_names_in_")


# In scikit-learn's hands


@pytest.mark.parametrize("index", INDEXES)
def test_a_fitted_detector_is_pickled(index):
    rows = RNG.standard_normal((1000, 5)).astype(np.float32)
    fitted = DN2(index=index).fit(rows)
    expected = fitted.anomaly_score(TEST)
    copy = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copy.anomaly_score(TEST), expected)
    assert copy.get_params() == fitted.get_params()


def test_a_pickle_holds_the_rows_once():
    fitted = DN2().fit(RNG.standard_normal((1000, 50)))
    fitted.anomaly_score(RNG.standard_normal((3, 50)))
    assert len(pickle.dumps(fitted)) < 1.2 * fitted.bank_.nbytes


def test_cross_validation_and_a_search_over_k():
    X = np.concatenate([TRAIN, TEST + 4])
    y = np.repeat([1, -1], [60, 20])
    normal, odd = np.flatnonzero(y == 1), np.flatnonzero(y == -1)
    folds = [
        (normal[train], np.concatenate([normal[test], odd]))
        for train, test in KFold(3).split(normal)
    ]
    pipeline = make_pipeline(StandardScaler(), DN2())
    values = cross_val_score(pipeline, X, y, cv=folds, scoring="roc_auc")
    for value, (train, test) in zip(values, folds, strict=True):
        scaler = StandardScaler().fit(X[train])
        scores = DN2().fit(scaler.transform(X[train])).anomaly_score(scaler.transform(X[test]))
        assert value == pytest.approx(roc_auc_score(y[test] == -1, scores))
    search = GridSearchCV(pipeline, {"dn2__k": [1, 30]}, cv=folds, scoring="roc_auc").fit(X, y)
    assert set(search.cv_results_["param_dn2__k"]) == {1, 30}
    assert search.best_score_ > 0.9
    assert clone(pipeline).set_params(dn2__k=7)["dn2"].k == 7
    assert "DN2(k=2" in repr(pipeline)
    assert "DN2" in pipeline._repr_html_()
    assert DN2Plus().fit_predict(X).shape == (80,)
