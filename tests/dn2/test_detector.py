import doctest

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from dn2 import detector
from dn2.detector import DN2


def rows(n, seed, offset=0.0):
    return (np.random.default_rng(seed).standard_normal((n, 12)) + offset).astype(np.float32)


TRAIN, TEST = np.concatenate([rows(60, 0), rows(5, 0), rows(20, 1, 3.0)]), rows(40, 2)


@pytest.mark.parametrize("k", [1, 2, 7, 85])
@pytest.mark.parametrize("index", ["exact", "flat"])
def test_score_is_the_mean_squared_distance_to_the_k_nearest(k, index):
    distances = np.sort(((TEST[:, None].astype(float) - TRAIN.astype(float)) ** 2).sum(2), axis=1)
    scores = DN2(k=k, index=index).fit(TRAIN).anomaly_score(TEST)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(
        scores, distances[:, :k].mean(1), rtol=1e-6 if index == "exact" else 1e-4
    )


def test_many_neighbours_are_added_in_float64():
    train, test = rows(20_000, 3)[:, :2], TEST[:3, :2]
    distances = ((test[:, None].astype(float) - train.astype(float)) ** 2).sum(2)
    np.testing.assert_allclose(
        DN2(k=20_000).fit(train).anomaly_score(test), distances.mean(1), rtol=2e-7
    )


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_path_equals_each_k_to_the_last_bit_and_names_the_nearest_rows(offset):
    train, test = TRAIN + np.float32(offset), TEST + np.float32(offset)
    order = np.argsort(
        ((test[:, None].astype(float) - train.astype(float)) ** 2).sum(2), axis=1, kind="stable"
    )
    points = list(DN2(k=25).fit(train).score_path(test))
    assert [params for params, _, _ in points] == [{"k": j} for j in range(1, 26)]
    for params, scores, nearest in points:
        np.testing.assert_array_equal(scores, DN2(**params).fit(train).anomaly_score(test))
        np.testing.assert_array_equal(nearest, order[:, : params["k"]])


def test_changing_a_point_of_a_path_changes_no_other():
    (_, scores, nearest), (_, kept, _) = DN2().fit(TRAIN).score_path(TEST)
    expected = kept.copy()
    scores[:] = 0
    np.testing.assert_array_equal(kept, expected)
    with pytest.raises(ValueError, match="read-only"):
        nearest[:] = 0


def test_a_training_row_scores_zero_and_distance_scores_high():
    scores = DN2(k=1).fit(TRAIN).anomaly_score(np.concatenate([TRAIN[:3], rows(3, 3, 50.0)]))
    assert (scores[:3] == 0).all()
    assert (scores[3:] > 1000).all()


def test_fit_keeps_its_own_float32_copy():
    given = TRAIN.astype(np.float64)
    fitted = DN2().fit(given, monitor=print, checkpoint=None)
    scores = fitted.anomaly_score(TEST)
    given[:] = 0
    assert fitted.bank_.dtype == np.float32
    np.testing.assert_array_equal(fitted.bank_, TRAIN)
    np.testing.assert_array_equal(fitted.anomaly_score(TEST), scores)


def test_a_constructor_checks_nothing_and_a_refit_forgets():
    fitted = DN2(k=0, index="nonsense")
    assert vars(fitted) == {
        "k": 0,
        "index": "nonsense",
        "clean": 0.0,
        "false_alarms": 0.05,
    }
    fitted.k, fitted.index = 2, "exact"
    scores = fitted.fit(TRAIN[:30] + 1).fit(TRAIN).anomaly_score(TEST)
    np.testing.assert_array_equal(scores, DN2().fit(TRAIN).anomaly_score(TEST))


@pytest.mark.parametrize(
    "use", [lambda d: d.anomaly_score(TEST), lambda d: next(d.score_path(TEST))]
)
def test_early_use_raises(use):
    with pytest.raises(NotFittedError, match="call fit before scoring"):
        use(DN2())


@pytest.mark.parametrize("k", [0, -1, 2.0, "2", None, True])
def test_k_must_be_a_positive_integer(k):
    for check in (lambda: DN2(k=k).check_rows(100), lambda: DN2(k=k).fit(TRAIN)):
        with pytest.raises(ValueError, match=rf"^k must be an integer of at least 1, got {k!r}$"):
            check()


def test_too_few_rows_are_refused():
    message = (
        r"^DN2\(k=5\) needs at least 5 training rows, got 3: lower k or train on more images\.$"
    )
    for check in (lambda: DN2(k=5).check_rows(3), lambda: DN2(k=5).fit(TRAIN[:3])):
        with pytest.raises(ValueError, match=message):
            check()
    with pytest.raises(ValueError, match="got 0"):
        DN2(k=1).fit(TRAIN[:0])
    DN2(k=5).check_rows(5)
    DN2(k=5).fit(TRAIN[:5])


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.where(np.arange(12) == 3, np.nan, TRAIN), "finite"),
        (np.full((85, 12), 1e39), "finite"),
        (TRAIN[0], "matrix"),
        (TRAIN[None].repeat(9, 0), "matrix"),
        (np.float32(3), "matrix"),
    ],
)
def test_fit_refuses_what_is_no_finite_matrix(X, message):
    with pytest.raises(ValueError, match=message):
        DN2().fit(X)


def test_scoring_refuses_what_does_not_fit_the_bank():
    fitted = DN2().fit(TRAIN)
    for X, message in (
        (TEST[:, 1:], "X has 11 features, but DN2 is expecting 12 features as input"),
        (TEST * np.nan, "finite"),
        (TEST[0], "matrix"),
        (TEST[:0], "at least one"),
    ):
        with pytest.raises(ValueError, match=message):
            fitted.anomaly_score(X)
    with pytest.raises(ValueError, match="did you mean 'exact'"):
        DN2(index="exat").fit(TRAIN)


def test_examples_in_the_docstrings():
    assert doctest.testmod(detector) == (0, 4)
