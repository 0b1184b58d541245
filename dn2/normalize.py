"""NORMALIZATIONS: what is done to feature vectors before distances are taken. DN2 as published does nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def none(features: np.ndarray) -> np.ndarray:
    """Leave the features as the network gives them: the paper's definition (arXiv 2002.10445, section 3)."""
    return features


def l2(features: np.ndarray) -> np.ndarray:
    """Divide each row by its Euclidean length; a row of zeros stays zero.

    Parameters
    ----------
    features : ndarray of shape (..., d), float32

    Returns
    -------
    ndarray of shape (..., d), float32

    Examples
    --------
    >>> l2(np.array([[3.0, 4.0], [0.0, 0.0]], dtype=np.float32)).round(1).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    length = np.sqrt(np.einsum("...d,...d->...", features, features, dtype=np.float64))[..., None]
    divided = np.empty(np.shape(features), np.float32)  # computed in float64 and rounded a piece at a time
    return np.divide(features, np.where(length > 0, length, 1.0), out=divided, dtype=np.float64, casting="same_kind")


def power(features: np.ndarray) -> np.ndarray:
    """Take the signed square root of each coordinate, then `l2`: it damps the few large coordinates that rule a distance.

    Source: Perronnin, Sanchez and Mensink 2010, "Improving the Fisher kernel", section 3.2.
    """
    roots = np.sqrt(np.abs(features))
    roots *= np.sign(features)
    return l2(roots)


NORMALIZATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"none": none, "l2": l2, "power": power}
