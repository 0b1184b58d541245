"""Refuse features by which images cannot be told apart: not finite, or the same for all.

Weights with NaN in them, as a training that diverged leaves them, and networks whose activations
overflow give such features. Distances between them say nothing, and would say it as a number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


class UnsoundFeaturesError(ValueError):
    """The error of features that are not finite, or that are the same for different images."""


def check_finite(features: np.ndarray, encoder: str, name: Callable[[int], object]) -> None:
    """Raise UnsoundFeaturesError if a feature is NaN or infinite.

    Parameters
    ----------
    features : ndarray of shape (n, d), float32
    encoder : str
        What made the features, for the message.
    name : callable
        Names the image of one of these rows, for the message.
    """
    # Adding is several times faster than looking at each number: NaN and infinity stay in a sum. A
    # sum of finite numbers may overflow, so then each is looked at.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(features.sum()):
            return
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise UnsoundFeaturesError(
            f"the features of {encoder} must be finite, got NaN or infinity for "
            f"{name(int(bad[0]))}: its weights are damaged or of a training that diverged; get "
            "them again, or choose another encoder"
        )


def check_varied(
    parts: Sequence[np.ndarray], encoder: str, images_are_equal: Callable[[], bool]
) -> None:
    """Raise UnsoundFeaturesError if all features are equal, though the images are not.

    Parameters
    ----------
    parts : sequence of ndarray of shape (n_i, d), float32
        All features.
    encoder : str
        What made them, for the message.
    images_are_equal : callable
        Tells whether the images are all the same; asked only if their features are.
    """
    n = sum(map(len, parts))
    if are_all_equal(parts) and not images_are_equal():
        raise UnsoundFeaturesError(
            f"the features of {encoder} are equal for all {n} images, though these differ: its "
            "weights are damaged or of a training that diverged; get them again, or choose another "
            "encoder"
        )


def are_all_equal(parts: Sequence[np.ndarray]) -> bool:
    """Tell whether there are two or more rows in the parts, (n_i, d) each, and all are equal."""
    parts = [part for part in parts if len(part)]
    if sum(map(len, parts)) < 2:
        return False
    first = parts[0][0]
    # Almost always two rows tell, so the last ones are looked at before all.
    return all(bool((part[-1] == first).all()) for part in parts) and all(
        bool((part == first).all()) for part in parts
    )
