"""The base classes of the baselines that train a network.

`TrainedBaseline` checks parameters and images, seeds the generators, and gives `fit` and
`anomaly_score` their order. `TransformationBaseline` adds what GEOM, GOAD and MHRot share: their
network learns to recognise transformations, and every view of an image is judged. Deep SVDD derives
from the first, because it trains in two stages and sees each image once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import nn

from baselines._inference import CompiledWideResNet
from baselines._networks import Draw, Network, WideResNet, build_network
from baselines._parameters import check_parameters
from baselines._prediction import Judge, Outputs, judge_views
from baselines._preparation import (
    MIN_SIDE,
    autocast,
    check_images,
    check_varied,
    draw_subset,
    in_precision,
    name_arithmetic,
    pad_digits,
    pick_device,
    pick_precision,
    to_device,
)
from baselines._training import (
    Clock,
    Loss,
    Monitor,
    Training,
    fit_network,
    half_cosine,
    training_identity,
)

FEWEST_IMAGES = 2
"""BatchNorm cannot normalise one vector, and one image has no distribution to fit."""


@dataclass(frozen=True)
class Preparation:
    """The images that a baseline trains on, and what else its training needs.

    Attributes
    ----------
    X : ndarray of shape (n, side, side, c), uint8
        The training images, drawn and padded.
    images : tensor of shape (n, side, side, c), uint8
        The same on the device.
    device : torch.device
    precision : torch.dtype
        The type that convolutions and matrix products run in.
    weights : torch.Generator
        Draws the first weights; on the CPU, so that they are the same on every device.
    random : torch.Generator
        Draws shuffles, crops and dropout, on the device.
    identity : str
        The hash of everything that the result follows from, for the checkpoint.
    monitor : callable, optional
    checkpoint : Path, optional
    clock : Clock
    """

    X: np.ndarray
    images: torch.Tensor
    device: torch.device
    precision: torch.dtype
    weights: torch.Generator
    random: torch.Generator
    identity: str
    monitor: Monitor | None
    checkpoint: Path | None
    clock: Clock

    def build(self, make: Callable[[], Network], draw: Draw) -> Network:
        """Build a network on the device; see `baselines._networks.build_network`."""
        return build_network(make, self.device, self.weights, draw)

    def autocast(self) -> AbstractContextManager:
        """Run convolutions and matrix products in the chosen precision inside the context."""
        return autocast(self.device, self.precision)

    def train(
        self,
        network: nn.Module,
        loss_of: Loss,
        optimizer: torch.optim.Optimizer,
        training: Training,
    ) -> None:
        """Train a network in place; see `baselines._training.fit_network`."""
        fit_network(
            network,
            loss_of,
            optimizer,
            training,
            self.random,
            monitor=self.monitor,
            checkpoint=self.checkpoint,
            clock=self.clock,
        )


class TrainedBaseline(ABC):
    """A detector on images that trains a network.

    A subclass has a constructor that stores its parameters, among them those below, and annotates
    each with a rule of `baselines._parameters`. It implements `_train` and `_score`.

    Attributes
    ----------
    title : str
        The baseline's name in messages.
    network_ : torch.nn.Module
    shape_ : tuple of int
        The shape (side, side, c) of a training image, before padding.
    earlier_cpu_seconds_ : float
        The CPU time that earlier processes spent on this training before they ended; 0 unless it
        continued from a checkpoint.
    """

    title: ClassVar[str]

    max_images: int
    seed: int
    device: str | None
    precision: str

    network_: nn.Module
    shape_: tuple[int, ...]
    earlier_cpu_seconds_: float

    def arithmetic(self) -> str:
        """Say what this machine computes in, as ``bfloat16 on cpu``; the scores depend on it.

        Raises
        ------
        ValueError
            If the device or the precision is unknown, or this machine has no such device.
        """
        return name_arithmetic(self.device, self.precision)

    def check_rows(self, n: int) -> None:
        """Refuse parameters that are out of range, and a training set of fewer than 2 images.

        Raises
        ------
        ValueError
            Naming the parameter or the number of images, and the remedy.
        """
        check_parameters(self, self.title)
        self.arithmetic()
        if n < FEWEST_IMAGES:
            raise ValueError(
                f"{self.title} needs at least {FEWEST_IMAGES} training images, got {n}:"
                " train on more images"
            )

    def fit(
        self, X: np.ndarray, *, monitor: Monitor | None = None, checkpoint: Path | None = None
    ) -> Self:
        """Train on normal images.

        Parameters
        ----------
        X : ndarray of shape (n, side, side, c), uint8
            With c = 1 or 3. GEOM, GOAD and MHRot pad 28 px images to 32 px with zeros.
        monitor : callable, optional
            Called as ``monitor(name, epoch, epochs, fraction, loss)``; see
            `baselines._training.Monitor`. The name is ``loss``; Deep SVDD reports
            ``pretrain_loss`` before it.
        checkpoint : Path, optional
            The training continues from this file if it holds a checkpoint of the same training,
            and writes it as it goes on.

        Raises
        ------
        ValueError
            If the images or a parameter cannot be used.
        TrainingDivergedError
            If a loss is not finite.
        """
        check_images(X, self.title, self._min_side())
        self.check_rows(len(X))
        preparation = self._prepare(X, monitor, checkpoint)
        self.network_, self.shape_ = self._train(preparation), X.shape[1:]
        self._summarise(preparation)
        self.earlier_cpu_seconds_ = preparation.clock.earlier
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
        self._check_ready(X)
        return self._score(self._pad(X))

    def _prepare(
        self, X: np.ndarray, monitor: Monitor | None, checkpoint: Path | None
    ) -> Preparation:
        """Draw the subset of ``max_images``, pad it, and seed the generators."""
        device = pick_device(self.device)
        weights = torch.Generator().manual_seed(self.seed)
        X = draw_subset(X, self.max_images, weights)
        check_varied(X, self.title)
        X = self._pad(X)
        precision = pick_precision(self.precision, device)
        return Preparation(
            X=X,
            images=to_device(X, device),
            device=device,
            precision=precision,
            weights=weights,
            random=torch.Generator(device).manual_seed(self.seed),
            identity=training_identity(self, X, device.type, precision),
            monitor=monitor,
            checkpoint=checkpoint,
            clock=Clock(),
        )

    def _check_ready(self, X: np.ndarray) -> None:
        """Refuse to score before a training, or images of another type or shape."""
        if not hasattr(self, "network_"):
            from sklearn.exceptions import NotFittedError  # late: it takes a second

            raise NotFittedError(f"{self.title} was not fitted: call fit before anomaly_score")
        check_images(X, self.title)
        if X.shape[1:] != self.shape_:
            raise ValueError(
                f"{self.title} was fitted to images of shape {self.shape_}, got {X.shape[1:]}:"
                " score images of the same shape"
            )

    @property
    def _device(self) -> torch.device:
        """The device of the trained network."""
        return next(self.network_.parameters()).device

    def _min_side(self) -> int:
        """Return the smallest side of an image that the network can take, in pixels."""
        return MIN_SIDE

    def _pad(self, X: np.ndarray) -> np.ndarray:
        """Pad images to the size that the network takes."""
        return X

    @abstractmethod
    def _train(self, preparation: Preparation) -> nn.Module:
        """Build the network, train it, and return it in evaluation mode."""

    def _summarise(self, preparation: Preparation) -> None:  # noqa: B027 - some need nothing
        """Learn what else the score needs from the trained network's outputs, if anything."""

    @abstractmethod
    def _score(self, X: np.ndarray) -> np.ndarray:
        """Score padded images of the right shape, (n,) float64."""


