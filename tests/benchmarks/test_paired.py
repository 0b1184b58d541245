"""Tests of differences, against definitions written out, scikit-learn, SciPy and a published case.

Simulations check that a difference that is not there is called real in 5 % of cases.
"""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import f as f_distribution
from scipy.stats import friedmanchisquare, ttest_ind
from sklearn.metrics import roc_auc_score

from benchmarks.metrics import auroc, resample, resample_all
from benchmarks.paired import friedman, holm, nemenyi, paired_delong, paired_mean


def two_methods(seed, n=(30, 40), shifts=(1.0, 1.0), shared=0.7, digits=None):
    """Draw labels, and the scores of two methods that share part of their noise."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(sum(n)) < n[0])
    common = np.sqrt(shared) * rng.normal(size=sum(n))
    scores = [
        common + np.sqrt(1 - shared) * rng.normal(size=sum(n)) + shift * labels for shift in shifts
    ]
    return labels, *(scores if digits is None else [one.round(digits) for one in scores])


def wins_of(is_anomaly, scores):
    """Compare each anomaly with each normal image: 1, 0 or a half (O(n ** 2))."""
    anomalous, normal = scores[is_anomaly][:, None], scores[~is_anomaly]
    return (anomalous > normal) + 0.5 * (anomalous == normal)


def delong_by_definition(is_anomaly, *methods):
    """Compute the ROCAUCs and their covariance from all pairs of images."""
    wins = [wins_of(is_anomaly, scores) for scores in methods]
    s10 = np.cov([one.mean(axis=1) for one in wins])
    s01 = np.cov([one.mean(axis=0) for one in wins])
    return [one.mean() for one in wins], s10 / is_anomaly.sum() + s01 / (~is_anomaly).sum()


# Two methods on one split


@pytest.mark.parametrize("digits", [None, 0])
@pytest.mark.parametrize("seed", range(10))
def test_the_fast_test_equals_the_definition(seed, digits):
    labels, a, b = two_methods(seed, (20 + seed, 50 - seed), (1.5, 0.5), digits=digits)
    found = paired_delong(labels, a, b)
    areas, covariance = delong_by_definition(labels, a, b)
    error = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert found.value == pytest.approx(areas[0] - areas[1], abs=1e-12)
    assert found.value == pytest.approx(roc_auc_score(labels, a) - roc_auc_score(labels, b))
    difference = wins_of(labels, a) - wins_of(labels, b)
    of_normal = difference.mean(0)
    welch = ttest_ind(difference.mean(1), of_normal - of_normal.mean(), equal_var=False)
    assert welch.statistic == pytest.approx(found.value / error)
    assert found.p == pytest.approx(welch.pvalue)
    assert found[1:3] == pytest.approx(tuple(welch.confidence_interval()))


def test_p_agrees_with_a_permutation_test():
    """The permutation swaps the ranks that the two methods give an image."""
    labels, a, b = two_methods(4, (60, 80), (1.6, 1.1))
    a, b = a.argsort().argsort(), b.argsort().argsort()
    found = paired_delong(labels, a, b)
    rng = np.random.default_rng(0)
    swapped = []
    for _ in range(1000):
        swap = rng.random(len(a)) < 0.5
        pair = np.where(swap, b, a), np.where(swap, a, b)
        swapped.append(auroc(labels, pair[0]) - auroc(labels, pair[1]))
    counted = np.mean(np.abs(swapped) >= abs(found.value))
    assert 0.001 < found.p < 0.2
    assert found.p == pytest.approx(counted, abs=0.03)


def test_swapping_the_methods_turns_the_sign_and_a_pair_is_narrower_than_two_samples():
    labels, a, b = two_methods(1, shifts=(1.5, 1.0), shared=0.9)
    one, other = paired_delong(labels, a, b), paired_delong(labels, b, a)
    assert other == pytest.approx((-one.value, -one.high, -one.low, one.p))
    _, covariance = delong_by_definition(labels, a, b)
    assert one.high - one.low < 0.7 * 2 * 1.96 * np.sqrt(np.trace(covariance))


def test_the_interval_excludes_zero_exactly_if_p_is_below_one_in_twenty():
    found = [paired_delong(*two_methods(seed, shifts=(1.4, 1.0))) for seed in range(80)]
    real = [one.p < 0.05 for one in found]
    assert 10 < sum(real) < 70
    assert real == [not one.low <= 0 <= one.high for one in found]


@pytest.mark.parametrize("n", [(3, 40), (5, 35), (15, 60), (60, 60)])
def test_a_difference_that_is_not_there_is_called_real_in_one_of_twenty(n):
    found = [paired_delong(*two_methods(seed, n)).p < 0.05 for seed in range(600)]
    assert 0.01 < np.mean(found) < 0.075


def test_equal_rankings_do_not_differ_at_all():
    labels, a, _ = two_methods(0)
    assert paired_delong(labels, a, np.exp(a)) == (0.0, 0.0, 0.0, 1.0)


def test_where_nothing_varies_the_smaller_class_limits_what_can_be_said():
    for smaller, real in ((5, False), (6, True)):
        labels = np.arange(50) < smaller
        found = paired_delong(labels, labels.astype(float), np.zeros(50))
        assert (found.value, found.p) == (0.5, 2 * 0.5**smaller)
        assert (found.low > 0) is real
        assert found.high == 0.5
    perfect = paired_delong(labels, labels + 0.0, labels * 2.0)
    assert (perfect.value, perfect.p) == (0.0, 1.0)
    assert perfect.low < 0 < perfect.high
    alone = np.arange(50) == 7
    found = paired_delong(alone, alone + 0.0, -np.arange(50.0))
    assert found.low < 0 < found.value < found.high
    assert found.p == 1.0


def test_bad_scores_are_refused():
    labels, a, b = two_methods(0)
    with pytest.raises(ValueError, match="finite"):
        paired_delong(labels, a, np.where(labels, np.nan, b))
    with pytest.raises(ValueError, match="normal and anomalous"):
        paired_delong(labels | True, a, b)


# Two methods over splits


def two_of_several_splits(seed, shifts=(1.0, 1.0), per_class=30, shared=0.5):
    """Draw splits over one test set, for two methods that share part of their noise."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(4), per_class)
    image, split = rng.normal(size=len(labels)), rng.normal(size=(4, len(labels)))
    return [
        [
            (
                np.arange(len(labels)),
                labels != c,
                np.sqrt(shared / 2) * (image + split[c])
                + np.sqrt(1 - shared) * rng.normal(size=len(labels))
                + shift * (labels != c),
            )
            for c in range(4)
        ]
        for shift in shifts
    ]


