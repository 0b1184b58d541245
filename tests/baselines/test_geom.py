"""GEOM's Dirichlet fit, compared with known parameters and a general optimiser."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import digamma, gammaln

from baselines.geom import MAX_CONCENTRATION, SMALLEST_PROBABILITY, fit_dirichlet, log_probabilities


def exact_mean_log(alpha: np.ndarray) -> np.ndarray:
    """Return E[log p] under a Dirichlet distribution."""
    return digamma(alpha) - digamma(alpha.sum(-1, keepdims=True))


@pytest.mark.parametrize("k", [2, 4, 72])
@pytest.mark.parametrize("scale", [0.05, 1.0, 300.0])
def test_known_parameters_are_recovered_from_exact_means(k, scale):
    alpha = np.random.default_rng(k).gamma(2.0, scale, (5, k)) + 0.01
    np.testing.assert_allclose(fit_dirichlet(exact_mean_log(alpha)), alpha, rtol=1e-5)


def test_known_parameters_are_recovered_from_samples():
    rng = np.random.default_rng(0)
    alpha = np.array([0.7, 3.0, 12.0, 1.5])
    samples = rng.dirichlet(alpha, 200_000)
    np.testing.assert_allclose(fit_dirichlet(np.log(samples).mean(0)[None])[0], alpha, rtol=0.02)


def test_no_general_optimiser_finds_a_greater_likelihood():
    mean_log = np.log(np.random.default_rng(1).dirichlet([9.0, 0.3, 0.3, 0.3], 15)).mean(0)

    def negative(theta):
        alpha = np.exp(theta)
        return -(gammaln(alpha.sum()) - gammaln(alpha).sum() + ((alpha - 1) * mean_log).sum())

    ours = negative(np.log(fit_dirichlet(mean_log[None])[0]))
    assert (
        ours
        <= minimize(
            negative, np.zeros(4), method="Nelder-Mead", options={"maxiter": 5000, "fatol": 1e-12}
        ).fun
        + 1e-9
    )


def test_rows_are_fitted_independently():
    alpha = np.random.default_rng(2).gamma(1.0, 5.0, (6, 3)) + 0.1
    together = fit_dirichlet(exact_mean_log(alpha))
    np.testing.assert_allclose(
        np.concatenate([fit_dirichlet(exact_mean_log(row[None])) for row in alpha]),
        together,
        rtol=1e-6,
    )


def test_equal_vectors_have_a_bounded_fit():
    certain = log_probabilities(torch.tensor([[1.0, 0.0, 0.0]]).repeat(10, 1)).numpy()
    alpha = fit_dirichlet(certain.mean(0)[None])
    assert np.isfinite(alpha).all()
    assert (alpha > 0).all()
    assert alpha.max() <= MAX_CONCENTRATION
    assert alpha.argmax() == 0


def test_a_logarithm_of_zero_is_refused():
    with pytest.raises(ValueError, match="clip probabilities"):
        fit_dirichlet(np.array([[0.0, -np.inf]]))


def test_mixed_probabilities_still_sum_to_one_and_are_never_zero():
    mixed = (
        log_probabilities(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]]))
        .exp()
        .numpy()
    )
    np.testing.assert_allclose(mixed.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(mixed.min(1), [SMALLEST_PROBABILITY, 0.25], rtol=1e-9)
