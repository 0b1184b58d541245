"""GOAD: measure how far an image's transformed versions lie from those of normal images.

A network gathers normal images under each transformation around a centre. Bergman and Hoshen,
"Classification-Based Anomaly Detection for General Data", ICLR 2020 (2005.02359), with the settings
that the authors released for images.
"""

from __future__ import annotations

from typing import Annotated, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from baselines._inference import CompiledWideResNet
from baselines._networks import WideResNet, draw_he
from baselines._parameters import (
    ABOVE_ZERO,
    AT_LEAST_ZERO,
    BATCH_SIZE,
    DEPTH,
    MAX_IMAGES,
    ON_THIS_MACHINE,
    one_of,
    whole,
)
from baselines._prediction import Judge, Outputs, predict_views
from baselines._preparation import pick_precision
from baselines._trained import Objective, Preparation, TransformationBaseline
from baselines._transforms import Views, geometric_transformations

TRIPLET_WEIGHT = 0.1  # authors' code
NORM_WEIGHT = 10.0  # authors' code


class GOAD(TransformationBaseline):
    """Classification-based anomaly detection for general data.

    A network f maps an image under transformation m near a centre c_m. With ``P(m' | T_m x) =
    softmax over m' of -|f(T_m x) - c_m'|^2``, the score is ``sum over m of -log P(m | T_m x)`` over
    GEOM's 72 transformations.

    Deviation: the released residual block discards its second BatchNorm and ReLU by mistake; this
    is a Wide ResNet as published.

    Parameters
    ----------
    epochs : int
        Each goes over all images under all transformations; fixed before the run (authors' code).
    batch_size : int
        Images; a batch holds each of them under all 72 transformations (authors' code).
    learning_rate : float
        Of Adam (authors' code).
    schedule : {"constant", "cosine"}
        The learning rate stays, as in the authors' code, or falls to 0 along half a cosine.
    margin : float
        s of the triplet loss: 0.1 for CIFAR-10, 1 for FashionMNIST (authors' code).
    depth, width : int
        Of the Wide ResNet.
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
    network_ : WideResNet
    centres_ : ndarray of shape (72, d), float32
        The mean features of the training images under each transformation.
    """

    title = "GOAD"
    network_: WideResNet

    def __init__(
        self,
        epochs: Annotated[int, whole(1)] = 16,
        batch_size: Annotated[int, BATCH_SIZE] = 4,
        learning_rate: Annotated[
            float, ABOVE_ZERO, {"search": {"low": 1e-4, "high": 1e-2, "log": True}}
        ] = 1e-3,
        schedule: Annotated[str, one_of("constant", "cosine")] = "constant",
        margin: Annotated[
            float, AT_LEAST_ZERO, {"search": {"low": 0.03, "high": 3.0, "log": True}}
        ] = 0.1,
        depth: Annotated[int, DEPTH] = 10,
        width: Annotated[int, whole(1)] = 4,
        max_images: Annotated[int, MAX_IMAGES] = 0,
        seed: Annotated[int, whole(0)] = 0,
        device: Annotated[str | None, ON_THIS_MACHINE] = None,
        precision: Annotated[str, ON_THIS_MACHINE] = "auto",
    ) -> None:
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.margin = margin
        self.depth = depth
        self.width = width
        self.max_images = max_images
        self.seed = seed
        self.device = device
        self.precision = precision

    @property
    def chance(self) -> float:
        """The share of an image's transformations that guessing recognises."""
        return 1 / 72

    def _sources(self, side: int) -> torch.Tensor:
        return geometric_transformations(side)

    def _build(self, preparation: Preparation) -> WideResNet:
        side, channels = preparation.X.shape[2:]
        outputs = len(self._sources(side))
        return preparation.build(
            lambda: WideResNet(channels, outputs, self.depth, self.width), draw_he
        )

    def _objective(self, network: nn.Module, preparation: Preparation) -> Objective:
        network = cast(WideResNet, network)
        views = Views(preparation.images, self._sources(preparation.X.shape[1]))
        every = torch.arange(len(views.sources), device=preparation.device)

        def loss_of(images: torch.Tensor, _epoch: int) -> torch.Tensor:
            numbers = (images[:, None] * len(every) + every).reshape(-1)
            with preparation.autocast():
                features = network.features(views.make(numbers))
            classified = F.cross_entropy(network.head(features), views.labels(numbers))
            triplet = centre_triplet_loss(
                features.reshape(len(images), len(every), -1), self.margin
            )
            return classified + TRIPLET_WEIGHT * triplet + NORM_WEIGHT * features.square().mean()

        return Objective(loss_of, len(preparation.X), self.batch_size)

    def _optimizer(self, network: nn.Module) -> torch.optim.Adam:
        return torch.optim.Adam(network.parameters(), self.learning_rate)

    def _summarise(self, preparation: Preparation) -> None:
        compiled = CompiledWideResNet(self.network_, preparation.precision)
        sources = self._sources(preparation.X.shape[1])
        self.centres_ = _mean_features(compiled, preparation.X, sources, preparation.device)

    def _forward(self) -> Outputs:
        precision = pick_precision(self.precision, self._device)
        return CompiledWideResNet(self.network_, precision).features

    def _judge(self) -> Judge:
        centres = torch.tensor(self.centres_, device=self._device)

        def judge(
            features: torch.Tensor, transformations: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            distances = (features[:, None] - centres).square().sum(2)
            anomalies = F.cross_entropy(-distances, transformations, reduction="none")
            return anomalies, distances.argmin(1) == transformations

        return judge


def centre_triplet_loss(features: torch.Tensor, margin: float) -> torch.Tensor:
    """Return the mean of ``max(0, |f - c_m|^2 + s - min over m' != m of |f - c_m'|^2)``.

    The centre c_m is the mean of the batch's own features under transformation m.

    Parameters
    ----------
    features : tensor of shape (images, t, d)
        f of each image under each transformation.
    margin : float
        s, a squared distance.

    Returns
    -------
    tensor of shape ()
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
    """Average the features of the images under each transformation, (t, d) float32.

    Deviation: this is one more pass, in evaluation mode. The released code averages the features of
    the last epoch's batches, while the network still changes.
    """
    total: torch.Tensor | float = 0.0
    for numbers, features in predict_views(network.features, X, sources, device):
        members = F.one_hot(
            torch.from_numpy(numbers % len(sources)).to(device), len(sources)
        ).double()
        total = total + members.T @ features.double()
    return (cast(torch.Tensor, total) / len(X)).float().cpu().numpy()