def error_by_expansion(one, other):
    """Compute the standard error of the difference of means from each image's influence."""
    pull = np.zeros(len(one[0][0]))
    for sign, splits in ((1, one), (-1, other)):
        for _, is_anomaly, scores in splits:
            wins = (scores[is_anomaly][:, None] > scores[~is_anomaly]).astype(float)
            for side, part in ((is_anomaly, wins.mean(1)), (~is_anomaly, wins.mean(0))):
                pull[side] += sign * (part - wins.mean()) / side.sum() / len(splits)
    return np.sqrt((pull**2).sum())


@pytest.mark.parametrize("seed", range(3))
def test_the_bootstrap_agrees_with_the_linear_expansion(seed):
    one, other = two_of_several_splits(seed, (1.5, 1.0), per_class=100)
    found = paired_mean(*resample_all([one, other], replicates=3000))
    areas = [np.mean([roc_auc_score(a, s) for _, a, s in splits]) for splits in (one, other)]
    assert found.value == pytest.approx(areas[0] - areas[1], abs=1e-12)
    assert found.high - found.low == pytest.approx(
        2 * 1.96 * error_by_expansion(one, other), rel=0.06
    )


def test_means_that_do_not_differ_are_called_real_in_one_of_twenty():
    found = [
        paired_mean(*resample_all(two_of_several_splits(seed), replicates=200)).p < 0.05
        for seed in range(300)
    ]
    assert 0.02 < np.mean(found) < 0.09


def test_methods_resampled_apart_are_weighted_alike():
    one, other = two_of_several_splits(0, (1.5, 1.0))
    together = resample_all([one, other], replicates=50)
    alone = [resample(splits, replicates=50) for splits in (one, other)]
    assert paired_mean(*together) == paired_mean(*alone)
    assert together[0].mean == alone[0].mean
    order = np.random.default_rng(0).permutation(len(one[0][0]))
    mixed = [(rows[order], labels[order], scores[order]) for rows, labels, scores in other]
    assert paired_mean(together[0], resample(mixed, replicates=50)) == pytest.approx(
        paired_mean(*together), abs=1e-12
    )


def test_a_method_does_not_differ_from_itself_nor_perfect_ones_from_each_other():
    one, _ = two_of_several_splits(0)
    same = paired_mean(*resample_all([one, one], replicates=50))
    assert (same.value, same.p) == (0.0, 1.0)
    perfect = [(rows, labels, labels + 0.0) for rows, labels, _ in one]
    each = [paired_delong(labels, labels + 0.0, labels + 0.0) for _, labels, _ in perfect]
    found = paired_mean(*resample_all([perfect, perfect], replicates=50))
    assert found == pytest.approx((0.0, each[0].low, each[0].high, 1.0))


