"""GOAD: how far from each transformation's centre a network maps the image under that transformation.

Bergman and Hoshen, "Classification-Based Anomaly Detection for General Data", ICLR 2020 (2005.02359), with the settings that the
authors released for images.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch.nn import functional as F

from baselines._inference import CompiledWideResNet
from baselines._networks import WideResNet, build_network
from baselines._prediction import judge_views, predict_views
from baselines._preparation import (
    autocast,
    check_parameters,
    check_ready,
    check_rows,
    name_arithmetic,
    pad_digits,
    pick_precision,
    prepare_training,
    to_device,
)
from baselines._training import Monitor, Training, fit_network, training_identity
from baselines._transforms import Views, geometric_transformations

TRIPLET_WEIGHT = 0.1  # authors' code
NORM_WEIGHT = 10.0  # authors' code


class GOAD:
    """Classification-based anomaly detection for general data.

    A network f maps an image under transformation m near a centre c_m. With ``P(m' | T_m x) = softmax over m' of
    -|f(T_m x) - c_m'|^2``, the score is ``sum over m of -log P(m | T_m x)`` over GEOM's 72 transformations.

    Deviation: the released residual block discards its second BatchNorm and ReLU by mistake; this is a Wide ResNet as published.

    Parameters
    ----------
    epochs : int
        Each goes over all images under all transformations; fixed before the run (authors' code).
    batch_size : int
        Images; each is there under all 72 transformations (authors' code).
    learning_rate : float
        Of Adam (authors' code).
    margin : float
        s of the triplet loss: 0.1 for CIFAR-10, 1 for FashionMNIST (authors' code).
    depth, width : int
        Of the Wide ResNet.
    max_images : int
        Train on a seeded subset of so many images; 0 takes all.
    seed : int
        Of weights, shuffles and subset.
    device : str, optional
        ``cpu``, ``cuda`` or ``cuda:1``; by default CUDA if there is one.
    precision : {"auto", "float32", "bfloat16"}
        Of convolutions and products; auto takes bfloat16 where the device is fast at it.

    Attributes
    ----------
    network_ : WideResNet
    centres_ : ndarray of shape (72, d), float32
        Mean features of the training images under each transformation.
    """

    def __init__(
        self,
        epochs: int = 16,
        batch_size: int = 4,
        learning_rate: float = 1e-3,
        margin: float = 0.1,
        depth: int = 10,
        width: int = 4,
        max_images: int = 0,
        seed: int = 0,
        device: str | None = None,
        precision: str = "auto",
    ) -> None:
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.margin = margin
        self.depth = depth
        self.width = width
        self.max_images = max_images
        self.seed = seed
        self.device = device
        self.precision = precision

    def arithmetic(self) -> str:
        """Say what this machine computes in, which the scores depend on; see `baselines._preparation.name_arithmetic`."""
        return name_arithmetic(self.device, self.precision)

    def check_rows(self, n: int) -> None:
        """Refuse a training set whose batches have no mean to be near.

        Raises
        ------
        ValueError
            If n is under 2, or a parameter is out of range.
        """
        check_parameters(self, "GOAD")
        check_rows(n, 2, "GOAD")

    def fit(
        self, X: np.ndarray, *, monitor: Monitor | None = None, checkpoint: Path | None = None
    ) -> GOAD:
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
        shape = X.shape[1:]
        X, device, precision, start = prepare_training(self, X, "GOAD")
        X = pad_digits(X)
        sources = geometric_transformations(X.shape[1])
        network = build_network(
            lambda: WideResNet(X.shape[3], len(sources), self.depth, self.width), device, start
        )
        views = Views(to_device(X, device), sources)
        every = torch.arange(len(sources), device=device)

        def loss_of(images: torch.Tensor, _epoch: int) -> torch.Tensor:
            numbers = (images[:, None] * len(every) + every).reshape(-1)
            with autocast(device, precision):
                features = network.features(views.make(numbers))
            classified = F.cross_entropy(network.head(features), views.labels(numbers))
            triplet = centre_triplet_loss(
                features.reshape(len(images), len(every), -1), self.margin
            )
            return classified + TRIPLET_WEIGHT * triplet + NORM_WEIGHT * features.square().mean()

        training = Training(
            "loss",
            items=len(X),
            batch_size=self.batch_size,
            epochs=self.epochs,
            learning_rate=lambda _time: self.learning_rate,
            identity=training_identity(self, X, device.type, precision),
        )
        optimizer = torch.optim.Adam(network.parameters(), self.learning_rate)
        shuffling = torch.Generator(device).manual_seed(self.seed)
        fit_network(
            network, loss_of, optimizer, training, shuffling, monitor=monitor, checkpoint=checkpoint
        )
        self.network_, self.shape_ = network, shape
        self.centres_ = _mean_features(CompiledWideResNet(network, precision), X, sources, device)
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
        """Return the anomaly scores, and of each image the share of recognised transformations, in one pass; both (n,)."""
        check_ready(self, X, "GOAD")
        X = pad_digits(X)
        device = next(self.network_.parameters()).device
        compiled = CompiledWideResNet(self.network_, pick_precision(self.precision, device))
        centres = torch.tensor(self.centres_, device=device)

        def judge(
            features: torch.Tensor, transformations: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            distances = (features[:, None] - centres).square().sum(2)
            return F.cross_entropy(-distances, transformations, reduction="none"), distances.argmin(
                1
            ) == transformations

        anomalies, accuracies = judge_views(
            compiled.features, judge, X, geometric_transformations(X.shape[1]), device
        )
        return anomalies.sum(1), accuracies.mean(1)


def centre_triplet_loss(features: torch.Tensor, margin: float) -> torch.Tensor:
    """Mean of ``max(0, |f - c_m|^2 + s - min over m' != m of |f - c_m'|^2)``, the centres being the batch's own means.

    Parameters
    ----------
    features : tensor of shape (images, t, d)
        Of each image under each transformation.
    margin : float
        s.
    """
    centres = features.mean(0)
    distances = (features[:, :, None] - centres).square().sum(3)  # (images, t, t)
    own = distances.diagonal(dim1=1, dim2=2)
    mine = torch.eye(len(centres), dtype=torch.bool, device=features.device)
    nearest_other = distances.masked_fill(mine, torch.inf).amin(2)
    return (own + margin - nearest_other).clamp(min=0).mean()


def _mean_features(
    network: CompiledWideResNet, X: np.ndarray, sources: torch.Tensor, device: torch.device
) -> np.ndarray:
    """Mean features of the images under each transformation, shape (t, d), float32.

    Deviation: in evaluation mode, by one more pass. The released code averages what the network gave while it was training.
    """
    total: torch.Tensor | float = 0.0
    for numbers, features in predict_views(network.features, X, sources, device):
        members = F.one_hot(
            torch.from_numpy(numbers % len(sources)).to(device), len(sources)
        ).double()
        total = total + members.T @ features.double()
    return (cast(torch.Tensor, total) / len(X)).float().cpu().numpy()
