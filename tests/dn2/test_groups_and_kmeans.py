"""The two relatives of DN2: pooled sets, and cluster centres."""

import doctest
import subprocess
import sys
import warnings
from pathlib import Path

import faiss
import numpy as np
import pytest

from dn2 import groups, kmeans
from dn2.detector import DN2
from dn2.groups import POOLS, GroupDN2
from dn2.kmeans import KMeansDN2

ROOT = Path(__file__).parent.parent.parent
RNG = np.random.default_rng(0)
SETS, MORE_SETS = (
    RNG.standard_normal((30, 4, 6)).astype(np.float32),
    RNG.standard_normal((20, 4, 6)).astype(np.float32),
)
ROWS, MORE_ROWS = SETS.reshape(-1, 6), MORE_SETS.reshape(-1, 6)
BY_HAND = {
    "mean": lambda X: np.array(
        [[sum(member[c] for member in one) / len(one) for c in range(6)] for one in X.astype(float)]
    ),
    "max": lambda X: np.array([[max(member[c] for member in one) for c in range(6)] for one in X]),
    "concat": lambda X: np.array([np.concatenate(list(one)) for one in X]),
}


@pytest.mark.parametrize("pool", POOLS)
def test_groups_are_pooled_and_then_scored_by_dn2(pool):
    scores = GroupDN2(k=3, pool=pool).fit(SETS).anomaly_score(MORE_SETS)
    expected = DN2(k=3).fit(BY_HAND[pool](SETS)).anomaly_score(BY_HAND[pool](MORE_SETS))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


@pytest.mark.parametrize("pool", POOLS)
def test_only_concatenation_knows_the_order_of_members(pool):
    fitted = GroupDN2(pool=pool).fit(SETS)
    same = np.allclose(
        fitted.anomaly_score(MORE_SETS[:, ::-1]), fitted.anomaly_score(MORE_SETS), rtol=1e-5
    )
    assert same == (pool != "concat")


@pytest.mark.parametrize(
    ("fit", "score", "message"),
    [
        (ROWS, MORE_SETS, r"takes sets \(n, size, d\).* got shape \(120, 6\): use DN2"),
        (SETS, MORE_ROWS, r"takes sets .* got shape \(80, 6\)"),
        (SETS[:, :0], MORE_SETS, r"got shape \(30, 0, 6\)"),
        (SETS, MORE_SETS[:, :, 1:], "has 5 features, but DN2 is expecting 6 features"),
    ],
)
def test_what_is_no_set_is_refused(fit, score, message):
    with pytest.raises(ValueError, match=message):
        GroupDN2().fit(fit).anomaly_score(score)


def test_bad_parameters_are_known_before_the_fit():
    with pytest.raises(ValueError, match="pool 'avg' is unknown: there are mean, max, concat"):
        GroupDN2(pool="avg").check_rows(100)
    with pytest.raises(ValueError, match="k must be an integer of at least 1, got 0"):
        GroupDN2(k=0).check_rows(100)
    for centres in (0, -1, 2.0, True, "3"):
        with pytest.raises(
            ValueError, match=f"centres must be an integer of at least 1, got {centres!r}"
        ):
            KMeansDN2(centres=centres).check_rows(100)
    with pytest.raises(ValueError, match="k must be an integer"):
        KMeansDN2(k=0).check_rows(100)


def test_scores_are_mean_squared_distances_to_the_nearest_centres():
    fitted = KMeansDN2(k=2, centres=7).fit(ROWS)
    distances = np.sort(
        ((MORE_ROWS[:, None].astype(float) - fitted.centres_.astype(float)) ** 2).sum(2), axis=1
    )
    np.testing.assert_allclose(fitted.anomaly_score(MORE_ROWS), distances[:, :2].mean(1), rtol=1e-6)


def test_centres_are_those_of_k_means():
    """Each is the mean of the rows nearest to it, and one centre is the mean of all rows."""
    centres = KMeansDN2(k=1, centres=4).fit(ROWS).centres_.astype(float)
    nearest = ((ROWS[:, None] - centres) ** 2).sum(2).argmin(1)
    for number in range(4):
        np.testing.assert_allclose(centres[number], ROWS[nearest == number].mean(0), atol=1e-5)
    np.testing.assert_allclose(
        KMeansDN2(k=1, centres=1).fit(ROWS).centres_[0], ROWS.mean(0), atol=1e-6
    )


def test_all_rows_count_and_as_many_centres_as_rows_are_the_rows():
    rows = RNG.standard_normal((3000, 2))
    np.testing.assert_allclose(
        KMeansDN2(k=1, centres=1).fit(rows).centres_[0], rows.mean(0), atol=1e-6
    )
    centres = KMeansDN2(k=1, centres=9).fit(ROWS[:9]).centres_
    np.testing.assert_array_equal(centres[np.lexsort(centres.T)], ROWS[:9][np.lexsort(ROWS[:9].T)])


def test_the_seed_and_not_the_threads_decide_the_centres():
    rows = RNG.standard_normal((500, 6))
    first = KMeansDN2(centres=20, seed=3).fit(rows).centres_
    before = faiss.omp_get_max_threads()
    try:
        for threads in (1, 2):
            faiss.omp_set_num_threads(threads)
            np.testing.assert_array_equal(KMeansDN2(centres=20, seed=3).fit(rows).centres_, first)
            assert faiss.omp_get_max_threads() == threads
    finally:
        faiss.omp_set_num_threads(before)
    assert not np.array_equal(KMeansDN2(centres=20, seed=4).fit(rows).centres_, first)


def test_k_is_cut_to_the_centres_with_a_warning():
    with pytest.warns(
        UserWarning,
        match=r"KMeansDN2\(k=5, centres=3\): there are fewer centres than k, which is cut to 3",
    ):
        scores = KMeansDN2(k=5, centres=3).fit(ROWS).anomaly_score(MORE_ROWS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(
            KMeansDN2(k=3, centres=3).fit(ROWS).anomaly_score(MORE_ROWS), scores
        )


def test_equal_rows_have_centres_too():
    assert np.isfinite(
        KMeansDN2(k=2, centres=5).fit(np.ones((20, 3))).anomaly_score(np.ones((4, 3)))
    ).all()


def test_nothing_is_printed_and_faiss_is_imported_late():
    code = """
import sys, numpy as np
from dn2.kmeans import KMeansDN2
assert "faiss" not in sys.modules
KMeansDN2(centres=3).fit(np.random.default_rng(0).random((5, 2)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_examples_in_the_docstrings():
    assert doctest.testmod(groups) == (0, 2)
    assert doctest.testmod(kmeans) == (0, 5)