@pytest.mark.parametrize("per_class", [5, 30])
@pytest.mark.parametrize("worse", ["constant", "reversed"])
def test_where_no_mean_varies_the_splits_say_what_is_known(per_class, worse):
    one, _ = two_of_several_splits(0, per_class=per_class)
    perfect = [(rows, labels, labels + 0.0) for rows, labels, _ in one]
    bad = [
        (rows, labels, labels * (0.0 if worse == "constant" else -1.0)) for rows, labels, _ in one
    ]
    found = paired_mean(*resample_all([perfect, bad], replicates=50))
    each = [paired_delong(labels, labels + 0.0, scores) for _, labels, scores in bad]
    assert found == pytest.approx(tuple(np.mean(each, axis=0)))
    assert found.p == 2 * 0.5**per_class
    assert (found.p < 0.05) is (found.low > 0) is (per_class == 30)


def test_splits_in_which_methods_agree_do_not_hide_a_difference_in_others():
    one, _ = two_of_several_splits(0)
    other = [
        (rows, labels, labels * 0.0) if not n else (rows, labels, scores)
        for n, (rows, labels, scores) in enumerate(one)
    ]
    first = [
        (rows, labels, labels + 0.0) if not n else (rows, labels, scores)
        for n, (rows, labels, scores) in enumerate(one)
    ]
    found = paired_mean(*resample_all([first, other], replicates=50))
    alone = paired_delong(one[0][1], one[0][1] + 0.0, one[0][1] * 0.0)
    assert found == pytest.approx((*(np.array(alone[:3]) / 4), alone.p))


def test_other_test_images_are_refused():
    one, other = two_of_several_splits(0)
    moved = [(rows + 1, labels, scores) for rows, labels, scores in other]
    turned = [(rows, ~labels, scores) for rows, labels, scores in other]
    for wrong in (moved, turned, other[:3]):
        with pytest.raises(ValueError, match="same test rows"):
            resample_all([one, wrong], replicates=10)
        with pytest.raises(ValueError, match="same test images"):
            paired_mean(resample(one, replicates=10), resample(wrong, replicates=10))
    with pytest.raises(ValueError, match="replicates"):
        paired_mean(resample(one, replicates=10), resample(other, replicates=11))


# Several tests at once


def holm_by_closure(p):
    """Correct p by the closed test: the largest Bonferroni p of all sets with the hypothesis."""
    numbers = range(len(p))
    sets = [one for size in numbers for one in combinations(numbers, size + 1)]
    return [
        max(min(1.0, len(one) * min(p[other] for other in one)) for one in sets if number in one)
        for number in numbers
    ]


@pytest.mark.parametrize("seed", range(10))
def test_holm_equals_the_closed_test(seed):
    p = np.random.default_rng(seed).random(1 + seed % 7) ** 3
    assert holm(p) == pytest.approx(holm_by_closure(p))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


# Several methods on several data sets

DEMSAR = np.array(
    [
        [4, 3, 2, 1],
        [1, 2, 3, 4],
        [4, 1, 2, 3],
        [4, 1, 3, 2],
        [4, 2, 3, 1],
        [1, 2.5, 4, 2.5],
        [3, 2, 4, 1],
        [2.5, 2.5, 4, 1],
        [4, 3, 2, 1],
        [2.5, 2.5, 2.5, 2.5],
        [4, 2.5, 1, 2.5],
        [3, 2, 4, 1],
        [4, 1, 2, 3],
        [3, 1, 4, 2],
    ]
)
"""Ranks of C4.5, C4.5+m, C4.5+cf, C4.5+m+cf on 14 data sets: Demsar (2006), table 6."""


def test_a_published_case():
    found = friedman(-DEMSAR)
    assert found.mean_ranks == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=0.0005)
    assert found.chi2 == pytest.approx(9.28, abs=0.005)
    assert found.f == pytest.approx(3.69, abs=0.005)
    assert found.p == pytest.approx(f_distribution.sf(found.f, 3, 39))
    assert nemenyi(-DEMSAR) == pytest.approx(1.25, abs=0.005)


@pytest.mark.parametrize("seed", range(5))
def test_friedman_without_ties_equals_scipy(seed):
    values = np.random.default_rng(seed).normal(size=(6 + seed, 3 + seed % 3))
    assert friedman(values).chi2 == pytest.approx(friedmanchisquare(*values.T).statistic)


@pytest.mark.parametrize(("k", "q"), [(3, 2.343), (5, 2.728), (7, 2.949), (10, 3.164)])
def test_the_critical_difference_has_the_published_quantiles(k, q):
    values = np.random.default_rng(k).random((9, k))
    assert nemenyi(values) / np.sqrt(k * (k + 1) / 54) == pytest.approx(q, abs=0.001)


def test_few_data_sets_cannot_give_a_small_p():
    same_order = np.array([[3.0, 2.0, 1.0]] * 2)
    found = friedman(same_order)
    assert (found.f, found.p) == (np.inf, 1 / 6)
    assert nemenyi(same_order) > 2
    assert friedman(np.ones((4, 3))).p == 1.0


def test_ranks_need_three_methods_and_two_data_sets():
    for shape in ((1, 3), (4, 2)):
        with pytest.raises(ValueError, match="at least 3 methods on 2 data sets"):
            friedman(np.ones(shape))
