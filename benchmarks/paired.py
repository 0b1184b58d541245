"""Is one method really better than another? Tests on the same test images, and on many data sets.

In this order: two methods on one split (DeLong), two methods over splits (bootstrap), several tests
at once (Holm), several methods on several data sets (Friedman, Nemenyi).

A difference is that of the first minus the second, so it is positive if the first is better. All
tests are two-sided. They say what other test images would change; training is not repeated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.metrics import Z95, Resampled, placements, rocauc

LEVEL = 0.05
"""A difference with a smaller p is called real."""


class Difference(NamedTuple):
    """Hold a difference with its 95 % interval and its p-value: ``low <= value <= high``.

    The interval excludes 0 if and only if p is below 0.05, but for rounding.
    """

    value: float
    low: float
    high: float
    p: float


def paired_delong(is_anomaly: np.ndarray, scores_a: np.ndarray, scores_b: np.ndarray) -> Difference:
    """Test the difference of two ROCAUCs on the same images.

    With the placements of `benchmarks.metrics.placements`, and d their differences, the variance is
    v_a + v_n, where v_a = var(d over anomalies) / n_anomalous, and v_n likewise for normal images.
    The interval is value -+ t * sqrt(variance), and p is that of Student's t distribution with
    Welch and Satterthwaite's degrees of freedom, (v_a + v_n) ** 2 / (v_a ** 2 / (n_anomalous - 1) +
    v_n ** 2 / (n_normal - 1)). DeLong takes a normal distribution, under which equal methods with
    few images in a class differ too often. It takes two sorts.

    If nothing varies, no variance says how large the difference is by chance. This is so if a class
    has a single image, or if each method separates perfectly or gives equal scores to all. Then the
    interval reaches from the one's lower to the other's upper bound, and p is that of the sign test
    for as many images as the smaller class has: 2 * 0.5 ** n. Methods that rank all images equally
    have a difference of exactly 0.

    Parameters
    ----------
    is_anomaly : ndarray of shape (n,), bool
    scores_a, scores_b : ndarray of shape (n,), real
        Higher is more anomalous.

    Raises
    ------
    ValueError
        As for `benchmarks.metrics.auroc`.

    References
    ----------
    DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988).

    Examples
    --------
    >>> labels = np.array([False, False, False, True, True, True])
    >>> found = paired_delong(labels, np.array([1, 2, 3, 3, 4, 5]), np.array([1, 2, 3, 1, 1, 5]))
    >>> round(found.value, 3), round(found.p, 3)
    (0.5, 0.179)
    """
    is_anomaly = np.asarray(is_anomaly)
    placed_a, placed_b = placements(is_anomaly, scores_a), placements(is_anomaly, scores_b)
    of_anomalies, of_normal = (placed_a - placed_b)[is_anomaly], (placed_a - placed_b)[~is_anomaly]
    value = float(placed_a[is_anomaly].mean() - placed_b[is_anomaly].mean())
    smaller = min(len(of_anomalies), len(of_normal))
    if smaller > 1:
        parts = [float(one.var(ddof=1)) / len(one) for one in (of_anomalies, of_normal)]
        error = math.sqrt(sum(parts))
        if error > _ROUNDING:
            sizes = len(of_anomalies), len(of_normal)
            freedom = sum(parts) ** 2 / sum(
                part**2 / (size - 1) for part, size in zip(parts, sizes, strict=True)
            )
            return _by_t(value, error, freedom)
    if not np.any(of_anomalies) and not np.any(of_normal) and 0 < placed_a.mean() < 1:
        return Difference(0.0, 0.0, 0.0, 1.0)
    one, other = rocauc(is_anomaly, scores_a), rocauc(is_anomaly, scores_b)
    return Difference(
        value,
        max(one.low - other.high, -1.0),
        min(one.high - other.low, 1.0),
        _sign_test(value, smaller),
    )


def paired_mean(a: Resampled, b: Resampled) -> Difference:
    """Test the difference of two means over splits, by a bootstrap over the test images.

    Each replicate weights the test images once, for both methods and all splits, so what the
    methods have in common drops out: see `benchmarks.metrics.mean_rocauc`. The standard error is
    that of the differences in the replicates. The interval is value -+ 1.96 standard errors, and p
    is that of a normal distribution, since a p that is counted cannot be smaller than one over the
    replicates, too coarse for many tests at once.

    If no replicate differs from another, the bounds are means over the splits of those that
    `paired_delong` gives where nothing varies. p is the largest of the sign tests of the splits in
    which the methods differ.

    Parameters
    ----------
    a, b : Resampled
        Of the same test images, seed and number of replicates.

    Raises
    ------
    ValueError
        If they were resampled otherwise.
    """
    if a.test_set != b.test_set or a.means.shape != b.means.shape:
        raise ValueError(
            "a paired test needs the same test images and replicates: resample both alike"
        )
    pairs = list(zip(a.each, b.each, strict=True))
    value = float(np.mean([one.value - two.value for one, two in pairs]))
    error = float((a.means - b.means).std(ddof=1))
    if error > _ROUNDING:
        p = math.erfc(abs(value) / error / math.sqrt(2))
        return Difference(value, max(value - Z95 * error, -1.0), min(value + Z95 * error, 1.0), p)
    # Without a variance, methods that agree in between do so image by image.
    unequal = [
        (one, two, smaller)
        for (one, two), smaller in zip(pairs, a.smaller, strict=True)
        if one.value != two.value or one.value in (0.0, 1.0)
    ]
    low = sum(max(one.low - two.high, -1.0) for one, two, _ in unequal) / len(pairs)
    high = sum(min(one.high - two.low, 1.0) for one, two, _ in unequal) / len(pairs)
    tests = [
        _sign_test(one.value - two.value, smaller)
        for one, two, smaller in unequal
        if one.value != two.value
    ]
    return Difference(value, low, high, 1.0 if value == 0 else max(tests))


_ROUNDING = 1e-12
"""A standard error below this comes from rounding: the next fractions of images are far above."""


def _sign_test(value: float, n: int) -> float:
    """Compute p where all of n images speak for one side, or none for any."""
    return 1.0 if value == 0 else min(1.0, 2 * 0.5**n)


def _by_t(value: float, error: float, freedom: float) -> Difference:
    from scipy.special import stdtr, stdtrit

    reach = float(stdtrit(freedom, 0.975)) * error
    p = 2 * float(stdtr(freedom, -abs(value) / error))
    return Difference(value, max(value - reach, -1.0), min(value + reach, 1.0), p)


def holm(p: Sequence[float]) -> list[float]:
    """Correct p-values for the number of tests, after Holm: the chance of one false alarm stays.

    The smallest p is multiplied by the number of tests m, the next by m - 1, and so on; none
    becomes smaller than the one before it, nor larger than 1.

    References
    ----------
    Holm, Scandinavian Journal of Statistics 6 (1979).

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, float)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(steps, 1.0)
    return [float(value) for value in corrected]


