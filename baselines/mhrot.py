"""MHRot: how sure a network with one head each for rotation, vertical and horizontal shift is of what was done to this image.

Hendrycks et al., "Using Self-Supervised Learning Can Improve Model Robustness and Uncertainty", NeurIPS 2019 (1906.12340).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from baselines._inference import CompiledWideResNet
from baselines._networks import AttentionResNet18, WideResNet, build_network
from baselines._prediction import judge_views
from baselines._preparation import (
    MIN_SIDE,
    autocast,
    check_parameters,
    check_ready,
    check_rows,
    in_precision,
    name_arithmetic,
    pad_digits,
    pick_precision,
    prepare_training,
    to_device,
)
from baselines._training import Monitor, Training, fit_network, training_identity
from baselines._transforms import Views, rotated_crops, turns_and_shifts

HEADS = (4, 3, 3)  # rotations, vertical shifts, horizontal shifts
MOMENTUM = 0.9  # Nesterov's (authors' code)
LAST_RATE = 1e-6  # where the cosine ends (authors' code)
MIN_SIDE_HIGH = 64  # px: a ResNet-18 halves the side five times


class MHRot:
    """Multi-head prediction of rotation and translation.

    The score is minus the sum, over 4 rotations x 3 vertical x 3 horizontal shifts, of the three probabilities that the heads
    give to what was done.

    ``low`` resolution takes the images as they are. Deviation: it was never released; network, optimiser and epochs are our
    choice, after an independent port. ``high`` crops 7/8 of the side, which is 224 of 256 px, and moves by a quarter of that,
    56 px, as released.

    Parameters
    ----------
    resolution : {"low", "high"}
        A Wide ResNet, or a ResNet-18 with attention (input pixels:256).
    epochs : int
        ``low``: each goes over all images under all 36 transformations; ``high``: over all images, each at one random crop,
        flip and shift and under all 4 rotations; about 100 are needed there (by word of the author).
    batch_size : int
        Transformed images.
    learning_rate, weight_decay : float
        Of SGD with Nesterov's momentum; the rate falls by a cosine to 1e-6 (authors' code).
    depth, width, dropout : int, int, float
        Of the Wide ResNet.
    max_images : int
        Train on a seeded subset of so many images; 0 takes all.
    seed : int
        Of weights, shuffles, crops, dropout and subset.
    device : str, optional
        ``cpu``, ``cuda`` or ``cuda:1``; by default CUDA if there is one.
    precision : {"auto", "float32", "bfloat16"}
        Of convolutions and products; auto takes bfloat16 where the device is fast at it.

    Attributes
    ----------
    network_ : WideResNet or AttentionResNet18
    """

    def __init__(
        self,
        resolution: str = "low",
        epochs: int = 16,
        batch_size: int = 128,
        learning_rate: float = 0.1,
        weight_decay: float = 5e-4,
        depth: int = 16,
        width: int = 4,
        dropout: float = 0.3,
        max_images: int = 0,
        seed: int = 0,
        device: str | None = None,
        precision: str = "auto",
    ) -> None:
        self.resolution = resolution
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.depth = depth
        self.width = width
        self.dropout = dropout
        self.max_images = max_images
        self.seed = seed
        self.device = device
        self.precision = precision

    def arithmetic(self) -> str:
        """Say what this machine computes in, which the scores depend on; see `baselines._preparation.name_arithmetic`."""
        return name_arithmetic(self.device, self.precision)

    def check_rows(self, n: int) -> None:
        """Refuse an empty training set or a single image.

        Raises
        ------
        ValueError
            If n is under 2, or a parameter is out of range.
        """
        check_parameters(self, "MHRot")
        check_rows(n, 2, "MHRot")

    def fit(
        self, X: np.ndarray, *, monitor: Monitor | None = None, checkpoint: Path | None = None
    ) -> MHRot:
        """Train on normal images.

        Parameters
        ----------
        X : ndarray of shape (n, side, side, c), uint8
            28 px images are padded to 32 with zeros.
        monitor : callable, optional
            Called as ``monitor("loss", epoch, epochs, share, loss)``.
        checkpoint : Path, optional
            Continued from, and written as the training goes on.

        Raises
        ------
        ValueError
            If the images or a parameter cannot be used.
        TrainingDivergedError
            If the loss is not finite.
        """
        shape, low = X.shape[1:], self.resolution == "low"
        min_side = MIN_SIDE_HIGH if self.resolution == "high" else MIN_SIDE
        X, device, precision, start = prepare_training(self, X, "MHRot", min_side)
        X = pad_digits(X)
        images, channels = to_device(X, device), X.shape[3]
        random = torch.Generator(device).manual_seed(self.seed)
        network: nn.Module
        if low:
            network = build_network(
                lambda: WideResNet(channels, sum(HEADS), self.depth, self.width, self.dropout),
                device,
                start,
            )
        else:
            network = build_network(lambda: AttentionResNet18(channels, sum(HEADS)), device, start)
        views = Views(images, self._sources(X.shape[1]))

        def loss_of(numbers: torch.Tensor, _epoch: int) -> torch.Tensor:
            with autocast(device, precision):
                if low:
                    logits, labels = (
                        network(views.make(numbers)),
                        head_labels(views.labels(numbers)),
                    )
                else:
                    crops, down, right = rotated_crops(images[numbers], _crop(X.shape[1]), random)
                    turns = torch.arange(4, device=device).repeat_interleave(len(numbers))
                    logits, labels = network(crops), (turns, down.repeat(4), right.repeat(4))
            losses = [
                F.cross_entropy(*pair) for pair in zip(logits.split(HEADS, 1), labels, strict=True)
            ]
            return torch.stack(losses).mean()

        training = Training(
            "loss",
            items=len(views) if low else len(X),
            batch_size=self.batch_size if low else max(1, self.batch_size // 4),
            epochs=self.epochs,
            learning_rate=self._rate,
            identity=training_identity(self, X, device.type, precision),
        )
        optimizer = torch.optim.SGD(
            network.parameters(),
            self.learning_rate,
            MOMENTUM,
            weight_decay=self.weight_decay,
            nesterov=True,
        )
        fit_network(
            network, loss_of, optimizer, training, random, monitor=monitor, checkpoint=checkpoint
        )
        self.network_, self.shape_ = network, shape
        return self

    def anomaly_score(self, X: np.ndarray) -> np.ndarray:
        """Score images: higher is more anomalous.

        Parameters
        ----------
        X : ndarray of shape (n, side, side, c), uint8

        Returns
        -------
        ndarray of shape (n,), float64

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If the images are not of the training images' shape.
        """
        return self.scores_and_accuracy(X)[0]

    def scores_and_accuracy(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the anomaly scores, and of each image the share of right guesses of the heads, in one pass; both (n,)."""
        check_ready(self, X, "MHRot")
        X = pad_digits(X)
        network = self.network_
        device = next(network.parameters()).device
        precision = pick_precision(self.precision, device)
        forward = in_precision(network, device, precision)
        if isinstance(network, WideResNet):
            forward = CompiledWideResNet(network, precision)
        anomalies, accuracies = judge_views(forward, _judge, X, self._sources(X.shape[1]), device)
        return anomalies.sum(1), accuracies.mean(1)

    def _sources(self, side: int) -> torch.Tensor:
        return turns_and_shifts(side, 0 if self.resolution == "low" else _crop(side))

    def _rate(self, time: float) -> float:
        """Learning rate at a time in epochs: half a cosine from the first to the last."""
        return (
            LAST_RATE
            + (self.learning_rate - LAST_RATE) * (1 + math.cos(math.pi * time / self.epochs)) / 2
        )


def head_labels(transformations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Split numbers of the 36 transformations into rotation, vertical and horizontal shift, each (b,)."""
    return transformations // 9, transformations // 3 % 3, transformations % 3


def _judge(
    logits: torch.Tensor, transformations: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = list(zip(logits.split(HEADS, 1), head_labels(transformations), strict=True))
    given = [head.softmax(1).gather(1, label[:, None])[:, 0] for head, label in pairs]
    right = [(head.argmax(1) == label).double() for head, label in pairs]
    # The paper's score is a normality; ours is higher for anomalies.
    return -torch.stack(given).sum(0), torch.stack(right).mean(0)


def _crop(side: int) -> int:
    """Return what is kept of a large image's side: 224 of 256 px (authors' code)."""
    return side * 7 // 8
