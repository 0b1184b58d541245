"""p-values and flags: against their definitions, and the rates they promise, over many draws."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from dn2.calibration import (
    check_rate,
    flag_by_fdr,
    flag_by_fpr,
    found_together,
    images_needed,
    p_values,
    smallest_rate,
)
from dn2.search import Bank

RNG = np.random.default_rng(0)


def test_a_p_value_is_the_share_of_normal_images_at_least_as_odd():
    calibration = RNG.integers(0, 20, 37).astype(np.float32)  # with ties
    scores = np.arange(-1, 22).astype(np.float32)
    expected = [(1 + sum(c >= s for c in calibration)) / 38 for s in scores]
    np.testing.assert_allclose(p_values(scores, calibration), expected, rtol=1e-12)
    assert p_values(np.array([5.0]), np.full(9, 5.0)).tolist() == [1.0]


def test_flags_are_those_of_scipy():
    for _ in range(200):
        p = RNG.integers(1, 40, RNG.integers(1, 30)) / 40
        expected = false_discovery_control(p) <= 0.2 + 1e-9
        np.testing.assert_array_equal(flag_by_fdr(p, 0.2), expected)
    assert flag_by_fdr(np.array([]), 0.2).shape == (0,)


@pytest.mark.parametrize("rate", [0.5, 0.2, 0.1, 0.05, 0.01, 0.003, 1 / 3, 0.07])
def test_so_many_images_are_needed_and_one_fewer_is_too_few(rate):
    n = images_needed(rate)

    def flags(n):
        return bool(flag_by_fpr(p_values(np.array([1.0]), np.zeros(n)), rate).any())

    assert flags(n)
    assert not flags(n - 1)


@pytest.mark.parametrize(("n", "m", "rate"), [(200, 50, 0.05), (19, 7, 0.1), (99, 10, 0.01)])
def test_so_many_must_be_found_together(n, m, rate):
    r = found_together(n, m, rate)

    def any_flag(odd):
        scores = np.r_[np.ones(odd), np.zeros(m - odd)]
        return bool(flag_by_fdr(p_values(scores, np.zeros(n)), rate).any())

    assert any_flag(r)
    assert not any_flag(r - 1)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 5.0, float("nan")])
def test_a_rate_is_a_fraction(rate):
    with pytest.raises(ValueError, match=r"fpr must be a fraction between 0 and 1, got"):
        check_rate("fpr", rate)


@pytest.mark.parametrize("rate", [5e-324, 1e-300, 9e-10])
def test_a_rate_for_which_nobody_has_images_is_refused(rate):
    with pytest.raises(ValueError, match="fdr must be at least 1e-09, got"):
        check_rate("fdr", rate)
    check_rate("fdr", 1e-9)


def test_the_smallest_rate_as_it_is_shown_can_be_asked_for_and_is_as_small_as_two_digits_say():
    for n in [*range(1, 400), 999, 12_345, 1_000_000]:
        text = smallest_rate(n)
        assert images_needed(float(text)) <= n
        digit = 10.0 ** (np.floor(np.log10(1 / (n + 1))) - 1)
        assert images_needed(float(text) - digit) > n


def draw(rng, n, m, method, k=3, width=6):
    """Score m new normal rows, the last 30 moved away, against a bank of Gaussian rows."""
    normal = rng.standard_normal((n + m, width)).astype(np.float32)
    new = normal[n:].copy()
    new[m - 30 :] += 3 / np.sqrt(width) * 2
    bank, held_out = (
        (normal[:n], None)
        if method == "leave-one-out"
        else (
            normal[: n // 2],
            normal[n // 2 : n],
        )
    )
    search = Bank(bank, device="numpy")

    def score(rows, exclude_self=False):
        return search.nearest(rows, k, exclude_self=exclude_self)[0].mean(1)

    calibration = score(bank, True) if held_out is None else score(held_out)
    return p_values(score(new), calibration)


@pytest.mark.parametrize("method", ["leave-one-out", "split"])
def test_the_rates_are_held_over_many_draws(method):
    """Each mean of 150 draws may exceed its rate by three standard errors."""
    rng = np.random.default_rng(7)
    alarms, discoveries = [], []
    for _ in range(150):
        p = draw(rng, 60, 90, method)
        alarms.append(flag_by_fpr(p[:60], 0.1).mean())
        flags = flag_by_fdr(p, 0.2)
        discoveries.append(flags[:60].sum() / max(flags.sum(), 1))
    for found, rate in ((alarms, 0.1), (discoveries, 0.2 * 60 / 90)):
        assert np.mean(found) <= rate + 3 * np.std(found) / np.sqrt(len(found))
    assert np.mean(alarms) > 0.03  # it flags at all
