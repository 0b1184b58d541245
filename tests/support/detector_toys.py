"""Inputs of the detector laws: small parameters for each method, and rows that it takes.

There is one toy for each entry of DETECTORS and each of its variants. A name is a detector's, or a
detector's and a variant's: ``geom``, ``geom simple``.
"""

import numpy as np

from benchmarks.contracts import Experiment
from benchmarks.detectors import DETECTORS, Variant, detector_params, make_detector

WIDTH = SIDE = 16
VARIANTS = [f"{name} {variant}" for name, entry in DETECTORS.items() for variant in entry.variants]
# As published; the toy of the other laws has fewer.
TRANSFORMATIONS = {"geom dirichlet": 72, "geom simple": 72}


def entry_of(name):
    return DETECTORS[name.partition(" ")[0]]


def variant_of(name):
    return entry_of(name).variants.get(name.partition(" ")[2], Variant())


def toy(name):
    """Return small parameters; a variant has its own, but trains for one epoch."""
    params = {**entry_of(name).toy, **variant_of(name).params}
    if name in VARIANTS and "epochs" in params:
        params["epochs"] = 1
    if name in TRANSFORMATIONS:
        params["transformations"] = TRANSFORMATIONS[name]
    return params


def build(name, seed=0, **params):
    """Make the detector, not yet fitted."""
    detector, _, variant = name.partition(" ")
    every = detector_params(detector, variant, {**toy(name), **params})
    return make_detector(
        Experiment(
            "synthetic",
            "one_vs_rest",
            detector,
            "x",
            variant=variant,
            detector_params=every,
            seed=seed,
        )
    )


def is_grid(name):
    return variant_of(name).selection == "oracle"


def on_pixels(name):
    return entry_of(name).input != "features"


def scores_of(name, detector, X):
    """Return scores (n,) or, for a grid, (points, n)."""
    return (
        np.stack([scores for _, scores, _ in detector.score_path(X)])
        if is_grid(name)
        else detector.anomaly_score(X)
    )


def images(n, seed, side=SIDE):
    """Make noise that is brighter towards the bottom."""
    noise = np.random.default_rng(seed).integers(0, 56, (n, side, side, 3))
    return (noise + np.linspace(0, 199, side)[:, None, None]).astype(np.uint8)


def normal_rows(name, n=40, seed=0):
    """Make single rows, groups of three, or images that have an up and a down.

    Costly methods get a quarter as many.
    """
    if variant_of(name).input:
        return images(n // 4, seed, 64)
    if name in TRANSFORMATIONS:
        return images(n // 4, seed)
    if on_pixels(name):
        return images(n, seed)
    shape = (n, 3, WIDTH) if entry_of(name).groups else (n, WIDTH)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def anomalous_rows(name, n=40, seed=1):
    """Make rows that are far away, or upside down."""
    return images(n, seed)[:, ::-1].copy() if on_pixels(name) else normal_rows(name, n, seed) + 4.0
