"""Maximum-likelihood Dirichlet distributions, from mean logarithms alone (Minka, "Estimating a Dirichlet distribution", 2000)."""

from __future__ import annotations

import numpy as np
from scipy.special import digamma, gammaln, polygamma

MAX_CONCENTRATION = 1e6
"""Equal vectors have no finite maximum: their likelihood grows for ever with the concentration, so it ends here [our choice]."""

MIN_CONCENTRATION = 1e-8
TOLERANCE = 1e-9
MAX_STEPS = 500


def fit_dirichlet(mean_log: np.ndarray) -> np.ndarray:
    """Fit one Dirichlet a row: the alpha that maximises log G(sum alpha) - sum log G(alpha) + sum (alpha - 1) mean_log.

    Newton's steps, whose Hessian is diagonal plus a constant; where one leaves the positive numbers or lowers the likelihood,
    Minka's fixed-point step, which never does.

    Parameters
    ----------
    mean_log : ndarray of shape (rows, k)
        Means of the logarithms of probability vectors, natural, finite.

    Returns
    -------
    ndarray of shape (rows, k), float64
        In [1e-8, 1e6].

    Raises
    ------
    ValueError
        If a mean is not finite.
    """
    mean_log = np.asarray(mean_log, np.float64)
    if not np.isfinite(mean_log).all():
        raise ValueError("the logarithms of a Dirichlet fit must be finite, but a probability was 0: clip probabilities first")
    alpha = np.ones_like(mean_log)
    for _ in range(MAX_STEPS):
        newton = _newton_step(alpha, mean_log)
        valid = np.all(newton > 0, axis=1)
        newton = np.where(valid[:, None], newton, alpha)
        better = valid & (_log_likelihood(newton, mean_log) >= _log_likelihood(alpha, mean_log))
        step = np.where(better[:, None], newton, _fixed_point_step(alpha, mean_log))
        step = np.clip(step, MIN_CONCENTRATION, MAX_CONCENTRATION)
        settled = np.abs(step - alpha).max() <= TOLERANCE * np.abs(alpha).max()
        alpha = step
        if settled:
            break
    return alpha


def _log_likelihood(alpha: np.ndarray, mean_log: np.ndarray) -> np.ndarray:
    """For each row, a vector's mean log-likelihood, shape (rows,)."""
    return gammaln(alpha.sum(1)) - gammaln(alpha).sum(1) + ((alpha - 1) * mean_log).sum(1)


def _newton_step(alpha: np.ndarray, mean_log: np.ndarray) -> np.ndarray:
    total = alpha.sum(1, keepdims=True)
    gradient = digamma(total) - digamma(alpha) + mean_log
    diagonal, constant = -polygamma(1, alpha), polygamma(1, total)
    shared = (gradient / diagonal).sum(1, keepdims=True) / (1 / constant + (1 / diagonal).sum(1, keepdims=True))
    return alpha - (gradient - shared) / diagonal


def _fixed_point_step(alpha: np.ndarray, mean_log: np.ndarray) -> np.ndarray:
    return _inverse_digamma(digamma(alpha.sum(1, keepdims=True)) + mean_log)


def _inverse_digamma(value: np.ndarray) -> np.ndarray:
    """Invert by five of Newton's steps from Minka's start, good to 14 digits (his appendix C)."""
    x = np.where(value >= -2.22, np.exp(np.minimum(value, 700)) + 0.5, -1 / (value - digamma(1.0)))
    for _ in range(5):
        x -= (digamma(x) - value) / polygamma(1, x)
    return x
