"""ROCAUC and average precision, with 95 % intervals.

Anomalies are the positive class, and a higher score is more anomalous, everywhere. Ties count half.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.special import expit, logit

from benchmarks.contracts import Interval

Z95 = 1.959963984540054
"""The 97.5 % point of the normal distribution: two-sided 95 %."""

REPLICATES = 1000
"""Replicates of the bootstrap."""

TestRows = tuple[np.ndarray, np.ndarray, np.ndarray]
"""One split: its test rows, which of them are anomalies, and their scores."""


def auroc(is_anomaly: np.ndarray, scores: np.ndarray) -> float:
    """Compute the probability that an anomaly scores higher than a normal image.

    Ties count half. The value comes from rank sums, without drawing a curve.

    Parameters
    ----------
    is_anomaly : ndarray of shape (n,), bool
    scores : ndarray of shape (n,), real
        Higher is more anomalous.

    Returns
    -------
    float
        In [0, 1]; 0.5 is chance. Exact: the counts stay integers until the final division.

    Raises
    ------
    ValueError
        If one class is missing, a score is NaN or infinite, the shapes differ or the labels are not
        booleans.

    Examples
    --------
    >>> auroc(np.array([False, False, True, True]), np.array([0.1, 0.4, 0.4, 0.8]))
    0.875
    """
    normal, anomalous = _two_samples(is_anomaly, scores)
    return float(_twice_count_below(anomalous, normal).sum() / (2 * len(normal) * len(anomalous)))


def rocauc(is_anomaly: np.ndarray, scores: np.ndarray) -> Interval:
    """Compute the ROCAUC with DeLong's 95 % interval.

    The interval is computed on the logit scale, so it stays inside [0, 1]. Let p_j be the fraction
    of normal images that score below anomaly j, and q_i the fraction of anomalies that score above
    normal image i. Then variance = var(p) / n_anomalous + var(q) / n_normal, and the bounds are
    expit(logit(a) -+ 1.96 * sqrt(variance) / (a * (1 - a))).

    Two cases have no such variance. A perfect separation (0 or 1) gets the Clopper-Pearson bound of
    s successes in s trials, where s is the size of the smaller class. If a class has a single
    image, the variance is set to a * (1 - a), which is the upper bound a * (1 - a) / s for s = 1.
    Both intervals are wide on purpose. If all scores are equal, the result is 0.5 with an interval
    of zero width.

    Parameters and errors are those of `auroc`.

    References
    ----------
    DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988); logit scale: Pepe, The Statistical
    Evaluation of Medical Tests (2003), section 5.2; upper bound of the variance: van Dantzig
    (1951).
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
    splits: Sequence[TestRows], *, replicates: int = REPLICATES, seed: int = 0
) -> Interval:
    """Average the ROCAUC over splits, with a 95 % bootstrap interval over the test images.

    The same image is normal in one split and an anomaly in the others, so the splits are not
    independent and their intervals cannot be averaged. Each replicate gives every test image one
    weight and uses it in all splits. The weights are drawn from an exponential distribution (the
    Bayesian bootstrap). Within each class of each split they are then a uniform draw from the
    simplex, so no replicate can lose a class, however small, and no stratification is needed. The
    interval is a percentile interval. Training is not repeated: the interval says how far the
    number would move with other test images, not with other training images.

    A single split keeps its DeLong interval. If every split is separated perfectly, no resampling
    can move the mean; the bounds are then the means of the splits' bounds, as if they rose and fell
    together.

    Parameters
    ----------
    splits : sequence of (rows, is_anomaly, scores)
        ``rows``, of shape (n,) or (n, size), identify the test images that two splits share; a row
        of several images is one unit. The rows of the splits may come in any order and overlap in
        part. ``is_anomaly`` and ``scores`` are as in `auroc`.
    replicates : int, default=1000
    seed : int, default=0

    Raises
    ------
    ValueError
        As for `auroc`; also if there is no split, or if rows and scores differ in length.

    References
    ----------
    Rubin, The Bayesian Bootstrap, Annals of Statistics 9 (1981).
    """
    return resample(splits, replicates=replicates, seed=seed).mean


@dataclass(frozen=True)
class Resampled:
    """Hold the ROCAUC of each split, and their mean under many weightings of the test images.

    Two of them with equal ``test_set`` were weighted alike, replicate by replicate. So they can be
    compared as pairs.

    Attributes
    ----------
    each : tuple of Interval
        With DeLong's intervals.
    means : ndarray of shape (replicates,)
    test_set : str
        The digest of the test images, and of which of them are anomalies in which split.
    smaller : tuple of int
        How many images the smaller class of each split has.
    """

    each: tuple[Interval, ...]
    means: np.ndarray
    test_set: str
    smaller: tuple[int, ...]

    @property
    def mean(self) -> Interval:
        """The mean over the splits with its interval: see `mean_rocauc`."""
        value = float(np.mean([one.value for one in self.each]))
        if len(self.each) == 1 or all(one.value in (0.0, 1.0) for one in self.each):
            return Interval(
                value,
                float(np.mean([one.low for one in self.each])),
                float(np.mean([one.high for one in self.each])),
            )
        low, high = np.quantile(self.means, [0.025, 0.975])
        return Interval(value, min(float(low), value), max(float(high), value))