class Friedman(NamedTuple):
    """Hold the result of a Friedman test.

    Attributes
    ----------
    mean_ranks : ndarray of shape (n_methods,)
        1 is the best.
    chi2 : float
        Friedman's statistic.
    f : float
        Iman and Davenport's statistic, which is less conservative.
    p : float
        Of ``f``.
    """

    mean_ranks: np.ndarray
    chi2: float
    f: float
    p: float


def friedman(values: np.ndarray) -> Friedman:
    """Test whether several methods differ, each measured on the same data sets.

    With N data sets, k methods and mean ranks R, chi2 = 12 N / (k (k + 1)) * (sum of R ** 2 -
    k (k + 1) ** 2 / 4), and F = (N - 1) chi2 / (N (k - 1) - chi2) with k - 1 and (k - 1) (N - 1)
    degrees of freedom. Equal values share their mean rank, without a correction of chi2, which is
    then too small. p is never below (1 / k!) ** (N - 1), the chance that N data sets rank k methods
    equally.

    Parameters
    ----------
    values : ndarray of shape (n_datasets, n_methods)
        Higher is better.

    Raises
    ------
    ValueError
        If there are fewer than three methods or two data sets.

    References
    ----------
    Demsar, Journal of Machine Learning Research 7 (2006), section 3.2.2.
    """
    from scipy.special import fdtrc
    from scipy.stats import rankdata

    n, k = _check_values(values)
    mean_ranks = rankdata(-np.asarray(values), axis=1).mean(axis=0)
    chi2 = 12 * n / (k * (k + 1)) * float((mean_ranks**2).sum() - k * (k + 1) ** 2 / 4)
    chi2 = max(chi2, 0.0)
    rest = n * (k - 1) - chi2
    f = math.inf if rest < 1e-9 else (n - 1) * chi2 / rest
    p = 0.0 if math.isinf(f) else float(fdtrc(k - 1, (k - 1) * (n - 1), f))
    return Friedman(mean_ranks, chi2, f, max(p, (1 / math.factorial(k)) ** (n - 1)))


def nemenyi(values: np.ndarray) -> float:
    """Compute the critical difference: mean ranks that differ by as much differ really.

    It is q * sqrt(k (k + 1) / (6 N)), where q is the 95 % point of the studentized range of k
    methods, divided by sqrt(2). It holds for all pairs at once. If it is k - 1 or more, no mean
    ranks can differ by so much: there are too few data sets.

    Parameters and errors are those of `friedman`.

    References
    ----------
    Demsar, Journal of Machine Learning Research 7 (2006), section 3.2.2.
    """
    from scipy.stats import studentized_range

    n, k = _check_values(values)
    q = float(studentized_range.ppf(1 - LEVEL, k, math.inf)) / math.sqrt(2)
    return q * math.sqrt(k * (k + 1) / (6 * n))


def _check_values(values: np.ndarray) -> tuple[int, int]:
    n, k = np.asarray(values).shape
    if n < 2 or k < 3:
        raise ValueError(
            f"ranks need at least 3 methods on 2 data sets, got {k} methods on {n}: "
            "compare two methods as a pair"
        )
    return n, k
