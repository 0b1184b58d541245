"""ROCAUC and average precision, with 95 % intervals.

Anomalies are the positive class and higher scores are more anomalous, everywhere. Ties count half.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array
from scipy.special import expit, logit

from benchmarks.contracts import Interval

Z95 = 1.959963984540054
"""The 97.5 % point of the normal distribution: two-sided 95 %."""


def auroc(is_anomaly: np.ndarray, scores: np.ndarray) -> float:
    """Probability that an anomaly scores higher than a normal image, ties counting half: sum of ranks, no curve.

    Parameters
    ----------
    is_anomaly : ndarray of shape (n,), bool
    scores : ndarray of shape (n,), real
        Higher is more anomalous.

    Returns
    -------
    float
        In [0, 1]; 0.5 is chance. Exact: the counts are integers until the last division.

    Raises
    ------
    ValueError
        If one class is missing, a score is NaN or infinite, the shapes differ or the labels are not booleans.

    Examples
    --------
    >>> auroc(np.array([False, False, True, True]), np.array([0.1, 0.4, 0.4, 0.8]))
    0.875
    """
    normal, anomalous = _two_samples(is_anomaly, scores)
    return float(_twice_count_below(anomalous, normal).sum() / (2 * len(normal) * len(anomalous)))


def rocauc(is_anomaly: np.ndarray, scores: np.ndarray) -> Interval:
    """ROCAUC with DeLong's 95 % interval, made on the logit scale so that it stays inside [0, 1].

    With p_j the share of normal images below anomaly j and q_i the share of anomalies above normal image i,
    variance = var(p) / n_anomalous + var(q) / n_normal, and the bounds are
    expit(logit(a) -+ 1.96 * sqrt(variance) / (a * (1 - a))).

    Two cases have no such variance. A perfect separation (0 or 1) gets the Clopper-Pearson bound of s successes in s trials,
    s being the size of the smaller class; where a class has a single image, the variance is taken as a * (1 - a), its upper
    bound a * (1 - a) / s for s = 1. Both are wide on purpose. Equal scores everywhere give 0.5 with an interval of no width.

    Parameters, errors: as `auroc`.

    References
    ----------
    DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988); logit scale: Pepe, The Statistical Evaluation of Medical Tests
    (2003), section 5.2; upper bound of the variance: van Dantzig (1951).
    """
    normal, anomalous = _two_samples(is_anomaly, scores)
    smaller = min(len(normal), len(anomalous))
    twice_below = _twice_count_below(anomalous, normal)
    value = float(twice_below.sum() / (2 * len(normal) * len(anomalous)))
    if value in (0.0, 1.0):
        bound = 0.025 ** (1 / smaller)
        return Interval(value, bound, 1.0) if value == 1.0 else Interval(value, 0.0, 1 - bound)
    if smaller == 1:
        variance = value * (1 - value)
    else:
        below = twice_below / (2 * len(normal))
        above = 1 - _twice_count_below(normal, anomalous) / (2 * len(anomalous))
        variance = below.var(ddof=1) / len(anomalous) + above.var(ddof=1) / len(normal)
    half_width = Z95 * np.sqrt(variance) / (value * (1 - value))
    low, high = expit(logit(value) - half_width), expit(logit(value) + half_width)
    return Interval(value, min(float(low), value), max(float(high), value))


def mean_rocauc(
    splits: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> Interval:
    """Mean ROCAUC over splits with a 95 % percentile interval from a bootstrap over the test images, which the splits share.

    The same image is normal in one split and an anomaly in the others, so the splits are not independent and their intervals
    cannot be averaged. Each replicate gives every test image one weight, used in all splits. The weights are drawn from an
    exponential distribution (the Bayesian bootstrap): within each class of each split they are then a uniform draw of shares, so
    no replicate can lose a class, however small, and no stratification is needed. Training is not repeated: the
    interval tells how far the number would move with other test images, not with other training images.

    A single split gets its DeLong interval. If all splits are separated perfectly, no resampling can move the mean, and
    the bounds are the means of theirs, as if they rose and fell together.

    Parameters
    ----------
    splits : sequence of (rows, is_anomaly, scores)
        Rows, (n,) or (n, size), tell which test images are the same in two splits (a row of several images is one unit);
        the splits' rows may be in any order and overlap in part. The other two are as in `auroc`.
    replicates : int, default=1000
    seed : int, default=0

    Raises
    ------
    ValueError
        As `auroc`; also without splits, or if rows and scores differ in length.

    References
    ----------
    Rubin, The Bayesian Bootstrap, Annals of Statistics 9 (1981).
    """
    if not splits:
        raise ValueError(
            "mean_rocauc needs at least one split, got none: pass (rows, is_anomaly, scores) for each"
        )
    for rows, _, scores in splits:
        if len(rows) != len(scores):
            raise ValueError(
                f"mean_rocauc needs one row number a score, got {len(rows)} rows and {len(scores)} scores"
            )
    each = [rocauc(is_anomaly, scores) for _, is_anomaly, scores in splits]
    value = float(np.mean([one.value for one in each]))
    if len(each) == 1 or all(one.value in (0.0, 1.0) for one in each):
        return Interval(
            value,
            float(np.mean([one.low for one in each])),
            float(np.mean([one.high for one in each])),
        )
    rows = np.concatenate([rows for rows, _, _ in splits])
    units, unit_of_row = np.unique(rows, axis=0, return_inverse=True)
    ends = np.cumsum([len(scores) for _, _, scores in splits])
    counts = [
        _Counts(
            unit_of_row.ravel()[end - len(scores) : end],
            np.asarray(is_anomaly),
            np.asarray(scores),
            len(units),
        )
        for end, (_, is_anomaly, scores) in zip(ends, splits, strict=True)
    ]
    rng = np.random.default_rng(seed)
    block = max(1, 500_000 // len(units))  # weights of 4 MB: they stay in the cache
    means = []
    for start in range(0, replicates, block):
        weights = rng.standard_exponential((len(units), min(block, replicates - start)))
        means.append(np.mean([count.auroc(weights) for count in counts], axis=0))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Interval(value, min(float(low), value), max(float(high), value))


def average_precision(is_anomaly: np.ndarray, scores: np.ndarray) -> float:
    """Area under the precision-recall curve as a sum of steps, anomalies positive: sum of (R_t - R_(t-1)) * P_t over thresholds.

    Chance is the prevalence of anomalies (0.9 in one-vs-rest on ten classes), so the two are read together.
    Parameters, errors: as `auroc`.
    """
    normal, anomalous = _two_samples(is_anomaly, scores)
    found = len(anomalous) - np.searchsorted(anomalous, anomalous, side="left")
    false = len(normal) - np.searchsorted(normal, anomalous, side="left")
    return float(np.mean(found / (found + false)))


def split_metrics(is_anomaly: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Every metric of one split, as `contracts.Result.metrics` holds them. Parameters, errors: as `auroc`."""
    area = rocauc(is_anomaly, scores)
    return {
        "rocauc": area.value,
        "rocauc_low": area.low,
        "rocauc_high": area.high,
        "average_precision": average_precision(is_anomaly, scores),
        "prevalence": float(np.mean(is_anomaly)),
    }


