"""On real images, training a baseline raises the mean ROCAUC over five classes.

It is compared with the untrained network that it started from. Slow.
"""

import numpy as np
import pytest
from untrained import fit_untrained

from baselines.deep_svdd import DeepSVDD
from baselines.geom import GEOM
from baselines.goad import GOAD
from baselines.mhrot import MHRot
from benchmarks.datasets import is_on_disk, load_dataset
from benchmarks.fetch import fetch_dataset
from benchmarks.metrics import auroc

pytestmark = pytest.mark.slow

# Few images, small networks and, for some, 16 px, so that the whole test takes minutes.
BASELINES = {
    # Measured: 56.6 % trained, 50.1 % untrained.
    "deep_svdd": (32, lambda: DeepSVDD(epochs=10, pretrain_epochs=5, max_images=300)),
    # Measured: 63.4 % trained, 52.9 % untrained.
    "geom_rotation": (
        32,
        lambda: GEOM("rotation", score="simple", epochs=5, width=2, max_images=250),
    ),
    # Measured: 64.4 % trained, 58.1 % untrained.
    "goad": (16, lambda: GOAD(epochs=10, learning_rate=5e-3, width=1, max_images=200)),
    # Measured: 58.8 % trained, 52.1 % untrained.
    "mhrot_low": (
        16,
        lambda: MHRot(epochs=5, learning_rate=0.05, depth=10, width=1, dropout=0.0, max_images=200),
    ),
}


@pytest.fixture(scope="module")
def cifar10(weights_home):
    if not is_on_disk("cifar10", home=weights_home):
        fetch_dataset("cifar10", home=weights_home)
    return load_dataset("cifar10", home=weights_home)


def of_side(images, side):
    """Return CIFAR-10's images as they are (32), or the means of their 2 x 2 squares (16)."""
    squares = images.reshape(len(images), side, 32 // side, side, 32 // side, 3)
    return squares.mean((2, 4)).round().astype(np.uint8)


def untrained_of(name):
    baseline = BASELINES[name][1]()
    if hasattr(baseline, "pretrain_epochs"):
        baseline.pretrain_epochs = 0
    return baseline


@pytest.mark.parametrize("name", BASELINES)
def test_the_trained_network_beats_the_untrained_one(cifar10, name):
    side, build = BASELINES[name]
    test, areas = np.flatnonzero(~cifar10.is_train)[:500], []
    X = of_side(cifar10.images[test], side)
    for label in range(5):
        train = of_side(
            cifar10.images[np.flatnonzero(cifar10.is_train & (cifar10.labels == label))], side
        )
        detectors = fit_untrained(untrained_of(name), train), build().fit(train)
        areas.append(
            [
                auroc(cifar10.labels[test] != label, detector.anomaly_score(X))
                for detector in detectors
            ]
        )
    untrained, trained = np.mean(areas, axis=0)
    measured = f"{name}: {trained:.4f} trained, {untrained:.4f} untrained"
    print(measured)  # noqa: T201 - `pytest -s` shows what was measured
    assert trained > untrained + 0.02, measured
