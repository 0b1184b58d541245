"""How often a 95 % interval of a ROCAUC covers the true value, by simulation.

Normal scores are drawn from N(0, 1), anomalous ones from N(1.5, 1): the true ROCAUC is 0.856.
"""

import numpy as np
import pytest
from scipy.stats import norm

from benchmarks.metrics import mean_rocauc, rocauc
from benchmarks.report.notes import FEW_IMAGES

SHIFT = 1.5
TRUE = float(norm.cdf(SHIFT / 2**0.5))


def labels_and_scores(rng, anomalous, normal):
    labels = np.arange(anomalous + normal) < anomalous
    return labels, rng.normal(size=len(labels)) + SHIFT * labels


def coverage(anomalous, normal, repeats):
    rng = np.random.default_rng(anomalous * 1000 + normal)
    found = [rocauc(*labels_and_scores(rng, anomalous, normal)) for _ in range(repeats)]
    return float(np.mean([one.low <= TRUE <= one.high for one in found]))


@pytest.mark.slow
def test_delongs_interval_is_too_narrow_below_the_number_that_notes_warn_of():
    """The standard error of a coverage is at most 0.5 percent."""
    assert coverage(58, 4, 6000) == pytest.approx(0.88, abs=0.02)
    assert coverage(57, 5, 6000) == pytest.approx(0.9, abs=0.02)
    assert coverage(52, 10, 6000) == pytest.approx(0.94, abs=0.015)
    assert coverage(60, FEW_IMAGES, 6000) == pytest.approx(0.95, abs=0.01)
    assert coverage(900, 100, 3000) == pytest.approx(0.95, abs=0.012)


@pytest.mark.slow
def test_the_means_interval_is_a_little_too_narrow_with_few_images():
    """WBC's sizes: one normal class of four after the other, over the same 62 test images."""
    rng, sizes = np.random.default_rng(0), (35, 10, 10, 7)
    owner, rows = np.repeat(np.arange(4), sizes), np.arange(62)
    covered = []
    for _ in range(300):
        # The direction of each class is its own, so that only the images are shared.
        shared = rng.normal(size=(62, 4))
        splits = [(rows, owner != c, shared[:, c] + SHIFT * (owner != c)) for c in range(4)]
        mean = mean_rocauc(splits, replicates=400)
        covered.append(mean.low <= TRUE <= mean.high)
    assert 0.88 <= np.mean(covered) <= 0.97