class _Counts:
    """One split, sorted once: the weighted ROCAUC under many weightings of the test images is then two sparse products.

    The distinct scores of the smaller class cut the line into points and gaps; the larger class is summed in each.
    """

    def __init__(
        self, units: np.ndarray, is_anomaly: np.ndarray, scores: np.ndarray, n_units: int
    ) -> None:
        self.few_are_anomalies = 2 * is_anomaly.sum() <= len(is_anomaly)
        is_few = is_anomaly == self.few_are_anomalies
        points, place = np.unique(scores[is_few], return_inverse=True)
        gap = np.searchsorted(points, scores[~is_few], "left") + np.searchsorted(
            points, scores[~is_few], "right"
        )
        self.few = _sums(place, units[is_few], (len(points), n_units))
        self.many = _sums(gap, units[~is_few], (2 * len(points) + 1, n_units))

    def auroc(self, weights: np.ndarray) -> np.ndarray:
        """Weighted ROCAUC, shape (replicates,), for weights of shape (n_units, replicates)."""
        few, many = self.few @ weights, self.many @ weights
        upto = np.cumsum(many, axis=0)
        below = (
            upto[0:-1:2] + upto[1::2]
        ) / 2  # gap 2i lies below point i, gap 2i + 1 holds its ties
        share = np.einsum("pr,pr->r", few, below) / (few.sum(axis=0) * upto[-1])
        return share if self.few_are_anomalies else 1 - share


def _sums(target: np.ndarray, source: np.ndarray, shape: tuple[int, int]) -> csr_array:
    """Sparse matrix that adds the weights of ``source`` units into ``target`` rows."""
    return csr_array((np.ones(len(target)), (target, source)), shape=shape)


def _two_samples(is_anomaly: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores of normal images and of anomalies, both ascending, after all checks."""
    is_anomaly, scores = np.asarray(is_anomaly), np.asarray(scores)
    if is_anomaly.ndim != 1 or is_anomaly.shape != scores.shape:
        raise ValueError(
            f"is_anomaly and scores must both have shape (n,), got {is_anomaly.shape} and {scores.shape}"
        )
    if is_anomaly.dtype != bool:
        raise ValueError(
            f"is_anomaly must hold booleans (True: anomaly), got {is_anomaly.dtype}: compare the labels first"
        )
    if scores.dtype.kind not in "buif":
        raise ValueError(f"scores must be real numbers, got {scores.dtype}: convert them to float")
    finite = np.isfinite(scores)
    if not finite.all():
        first = int(np.argmin(finite))
        raise ValueError(
            f"scores must be finite, got {scores[first]} at position {first} and {np.sum(~finite)} such in {len(scores)}: "
            "look at the detector and its features"
        )
    normal, anomalous = np.sort(scores[~is_anomaly]), np.sort(scores[is_anomaly])
    if not len(normal) or not len(anomalous):
        raise ValueError(
            f"ROCAUC needs normal and anomalous images, got {len(normal)} and {len(anomalous)}: score a test set that holds both"
        )
    return normal, anomalous


def _twice_count_below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each value, twice the number of others below it, ties counting one: integers, so nothing is rounded."""
    return np.searchsorted(others, values, "left") + np.searchsorted(others, values, "right")
