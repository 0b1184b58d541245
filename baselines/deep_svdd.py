"""Deep SVDD: how far from a centre a network maps an image that was trained to map normal ones near it.

Ruff et al., "Deep One-Class Classification", ICML 2018; settings of the authors' code.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from baselines._networks import (
    COLOUR,
    DIGIT_SIDE,
    DIGITS,
    Autoencoder,
    Encoder,
    Widths,
    build_network,
)
from baselines._prediction import predict_views
from baselines._preparation import (
    autocast,
    check_parameters,
    check_ready,
    check_rows,
    in_precision,
    name_arithmetic,
    pick_precision,
    prepare_training,
    to_device,
)
from baselines._training import Monitor, Training, fit_network, read_checkpoint, training_identity
from baselines._transforms import Views, identity

CENTRE_MARGIN = 0.1
"""A coordinate of the centre nearer to 0 is pushed there, else a network could reach it with weights at 0 (authors' code)."""


def contrast_normalise(images: torch.Tensor) -> torch.Tensor:
    """Subtract each image's mean and divide by its mean absolute value (the L1 global contrast normalisation of the code).

    A constant image has no contrast and becomes 0.

    Parameters
    ----------
    images : tensor of shape (b, c, h, w)
        In any linear scale: the result is the same.
    """
    centred = images - images.mean((1, 2, 3), keepdim=True)
    contrast = centred.abs().mean((1, 2, 3), keepdim=True)
    return torch.where(contrast > 1e-6, centred / contrast.clamp(min=1e-6), 0.0)


def push_from_zero(centre: torch.Tensor) -> torch.Tensor:
    """Move coordinates nearer to 0 than the margin to it, keeping their sign; 0 goes up."""
    pushed = torch.where(centre < 0, -CENTRE_MARGIN, CENTRE_MARGIN).to(centre.dtype)
    return torch.where(centre.abs() < CENTRE_MARGIN, pushed, centre)


class Hypersphere(nn.Module):
    """An encoder, and the sphere its embeddings of normal images are drawn into.

    The scale of the images, the centre and the radius are buffers: a checkpoint holds them too.
    """

    scale: torch.Tensor
    centre: torch.Tensor
    radius: torch.Tensor

    def __init__(self, channels: int, side: int, widths: Widths) -> None:
        super().__init__()
        self.encoder = Encoder(channels, side, widths)
        self.register_buffer("scale", torch.zeros(2))
        self.register_buffer("centre", torch.zeros(widths.embedding))
        self.register_buffer("radius", torch.zeros(()))

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise contrast, then map the training images' least and greatest value to 0 and 1."""
        return (contrast_normalise(images) - self.scale[0]) / (self.scale[1] - self.scale[0])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Squared distances of embeddings to the centre, shape (b,), float32."""
        return (self.encoder(self.normalise(images)) - self.centre).square().sum(1)


RATE_DROP = 0.1


class DeepSVDD:
    """Deep support vector data description.

    Minimises the mean of ``|f(x) - c|^2`` (one_class), or ``R^2 + mean(max(0, |f(x) - c|^2 - R^2)) / nu`` (soft_boundary); the
    score is ``|f(x) - c|^2``. c is the mean of the first embeddings and stays.

    Parameters
    ----------
    objective : {"one_class", "soft_boundary"}
    epochs, pretrain_epochs : int
        Of the training, and of the autoencoder before it; 0 pretrains not.
    drop_epoch, pretrain_drop_epoch : int
        The learning rate is a tenth from there on.
    batch_size : int
        Images.
    learning_rate, weight_decay : float
        Of Adam.
    nu : float
        Share of training images that may lie outside of the soft boundary, in (0, 1].
    warm_up_epochs : int
        The radius stays 0 so long.
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
    network_ : Hypersphere
    """

    def __init__(
        self,
        objective: str = "one_class",
        epochs: int = 150,
        pretrain_epochs: int = 350,
        drop_epoch: int = 50,
        pretrain_drop_epoch: int = 250,
        batch_size: int = 200,
        learning_rate: float = 1e-4,
        weight_decay: float = 0.5e-6,
        nu: float = 0.1,
        warm_up_epochs: int = 10,
        max_images: int = 0,
        seed: int = 0,
        device: str | None = None,
        precision: str = "auto",
    ) -> None:
        self.objective = objective
        self.epochs = epochs
        self.pretrain_epochs = pretrain_epochs
        self.drop_epoch = drop_epoch
        self.pretrain_drop_epoch = pretrain_drop_epoch
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.nu = nu
        self.warm_up_epochs = warm_up_epochs
        self.max_images = max_images
        self.seed = seed
        self.device = device
        self.precision = precision

    def arithmetic(self) -> str:
        """Say what this machine computes in, which the scores depend on; see `baselines._preparation.name_arithmetic`."""
        return name_arithmetic(self.device, self.precision)

    def check_rows(self, n: int) -> None:
        """Refuse a training set too small for the BatchNorm of embeddings.

        Raises
        ------
        ValueError
            If n is under 2, or a parameter is out of range.
        """
        check_parameters(self, "Deep SVDD")
        check_rows(n, 2, "Deep SVDD")

    def fit(
        self, X: np.ndarray, *, monitor: Monitor | None = None, checkpoint: Path | None = None
    ) -> DeepSVDD:
        """Train on normal images.

        Parameters
        ----------
        X : ndarray of shape (n, side, side, c), uint8
        monitor : callable, optional
            Called as ``monitor(name, epoch, epochs, share, loss)`` with the name ``pretrain_loss``, then ``loss``.
        checkpoint : Path, optional
            Continued from, and written as the training goes on.

        Raises
        ------
        ValueError
            If the images or a parameter cannot be used.
        TrainingDivergedError
            If a loss is not finite.
        """
        X, device, precision, generator = prepare_training(self, X, "Deep SVDD")
        side, channels = X.shape[2:]
        widths = DIGITS if (side, channels) == (DIGIT_SIDE, 1) else COLOUR
        autoencoder = build_network(lambda: Autoencoder(channels, side, widths), device, generator)
        network = build_network(lambda: Hypersphere(channels, side, widths), device, generator)
        views = Views(to_device(X, device), identity(side))
        network.scale.copy_(_least_and_greatest(views, self.batch_size))

        def reconstruction_loss(numbers: torch.Tensor, _epoch: int) -> torch.Tensor:
            images = network.normalise(views.make(numbers))
            with autocast(device, precision):
                reconstructed = autoencoder(images)
            return (reconstructed - images).square().sum((1, 2, 3)).mean()

        def distance_loss(numbers: torch.Tensor, epoch: int) -> torch.Tensor:
            with autocast(device, precision):
                distances = network(views.make(numbers))
            if self.objective == "one_class":
                return distances.mean()
            square = network.radius.square()
            loss = square + (distances - square).clamp(min=0).mean() / self.nu
            if (
                epoch > self.warm_up_epochs
            ):  # not learnt by gradient: it is the batch's quantile (authors' code)
                network.radius.copy_(distances.detach().sqrt().quantile(1 - self.nu))
            return loss

        traits = training_identity(self, X, device.type, precision)
        shuffling = torch.Generator(device).manual_seed(self.seed)
        if (
            read_checkpoint(checkpoint, traits, "loss") is None
        ):  # else the pretraining is over, and its result there
            rate = self._rate(self.pretrain_drop_epoch)
            pretraining = Training(
                "pretrain_loss", len(X), self.batch_size, self.pretrain_epochs, rate, traits
            )
            adam = self._adam(autoencoder)
            fit_network(
                autoencoder,
                reconstruction_loss,
                adam,
                pretraining,
                shuffling,
                monitor=monitor,
                checkpoint=checkpoint,
            )
            network.encoder.load_state_dict(autoencoder.encoder.state_dict())
            network.centre.copy_(push_from_zero(_mean_embedding(network, X, device, precision)))
        training = Training(
            "loss", len(X), self.batch_size, self.epochs, self._rate(self.drop_epoch), traits
        )
        fit_network(
            network,
            distance_loss,
            self._adam(network),
            training,
            shuffling,
            monitor=monitor,
            checkpoint=checkpoint,
        )
        self.network_, self.shape_ = network, X.shape[1:]
        return self

    def anomaly_score(self, X: np.ndarray) -> np.ndarray:
        """Score images: higher is more anomalous.

        Parameters
        ----------
        X : ndarray of shape (n, side, side, c), uint8

        Returns
        -------
        ndarray of shape (n,), float64
            Squared distances to the centre.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If the images are not of the training images' shape.
        """
        check_ready(self, X, "Deep SVDD")
        device = self.network_.centre.device
        precision = pick_precision(self.precision, device)
        scores = np.empty(len(X))
        forward = in_precision(self.network_, device, precision)
        for numbers, distances in predict_views(forward, X, identity(X.shape[1]), device):
            scores[numbers] = distances.cpu().numpy()
        return scores

    def _rate(self, drop_epoch: int) -> Callable[[float], float]:
        return lambda time: self.learning_rate * (RATE_DROP if time >= drop_epoch else 1.0)

    def _adam(self, network: torch.nn.Module) -> torch.optim.Adam:
        return torch.optim.Adam(
            network.parameters(), self.learning_rate, weight_decay=self.weight_decay
        )


def _least_and_greatest(views: Views, batch_size: int) -> torch.Tensor:
    """Least and greatest value of the training images after contrast normalisation, shape (2,): two numbers, not two images."""
    numbers = torch.arange(len(views), device=views.images.device).split(batch_size)
    ends = [torch.stack(contrast_normalise(views.make(some)).aminmax()) for some in numbers]
    return torch.stack([torch.stack(ends)[:, 0].min(), torch.stack(ends)[:, 1].max()])


def _mean_embedding(
    network: Hypersphere, X: np.ndarray, device: torch.device, precision: torch.dtype
) -> torch.Tensor:
    """Mean of the training images' embeddings, in evaluation mode, shape (embedding,), float32."""
    network.eval()

    def embed(images: torch.Tensor) -> torch.Tensor:
        return network.encoder(network.normalise(images))

    parts = predict_views(in_precision(embed, device, precision), X, identity(X.shape[1]), device)
    return (
        torch.stack([embeddings.double().sum(0) for _, embeddings in parts]).sum(0) / len(X)
    ).float()
