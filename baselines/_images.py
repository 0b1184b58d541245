"""Which images the trained rivals take, and how they come to the device."""

from __future__ import annotations

import numpy as np
import torch

MIN_SIDE = 16
"""Pixels: below this a quarter of the side, which shifts move by, and the third stage of a Wide ResNet have nothing left."""


def check_images(X: np.ndarray, name: str, min_side: int = MIN_SIDE) -> None:
    """Refuse what is not a block of images.

    Parameters
    ----------
    X : ndarray of shape (n, h, w, c), uint8
        With c = 1 or 3 channels.
    name : str
        The detector, for the message.

    Raises
    ------
    ValueError
        If the type, shape, number of channels or size is another.
    """
    if not isinstance(X, np.ndarray) or X.dtype != np.uint8:
        kind = getattr(X, "dtype", type(X).__name__)
        raise ValueError(f"{name} takes images as uint8 of 0 to 255, got {kind}: use the input pixels")
    if X.ndim != 4 or X.shape[3] not in (1, 3):
        raise ValueError(f"{name} takes images of shape (n, h, w, 1 or 3), got {X.shape}: use the input pixels")
    height, width = X.shape[1:3]
    if height != width:
        raise ValueError(f"{name} takes square images, got {height} x {width}: resize them, as --size 32 does")
    if min(height, width) < min_side:
        remedy = f"resize them, as --size {2 * min_side} does"
        raise ValueError(f"{name} takes images of at least {min_side} px a side, got {height} x {width}: {remedy}")


def check_varied(X: np.ndarray, name: str) -> None:
    """Refuse training images that are all constant: no transformation can be told from another, and no scale be measured.

    Raises
    ------
    ValueError
        If no image has two different pixel values in one channel.
    """
    flat = X.reshape(len(X), -1, X.shape[3])
    if not (flat != flat[:, :1]).any():
        raise ValueError(f"{name} cannot learn from constant images, and all {len(X)} training images are: check the data")


def pad_digits(X: np.ndarray) -> np.ndarray:
    """Pad 28 px images (MNIST's and its kin) with two zero pixels on each side, others not; uint8 (n, h, w, c) both ways.

    GEOM's experiments pad FashionMNIST so before scaling (1805.10917, code), for its network halves the side twice.
    """
    return np.pad(X, ((0, 0), (2, 2), (2, 2), (0, 0))) if X.shape[1:3] == (28, 28) else X


def draw_subset(X: np.ndarray, max_images: int, generator: torch.Generator) -> np.ndarray:
    """Draw ``max_images`` of the images without replacement, in order; all if that is 0 or more than there are."""
    if not 0 < max_images < len(X):
        return X
    rows = torch.randperm(len(X), generator=generator)[:max_images].sort().values
    return X[rows.numpy()]


def check_rows(n: int, smallest: int, name: str) -> None:
    """Refuse a training set that is too small.

    Raises
    ------
    ValueError
        If n is under ``smallest``.
    """
    if n < smallest:
        raise ValueError(f"{name} needs at least {smallest} training images, got {n}: train on more images")


def to_device(X: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy images to a device, whatever their memory layout: turned over, memory-mapped or read-only."""
    return torch.tensor(np.ascontiguousarray(X), device=device)
