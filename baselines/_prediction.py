"""A trained network over every view of every image, in bounded memory.

A view is an image under one transformation. Outputs do not depend on which images are scored
together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from baselines._preparation import to_device
from baselines._transforms import Views

CHUNK_IMAGES = 1024
"""Images on the device at once. With each of our sets of transformations, a chunk makes a whole
number of batches."""

BATCH_CPU = 32
BATCH_CUDA = 1024

Outputs = Callable[[torch.Tensor], torch.Tensor]
"""From images (b, c, new side, new side), float32 in [-1, 1], to a network's outputs (b, ...),
float32."""

Judge = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""From outputs (b, k), float32, and the views' transformations (b,) to two tensors (b,): how
anomalous each view is, and how right the network's guess of the transformation is, in [0, 1]."""


def predict_views(
    forward: Outputs, X: np.ndarray, sources: torch.Tensor, device: torch.device
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Run a network in evaluation mode over the views of images, image by image.

    All batches have one size; the last is filled up. Another size could choose other kernels, which
    round differently, so that an image's outputs would depend on the number of images.

    Parameters
    ----------
    forward : callable
        The network; see `Outputs`.
    X : ndarray of shape (n, side, side, c), uint8
    sources : tensor of shape (t, new side * new side)
        The transformations.
    device : torch.device

    Yields
    ------
    numbers : ndarray of shape (b,), int64
        The views' numbers: ``image * t + transformation``.
    outputs : tensor of shape (b, ...), float32
        On the device.
    """
    size = BATCH_CUDA if device.type == "cuda" else BATCH_CPU
    for start in range(0, len(X), CHUNK_IMAGES):
        views = Views(to_device(X[start : start + CHUNK_IMAGES], device), sources)
        for first in range(0, len(views), size):
            numbers = torch.arange(first, first + size, device=device)
            count = min(size, len(views) - first)
            with torch.inference_mode():
                outputs = forward(views.make(numbers.clamp(max=len(views) - 1)))[:count]
            yield (numbers[:count].cpu().numpy() + start * len(sources)), outputs


def judge_views(
    forward: Outputs, judge: Judge, X: np.ndarray, sources: torch.Tensor, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Judge every view of every image on its own.

    Parameters
    ----------
    forward : callable
        The network; see `Outputs`.
    judge : callable
        See `Judge`.
    X : ndarray of shape (n, side, side, c), uint8
    sources : tensor of shape (t, new side * new side)
        The transformations.
    device : torch.device

    Returns
    -------
    anomalies : ndarray of shape (n, t), float64
    accuracies : ndarray of shape (n, t), float64
    """
    anomalies, accuracies = np.empty((2, len(X), len(sources)))
    for numbers, outputs in predict_views(forward, X, sources, device):
        transformations = torch.from_numpy(numbers % len(sources)).to(outputs.device)
        anomaly, right = judge(outputs, transformations)
        anomalies.reshape(-1)[numbers] = anomaly.double().cpu().numpy()
        accuracies.reshape(-1)[numbers] = right.double().cpu().numpy()
    return anomalies, accuracies
