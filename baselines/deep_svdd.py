"""Deep SVDD: train a network to map normal images near a centre, and measure the distance to it.

Ruff et al., "Deep One-Class Classification", ICML 2018, with the settings of the authors' code.

In reading order: the detector, the hypersphere that it learns, and how images and the centre are
normalised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch
from torch import nn

from baselines._networks import (
    COLOUR,
    DIGIT_SIDE,
    DIGITS,
    Autoencoder,
    DigitAutoencoder,
    Encoder,
    Widths,
    draw_uniform,
    draw_xavier,
)
from baselines._parameters import (
    ABOVE_ZERO,
    AT_LEAST_ZERO,
    BATCH_SIZE,
    FRACTION_ABOVE_ZERO,
    MAX_IMAGES,
    ON_THIS_MACHINE,
    one_of,
    whole,
)
from baselines._prediction import predict_views
from baselines._preparation import in_precision, pick_precision
from baselines._trained import Preparation, TrainedBaseline
from baselines._training import Loss, Training, read_checkpoint
from baselines._transforms import Views, identity

CENTRE_MARGIN = 0.1
"""A coordinate of the centre that is nearer to 0 is pushed to this distance. Otherwise a network
could reach it with weights of 0 (authors' code)."""

RATE_DROP = 0.1  # what the learning rate is multiplied by (authors' code)


class DeepSVDD(TrainedBaseline):
    """Deep support vector data description.

    Training minimises the mean of ``|f(x) - c|^2`` (one_class), or ``R^2 + mean(max(0, |f(x) - c|^2
    - R^2)) / nu`` (soft_boundary). The score is ``|f(x) - c|^2``, a squared distance. The centre c
    is the mean of the first embeddings and does not move.

    Parameters
    ----------
    objective : {"one_class", "soft_boundary"}
    epochs, pretrain_epochs : int
        Of the training, and of the autoencoder before it; 0 means no pretraining.
    drop_epoch, pretrain_drop_epoch : int
        The epoch from which the learning rate is a tenth.
    batch_size : int
        Images.
    learning_rate : float
        Of Adam, in both stages.
    weight_decay, pretrain_weight_decay : float
        Of the training, and of the autoencoder's.
    nu : float
        The fraction of the training images that may lie outside the soft boundary, in (0, 1].
    warm_up_epochs : int
        The number of epochs for which the radius stays 0.
    max_images : int
        Train on a seeded subset of this many images; 0 takes all.
    seed : int
        Of weights, shuffles and subset.
    device : str, optional
        ``cpu``, ``cuda`` or ``cuda:1``; by default CUDA if there is a CUDA device.
    precision : {"auto", "float32", "bfloat16"}
        Of convolutions and matrix products; auto takes bfloat16 where the device is fast at it.

    Attributes
    ----------
    network_ : Hypersphere
    """

    title = "Deep SVDD"
    network_: Hypersphere

    def __init__(
        self,
        objective: Annotated[str, one_of("one_class", "soft_boundary")] = "one_class",
        epochs: Annotated[int, whole(1)] = 150,
        pretrain_epochs: Annotated[int, whole(0)] = 350,
        drop_epoch: Annotated[int, whole(0)] = 50,
        pretrain_drop_epoch: Annotated[int, whole(0)] = 250,
        batch_size: Annotated[int, BATCH_SIZE] = 200,
        learning_rate: Annotated[
            float, ABOVE_ZERO, {"search": {"low": 1e-5, "high": 1e-3, "log": True}}
        ] = 1e-4,
        weight_decay: Annotated[
            float, AT_LEAST_ZERO, {"search": {"low": 1e-7, "high": 1e-4, "log": True}}
        ] = 0.5e-6,
        pretrain_weight_decay: Annotated[float, AT_LEAST_ZERO] = 0.5e-6,
        nu: Annotated[float, FRACTION_ABOVE_ZERO] = 0.1,
        warm_up_epochs: Annotated[int, whole(0)] = 10,
        max_images: Annotated[int, MAX_IMAGES] = 0,
        seed: Annotated[int, whole(0)] = 0,
        device: Annotated[str | None, ON_THIS_MACHINE] = None,
        precision: Annotated[str, ON_THIS_MACHINE] = "auto",
    ) -> None:
        self.objective = objective
        self.epochs = epochs
        self.pretrain_epochs = pretrain_epochs
        self.drop_epoch = drop_epoch
        self.pretrain_drop_epoch = pretrain_drop_epoch
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.pretrain_weight_decay = pretrain_weight_decay
        self.nu = nu
        self.warm_up_epochs = warm_up_epochs
        self.max_images = max_images
        self.seed = seed
        self.device = device
        self.precision = precision

    def _train(self, preparation: Preparation) -> Hypersphere:
        side, channels = preparation.X.shape[2:]
        digits = (side, channels) == (DIGIT_SIDE, 1)
        widths = DIGITS if digits else COLOUR
        network = preparation.build(lambda: Hypersphere(channels, side, widths), draw_uniform)
        views = Views(preparation.images, identity(side))
        network.scale.copy_(_least_and_greatest(views, self.batch_size))
        # With a checkpoint of the second stage, the pretraining is over and its result is in there.
        if read_checkpoint(preparation.checkpoint, preparation.identity, "loss") is None:
            if self.pretrain_epochs > 0:
                autoencoder = (
                    preparation.build(DigitAutoencoder, draw_uniform)
                    if digits
                    else preparation.build(lambda: Autoencoder(channels, side, widths), draw_xavier)
                )
                self._pretrain(autoencoder, network, views, preparation)
            network.centre.copy_(push_from_zero(_mean_embedding(network, preparation)))
        loss_of = self._distance_loss(network, views, preparation)
        training = self._stage("loss", self.epochs, self.drop_epoch, preparation)
        optimizer = torch.optim.Adam(
            network.parameters(), self.learning_rate, weight_decay=self.weight_decay
        )
        preparation.train(network, loss_of, optimizer, training)
        return network

    def _pretrain(
        self,
        autoencoder: Autoencoder | DigitAutoencoder,
        network: Hypersphere,
        views: Views,
        preparation: Preparation,
    ) -> None:
        """Train the autoencoder, and take over its encoder."""

        def loss_of(numbers: torch.Tensor, _epoch: int) -> torch.Tensor:
            images = network.normalise(views.make(numbers))
            with preparation.autocast():
                reconstructed = autoencoder(images)
            return (reconstructed - images).square().sum((1, 2, 3)).mean()

        training = self._stage(
            "pretrain_loss", self.pretrain_epochs, self.pretrain_drop_epoch, preparation
        )
        optimizer = torch.optim.Adam(
            autoencoder.parameters(), self.learning_rate, weight_decay=self.pretrain_weight_decay
        )
        preparation.train(autoencoder, loss_of, optimizer, training)
        network.encoder.load_state_dict(autoencoder.encoder.state_dict())

    def _distance_loss(self, network: Hypersphere, views: Views, preparation: Preparation) -> Loss:
        """Return the loss of the objective."""

        def loss_of(numbers: torch.Tensor, epoch: int) -> torch.Tensor:
            with preparation.autocast():
                distances = network(views.make(numbers))
            if self.objective == "one_class":
                return distances.mean()
            square = network.radius.square()
            loss = square + (distances - square).clamp(min=0).mean() / self.nu
            if epoch > self.warm_up_epochs:
                # The radius is not learnt by gradient: it is the batch's quantile (authors' code).
                network.radius.copy_(distances.detach().sqrt().quantile(1 - self.nu))
            return loss

        return loss_of

    def _stage(self, name: str, epochs: int, drop_epoch: int, preparation: Preparation) -> Training:
        return Training(
            name,
            items=len(preparation.X),
            batch_size=self.batch_size,
            epochs=epochs,
            learning_rate=self._rate(drop_epoch),
            identity=preparation.identity,
        )

    def _rate(self, drop_epoch: int) -> Callable[[float], float]:
        return lambda time: self.learning_rate * (RATE_DROP if time >= drop_epoch else 1.0)

    def _score(self, X: np.ndarray) -> np.ndarray:
        precision = pick_precision(self.precision, self._device)
        forward = in_precision(self.network_, self._device, precision)
        scores = np.empty(len(X))
        for numbers, distances in predict_views(forward, X, identity(X.shape[1]), self._device):
            scores[numbers] = distances.cpu().numpy()
        return scores


class Hypersphere(nn.Module):
    """An encoder, and the sphere that its embeddings of normal images are drawn into.

    The scale of the images, the centre and the radius are buffers, so that a checkpoint holds them.

    Parameters
    ----------
    channels, side : int
        The channels of an image, and its side in pixels.
    widths : Widths
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
        """Return squared distances of embeddings to the centre, shape (b,), float32."""
        return (self.encoder(self.normalise(images)) - self.centre).square().sum(1)


def contrast_normalise(images: torch.Tensor) -> torch.Tensor:
    """Subtract each image's mean and divide by its mean absolute value.

    This is the L1 global contrast normalisation of the authors' code. A constant image has no
    contrast and becomes 0.

    Parameters
    ----------
    images : tensor of shape (b, c, h, w)
        In any linear scale: the result is the same.

    Returns
    -------
    tensor of shape (b, c, h, w)
    """
    centred = images - images.mean((1, 2, 3), keepdim=True)
    contrast = centred.abs().mean((1, 2, 3), keepdim=True)
    return torch.where(contrast > 1e-6, centred / contrast.clamp(min=1e-6), 0.0)


def push_from_zero(centre: torch.Tensor) -> torch.Tensor:
    """Push coordinates near 0 to `CENTRE_MARGIN`, keeping their sign; 0 becomes positive."""
    pushed = torch.where(centre < 0, -CENTRE_MARGIN, CENTRE_MARGIN).to(centre.dtype)
    return torch.where(centre.abs() < CENTRE_MARGIN, pushed, centre)


def _least_and_greatest(views: Views, batch_size: int) -> torch.Tensor:
    """Return the least and the greatest value of the contrast-normalised images, shape (2,).

    They are two numbers for all images, not two per pixel.
    """
    numbers = torch.arange(len(views), device=views.images.device).split(batch_size)
    ends = [torch.stack(contrast_normalise(views.make(some)).aminmax()) for some in numbers]
    return torch.stack([torch.stack(ends)[:, 0].min(), torch.stack(ends)[:, 1].max()])


def _mean_embedding(network: Hypersphere, preparation: Preparation) -> torch.Tensor:
    """Average the training images' embeddings, in evaluation mode, (embedding,) float32."""
    X, device = preparation.X, preparation.device
    network.eval()

    def embed(images: torch.Tensor) -> torch.Tensor:
        return network.encoder(network.normalise(images))

    forward = in_precision(embed, device, preparation.precision)
    sums = [
        embeddings.double().sum(0)
        for _, embeddings in predict_views(forward, X, identity(X.shape[1]), device)
    ]
    return (torch.stack(sums).sum(0) / len(X)).float()