def resample(
    splits: Sequence[TestRows], *, replicates: int = REPLICATES, seed: int = 0
) -> Resampled:
    """Compute the ROCAUC of each split, and their mean in each replicate of the bootstrap.

    Parameters and errors are those of `mean_rocauc`.
    """
    return resample_all([splits], replicates=replicates, seed=seed)[0]


def resample_all(
    methods: Sequence[Sequence[TestRows]], *, replicates: int = REPLICATES, seed: int = 0
) -> list[Resampled]:
    """Resample several methods on the same test images, as if one by one, but drawing only once.

    Parameters
    ----------
    methods : sequence of sequences of (rows, is_anomaly, scores)
        Each is as in `mean_rocauc`, and has the same rows in each of its splits as the others.
    replicates, seed
        As in `mean_rocauc`.

    Raises
    ------
    ValueError
        As for `mean_rocauc`; also if two methods have other rows.
    """
    each = [tuple(rocauc(labels, scores) for _, labels, scores in splits) for splits in methods]
    indexed = [_index(splits) for splits in methods]
    n_units, test_set = indexed[0][0], indexed[0][1]
    if any(one[1] != test_set for one in indexed):
        raise ValueError(
            "methods that are resampled together need the same test rows: resample each alone"
        )
    counts = [
        [
            _Counts(units, np.asarray(labels), np.asarray(scores), n_units)
            for units, (_, labels, scores) in zip(one[2], splits, strict=True)
        ]
        for one, splits in zip(indexed, methods, strict=True)
    ]
    rng = np.random.default_rng(seed)
    block = max(1, 500_000 // n_units)  # 4 MB of weights stay in the cache
    means = np.empty((len(methods), replicates))
    for start in range(0, replicates, block):
        weights = rng.standard_exponential((n_units, min(block, replicates - start)))
        for number, of_method in enumerate(counts):
            areas = [count.auroc(weights) for count in of_method]
            means[number, start : start + block] = np.mean(areas, axis=0)
    smaller = tuple(int(min(np.sum(a), np.sum(~np.asarray(a)))) for _, a, _ in methods[0])
    return [Resampled(one, row, test_set, smaller) for one, row in zip(each, means, strict=True)]


def _index(splits: Sequence[TestRows]) -> tuple[int, str, list[np.ndarray]]:
    """Give each test image of all splits a number.

    Returns
    -------
    (int, str, list of ndarray)
        How many there are, the digest of who is tested where, and the numbers of each split's rows.
    """
    if not splits:
        raise ValueError(
            "mean_rocauc needs at least one split, got none: "
            "pass (rows, is_anomaly, scores) for each"
        )
    for rows, _, scores in splits:
        if len(rows) != len(scores):
            raise ValueError(
                f"mean_rocauc needs one row per score, got {len(rows)} rows and "
                f"{len(scores)} scores: pass the rows that were scored"
            )
    rows = np.concatenate([rows for rows, _, _ in splits])
    images, unit_of_row = np.unique(rows, axis=0, return_inverse=True)
    ends = np.cumsum([len(scores) for _, _, scores in splits])
    units = [
        unit_of_row.ravel()[end - len(scores) : end]
        for end, (_, _, scores) in zip(ends, splits, strict=True)
    ]
    digest = hashlib.sha256(images.astype(np.int64).tobytes())
    for of_split, (_, is_anomaly, _) in zip(units, splits, strict=True):
        order = np.lexsort((is_anomaly, of_split))
        digest.update(of_split[order].astype(np.int64).tobytes())
        digest.update(np.asarray(is_anomaly)[order].tobytes())
    return len(images), digest.hexdigest(), units


def placements(is_anomaly: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Compute, for each image, the fraction of the other class that it is on the right side of.

    For an anomaly, that is the fraction of normal images that score below it; for a normal image,
    the fraction of anomalies that score above it. Ties count half. The mean over the anomalies is
    the ROCAUC, and so is the mean over the normal images.

    Parameters and errors are those of `auroc`.

    Returns
    -------
    ndarray of shape (n,), float64
    """
    normal, anomalous = _two_samples(is_anomaly, scores)
    scores = np.asarray(scores)
    found = np.empty(len(scores))
    found[is_anomaly] = _twice_count_below(scores[is_anomaly], normal) / (2 * len(normal))
    found[~is_anomaly] = 1 - _twice_count_below(scores[~is_anomaly], anomalous) / (
        2 * len(anomalous)
    )
    return found


def average_precision(is_anomaly: np.ndarray, scores: np.ndarray) -> float:
    """Compute the area under the precision-recall curve as a sum of steps.

    Anomalies are the positives: the sum over thresholds of (R_t - R_(t-1)) * P_t. Chance level is
    the prevalence of anomalies (0.9 in one-vs-rest on ten classes), so read the two together.
    Parameters and errors are those of `auroc`.
    """
    normal, anomalous = _two_samples(is_anomaly, scores)
    found = len(anomalous) - np.searchsorted(anomalous, anomalous, side="left")
    false = len(normal) - np.searchsorted(normal, anomalous, side="left")
    return float(np.mean(found / (found + false)))


def split_metrics(is_anomaly: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Compute every metric of one split, under the names of `contracts.Result.metrics`.

    Parameters and errors are those of `auroc`.
    """
    area = rocauc(is_anomaly, scores)
    return {
        "rocauc": area.value,
        "rocauc_low": area.low,
        "rocauc_high": area.high,
        "average_precision": average_precision(is_anomaly, scores),
        "prevalence": float(np.mean(is_anomaly)),
    }


class _Counts:
    """One split, sorted once so that its ROCAUC can be reweighted cheaply.

    The weighted ROCAUC under many weightings of the test images is then two sparse products. The
    distinct scores of the smaller class divide the line into gaps; the larger class is summed
    within each. A tie counts half in the gap below the point and half in the one above.
    """

    def __init__(
        self, units: np.ndarray, is_anomaly: np.ndarray, scores: np.ndarray, n_units: int
    ) -> None:
        self.few_are_anomalies = 2 * is_anomaly.sum() <= len(is_anomaly)
        is_few = is_anomaly == self.few_are_anomalies
        points, place = np.unique(scores[is_few], return_inverse=True)
        below, upto = (np.searchsorted(points, scores[~is_few], side) for side in ("left", "right"))
        tied, many = below < upto, units[~is_few]
        gap = np.concatenate([below, upto[tied]])
        share = np.concatenate([np.where(tied, 0.5, 1.0), np.full(tied.sum(), 0.5)])
        shape = (len(points), n_units)
        self.few = _sums(place, units[is_few], np.ones(len(place)), shape)
        self.many = _sums(
            gap, np.concatenate([many, many[tied]]), share, (len(points) + 1, n_units)
        )

    def auroc(self, weights: np.ndarray) -> np.ndarray:
        """Compute the weighted ROCAUC, shape (replicates,), for weights (n_units, replicates)."""
        few, below = self.few @ weights, np.cumsum(self.many @ weights, axis=0)
        area = np.einsum("pr,pr->r", few, below[:-1]) / (few.sum(axis=0) * below[-1])
        return area if self.few_are_anomalies else 1 - area


def _sums(
    target: np.ndarray, source: np.ndarray, share: np.ndarray, shape: tuple[int, int]
) -> csr_array:
    """Build the sparse matrix that adds shares of ``source`` units into ``target`` rows."""
    return csr_array((share, (target, source)), shape=shape)


def _two_samples(is_anomaly: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Check the input; return the scores of normal images and of anomalies, both ascending."""
    is_anomaly, scores = np.asarray(is_anomaly), np.asarray(scores)
    if is_anomaly.ndim != 1 or is_anomaly.shape != scores.shape:
        raise ValueError(
            f"is_anomaly and scores must both have shape (n,), got {is_anomaly.shape} and "
            f"{scores.shape}: pass one label and one score per image"
        )
    if is_anomaly.dtype != bool:
        raise ValueError(
            f"is_anomaly must hold booleans (True: anomaly), got {is_anomaly.dtype}: "
            "compare the labels with the normal class first"
        )
    if scores.dtype.kind not in "buif":
        raise ValueError(f"scores must be real numbers, got {scores.dtype}: convert them to float")
    finite = np.isfinite(scores)
    if not finite.all():
        first = int(np.argmin(finite))
        raise ValueError(
            f"scores must be finite, got {scores[first]} at position {first} "
            f"({np.sum(~finite)} of {len(scores)} scores are not finite): "
            "check the detector and its features"
        )
    normal, anomalous = np.sort(scores[~is_anomaly]), np.sort(scores[is_anomaly])
    if not len(normal) or not len(anomalous):
        raise ValueError(
            f"ROCAUC needs normal and anomalous images, got {len(normal)} and {len(anomalous)}: "
            "score a test set that holds both"
        )
    return normal, anomalous


def _twice_count_below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Count, for each value, the others below it, times two; a tie counts one.

    The results are integers, so nothing is rounded.
    """
    return np.searchsorted(others, values, "left") + np.searchsorted(others, values, "right")
