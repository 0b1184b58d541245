"""What the trained rivals have in common before a training, and before they score."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch

from baselines._device import pick_device, pick_precision
from baselines._images import MIN_SIDE, check_images, check_varied, draw_subset


class Rival(Protocol):
    """A detector that trains a network."""

    max_images: int
    seed: int
    device: str | None
    precision: str

    def check_rows(self, n: int) -> None:
        """Raise ValueError if it cannot train on n images, or a parameter is out of range."""


class Preparation(NamedTuple):
    """What a training begins with.

    Attributes
    ----------
    X : ndarray of shape (n, side, side, c), uint8
        The images that are trained on.
    device : torch.device
    precision : torch.dtype
        Of convolutions and products.
    generator : torch.Generator
        For the weights; on the CPU, so that they are alike on every device.
    """

    X: np.ndarray
    device: torch.device
    precision: torch.dtype
    generator: torch.Generator


def prepare_training(rival: Rival, X: np.ndarray, name: str, min_side: int = MIN_SIDE) -> Preparation:
    """Check images and parameters, and draw the subset of ``max_images``.

    Parameters
    ----------
    rival : Rival
    X : ndarray of shape (n, side, side, c), uint8
        Normal images.
    name : str
        The rival, for the message.
    min_side : int
        Pixels.

    Raises
    ------
    ValueError
        If the images or a parameter cannot be used.
    """
    check_images(X, name, min_side)
    rival.check_rows(len(X))
    device = pick_device(rival.device)
    generator = torch.Generator().manual_seed(rival.seed)
    X = draw_subset(X, rival.max_images, generator)
    check_varied(X, name)
    return Preparation(X, device, pick_precision(rival.precision, device), generator)


def check_ready(rival: Rival, X: np.ndarray, name: str) -> None:
    """Refuse to score before a training, what is not a block of images, and images of another shape than the training's.

    Raises
    ------
    NotFittedError
        If the rival has no network yet.
    ValueError
        If X is of another type or shape.
    """
    if not hasattr(rival, "network_"):
        from sklearn.exceptions import NotFittedError  # late: it takes a second

        raise NotFittedError(f"{name} was not fitted: call fit before anomaly_score")
    check_images(X, name)
    shape: tuple[int, ...] = rival.shape_  # type: ignore[attr-defined]
    if X.shape[1:] != shape:
        raise ValueError(f"{name} was fitted to images of shape {shape}, got {X.shape[1:]}: score images of the same shape")
