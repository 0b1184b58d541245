"""From scores to p-values and flags, with normal images alone: conformal anomaly detection.

A p-value is the share of normal images that look at least as odd:

    p(x) = (1 + number of calibration scores >= score(x)) / (n + 1)

If x is one more normal image of the kind that was calibrated with, then P(p(x) <= t) <= t for every
t. Nothing is assumed of the scores' distribution; the images must only be exchangeable, such as
independent draws from one source.

Where the n calibration scores come from:

- *Split*: images that are held out of the bank, scored like new ones. The p-values of a batch then
  depend on each other in the way that Benjamini-Hochberg allows, so the false-discovery rate is
  held, too. Source: Bates, Candes, Lei, Romano and Sesia, "Testing for outliers with conformal
  p-values", arXiv 2104.08279, theorems 1 and 2.
- *Leave-one-out*: each image of the bank, scored against the others, so that no image is lost to
  either use. For a mean distance to nearest neighbours the p-values are valid all the same. Were x
  a row of the bank itself, the rank of its score among those of all n + 1 rows would be uniform
  (Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005, section 2.2). And
  another row can only bring neighbours nearer: the scores without x, which are used here, are at
  least those with it, so that p is at least the valid one. That Benjamini-Hochberg holds its rate
  with them is measured, not proven.
"""

from __future__ import annotations

import math

import numpy as np

DEFAULT_FPR = 0.05
"""The false-alarm rate if none is asked for: 19 calibration images will do."""

SMALLEST_RATE = 1e-9
"""Nobody has the images that a smaller one needs; 1 / 5e-324 is no number."""


def p_values(scores: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """Compute p-values (m,): the share of normal images that look at least as odd.

    Parameters
    ----------
    scores : ndarray of shape (m,)
        Higher is more anomalous.
    calibration : ndarray of shape (n,)
        Scores of normal images.

    Examples
    --------
    >>> p_values(np.array([0.5, 2.0, 9.0]), np.array([1.0, 2.0, 3.0]))
    array([1.  , 0.75, 0.25])
    """
    n = len(calibration)
    below = np.searchsorted(np.sort(calibration), scores, side="left")
    return (1 + n - below) / (n + 1)


def flag_by_fpr(p: np.ndarray, rate: float) -> np.ndarray:
    """Flag each p-value up to a false-alarm rate: bool, (m,).

    On average, at most this share of the normal images are flagged.

    Examples
    --------
    >>> flag_by_fpr(np.array([0.01, 0.05, 0.2]), 0.05)
    array([ True,  True, False])
    """
    return p <= rate * (1 + ROUNDING)


def flag_by_fdr(p: np.ndarray, rate: float) -> np.ndarray:
    """Flag p-values so that the false-discovery rate is held: bool, (m,).

    On average, at most this share of the flagged images are normal. Flagged are the r smallest
    p-values, r being the largest number with p_(r) <= r / m * rate. Source: Benjamini and
    Hochberg, "Controlling the false discovery rate", 1995.

    Examples
    --------
    >>> flag_by_fdr(np.array([0.03, 0.5, 0.01, 0.04]), 0.06)
    array([ True, False,  True,  True])
    """
    m = len(p)
    ascending = np.sort(p)
    passed = ascending <= np.arange(1, m + 1) / max(m, 1) * rate * (1 + ROUNDING)
    if not passed.any():
        return np.zeros(m, dtype=bool)
    return p <= ascending[np.flatnonzero(passed)[-1]]


ROUNDING = 1e-12
"""Fractions such as 1 / 20 are compared with decimals such as 0.05."""


def check_rate(name: str, rate: float) -> None:
    """Raise ValueError unless a rate is a number in (0, 1), and at least 1e-9."""
    if not 0 < rate < 1:
        raise ValueError(f"{name} must be a fraction between 0 and 1, got {rate:g}: 0.05 is usual")
    if rate < SMALLEST_RATE:
        raise ValueError(f"{name} must be at least {SMALLEST_RATE:g}, got {rate:g}: 0.05 is usual")


def default_rate(n: int) -> float | None:
    """Return the false-alarm rate if none is asked for; None if n images are too few for it."""
    return DEFAULT_FPR if n >= images_needed(DEFAULT_FPR) else None


def images_needed(rate: float) -> int:
    """Count the calibration images without which no p-value is as small as a rate.

    The smallest p-value is 1 / (n + 1).

    Examples
    --------
    >>> images_needed(0.05), images_needed(0.01)
    (19, 99)
    """
    return math.ceil(1 / rate * (1 - ROUNDING)) - 1


def smallest_rate(n: int) -> str:
    """Write the smallest p-value of n calibration images so that it can be asked for as a rate.

    It has two digits, and is rounded up: a smaller rate needs more images.

    Examples
    --------
    >>> smallest_rate(19), smallest_rate(60), f"{1 / 61:.4f}"
    ('0.05', '0.017', '0.0164')
    """
    rate = 1 / (n + 1)
    digits = 1 - math.floor(math.log10(rate))
    return f"{math.ceil(rate * 10**digits * (1 - ROUNDING)) / 10**digits:.2g}"


def found_together(n: int, m: int, rate: float) -> int:
    """Count the images of a batch that must look odder than all normal ones before any is flagged.

    It is for a false-discovery rate: with n calibration images, r of m images can be flagged only
    if 1 / (n + 1) <= r / m * rate.

    Examples
    --------
    >>> found_together(200, 50, 0.05)
    5
    """
    return math.ceil(m / (n + 1) / rate * (1 - ROUNDING))