class Objective(NamedTuple):
    """What a network minimises.

    Attributes
    ----------
    loss_of : callable
        See `baselines._training.Loss`.
    items : int
        The number of items in an epoch: images, or views of images.
    batch_size : int
        Items.
    """

    loss_of: Loss
    items: int
    batch_size: int


class TransformationBaseline(TrainedBaseline):
    """A detector whose network learns to recognise how an image was transformed.

    Each view of an image, that is, the image under one transformation, is judged on its own. A
    subclass implements `_sources`, `_build`, `_objective`, `_optimizer` and `_judge`.
    """

    last_rate: ClassVar[float] = 0.0
    """Where a learning rate that falls along a cosine ends."""

    epochs: int
    batch_size: int
    learning_rate: float
    schedule: str

    def scores_and_accuracy(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Score images and measure how many of their transformations were recognised, in one pass.

        Parameters
        ----------
        X : ndarray of shape (n, side, side, c), uint8

        Returns
        -------
        scores : ndarray of shape (n,), float64
            As from `anomaly_score`.
        accuracies : ndarray of shape (n,), float64
            The fraction of an image's transformations that the network recognised, in [0, 1].

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If the images are not of the training images' shape.
        """
        self._check_ready(X)
        return self._scores_and_accuracy(self._pad(X))

    def _scores_and_accuracy(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        anomalies, accuracies = judge_views(
            self._forward(), self._judge(), X, self._sources(X.shape[1]), self._device
        )
        return self._pool(anomalies), accuracies.mean(1)

    def _score(self, X: np.ndarray) -> np.ndarray:
        return self._scores_and_accuracy(X)[0]

    def _pad(self, X: np.ndarray) -> np.ndarray:
        return pad_digits(X)

    def _train(self, preparation: Preparation) -> nn.Module:
        network = self._build(preparation)
        objective = self._objective(network, preparation)
        training = Training(
            "loss",
            items=objective.items,
            batch_size=objective.batch_size,
            epochs=self.epochs,
            learning_rate=self._rate,
            identity=preparation.identity,
        )
        preparation.train(network, objective.loss_of, self._optimizer(network), training)
        return network

    @abstractmethod
    def _sources(self, side: int) -> torch.Tensor:
        """Return the transformations, shape (t, new side * new side)."""

    @abstractmethod
    def _build(self, preparation: Preparation) -> nn.Module:
        """Build the network with its first weights."""

    @abstractmethod
    def _objective(self, network: nn.Module, preparation: Preparation) -> Objective:
        """Return what the network minimises."""

    @abstractmethod
    def _optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of the network's weights."""

    def _rate(self, time: float) -> float:
        """Return the learning rate at a time in epochs from 0."""
        if self.schedule == "constant":
            return self.learning_rate
        return half_cosine(self.learning_rate, self.last_rate, time / self.epochs)

    def _forward(self) -> Outputs:
        """Return the trained network in the form that scores; a Wide ResNet is compiled."""
        precision = pick_precision(self.precision, self._device)
        if isinstance(self.network_, WideResNet):
            return CompiledWideResNet(self.network_, precision)
        return in_precision(self.network_, self._device, precision)

    @abstractmethod
    def _judge(self) -> Judge:
        """Return the function that judges views by the network's outputs."""

    def _pool(self, anomalies: np.ndarray) -> np.ndarray:
        """Make one score per image from those of its views, from (n, t) to (n,)."""
        return anomalies.sum(1)
