"""MHRot: predict how an image was rotated and shifted, with one head for each kind of change.

The less probable the heads find what was really done, the more anomalous the image. Hendrycks et
al., "Using Self-Supervised Learning Can Improve Model Robustness and Uncertainty", NeurIPS 2019
(1906.12340).
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import nn
from torch.nn import functional as F

from baselines._networks import (
    AttentionResNet18,
    WideResNet,
    draw_he,
    draw_with_attention,
)
from baselines._parameters import (
    ABOVE_ZERO,
    AT_LEAST_ZERO,
    BATCH_SIZE,
    DEPTH,
    FRACTION_BELOW_ONE,
    MAX_IMAGES,
    ON_THIS_MACHINE,
    one_of,
    whole,
)
from baselines._prediction import Judge
from baselines._preparation import MIN_SIDE
from baselines._trained import Objective, Preparation, TransformationBaseline
from baselines._transforms import Views, rotated_crops, turns_and_shifts

HEADS = (4, 3, 3)  # rotations, vertical shifts, horizontal shifts
SHIFTS = 9  # vertical times horizontal
MOMENTUM = 0.9  # Nesterov's (authors' code)
MIN_SIDE_HIGH = 64  # pixels: a ResNet-18 halves the side five times


class MHRot(TransformationBaseline):
    """Multi-head prediction of rotation and translation.

    Views are made by 4 rotations x 3 vertical x 3 horizontal shifts. The score is minus the sum,
    over the views, of the three probabilities that the heads give to what was done.

    ``low`` resolution takes the images as they are. Deviation: it was never released; network,
    optimizer and epochs are our choice, after an independent port. ``high`` crops 7/8 of the side,
    which is 224 of 256 px, and shifts by a quarter of that, 56 px, as released. Deviation: of an
    image that is not square, the authors' random crops lie anywhere, ours in its middle.

    Parameters
    ----------
    resolution : {"low", "high"}
        A Wide ResNet, or a ResNet-18 with attention (input pixels:256).
    epochs : int
        ``low``: each goes over all images under all 36 transformations. ``high``: each goes over
        all images under all 9 shifts, each time at a random crop and flip, and under all 4
        rotations; 5 in the authors' code.
    batch_size : int
        Transformed images; ``high``: 256 in the authors' code, 64 images under 4 rotations.
    learning_rate, weight_decay : float
        Of SGD with Nesterov's momentum; the rate falls along a cosine to 1e-6 (authors' code).
    depth, width, dropout : int, int, float
        Of the Wide ResNet.
    max_images : int
        Train on a seeded subset of this many images; 0 takes all.
    seed : int
        Of weights, shuffles, crops, dropout and subset.
    device : str, optional
        ``cpu``, ``cuda`` or ``cuda:1``; by default CUDA if there is a CUDA device.
    precision : {"auto", "float32", "bfloat16"}
        Of convolutions and matrix products; auto takes bfloat16 where the device is fast at it.

    Attributes
    ----------
    network_ : WideResNet or AttentionResNet18
    """

    title = "MHRot"
    schedule = "cosine"
    last_rate = 1e-6  # authors' code

    def __init__(
        self,
        resolution: Annotated[str, one_of("low", "high")] = "low",
        epochs: Annotated[int, whole(1)] = 16,
        batch_size: Annotated[int, BATCH_SIZE] = 128,
        learning_rate: Annotated[
            float, ABOVE_ZERO, {"search": {"low": 1e-2, "high": 1.0, "log": True}}
        ] = 0.1,
        weight_decay: Annotated[float, AT_LEAST_ZERO] = 5e-4,
        depth: Annotated[int, DEPTH] = 16,
        width: Annotated[int, whole(1)] = 4,
        dropout: Annotated[
            float, FRACTION_BELOW_ONE, {"search": {"low": 0.0, "high": 0.5, "log": False}}
        ] = 0.3,
        max_images: Annotated[int, MAX_IMAGES] = 0,
        seed: Annotated[int, whole(0)] = 0,
        device: Annotated[str | None, ON_THIS_MACHINE] = None,
        precision: Annotated[str, ON_THIS_MACHINE] = "auto",
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

    def _min_side(self) -> int:
        return MIN_SIDE_HIGH if self.resolution == "high" else MIN_SIDE

    @property
    def chance(self) -> float:
        """The share of an image's transformations that guessing recognises: a mean over heads."""
        return sum(1 / answers for answers in HEADS) / len(HEADS)

    def _sources(self, side: int) -> torch.Tensor:
        return turns_and_shifts(side, 0 if self.resolution == "low" else _crop(side))

    def _build(self, preparation: Preparation) -> nn.Module:
        channels = preparation.X.shape[3]
        if self.resolution == "high":
            return preparation.build(
                lambda: AttentionResNet18(channels, sum(HEADS)), draw_with_attention
            )
        return preparation.build(
            lambda: WideResNet(channels, sum(HEADS), self.depth, self.width, self.dropout), draw_he
        )

    def _objective(self, network: nn.Module, preparation: Preparation) -> Objective:
        if self.resolution == "high":
            return self._objective_on_crops(network, preparation)
        views = Views(preparation.images, self._sources(preparation.X.shape[1]))

        def loss_of(numbers: torch.Tensor, _epoch: int) -> torch.Tensor:
            with preparation.autocast():
                logits = network(views.make(numbers))
            return _mean_cross_entropy(logits, head_labels(views.labels(numbers)))

        return Objective(loss_of, len(views), self.batch_size)

    def _objective_on_crops(self, network: nn.Module, preparation: Preparation) -> Objective:
        """Return the objective of high resolution.

        An item is an image under one of the 9 shifts, at a random crop, and 4 times rotated.
        """
        images, crop = preparation.images, _crop(preparation.X.shape[1])

        def loss_of(numbers: torch.Tensor, _epoch: int) -> torch.Tensor:
            image = numbers.div(SHIFTS, rounding_mode="floor")
            down, right = numbers % SHIFTS // 3, numbers % 3
            crops = rotated_crops(images[image], crop, down, right, preparation.random)
            with preparation.autocast():
                logits = network(crops)
            turns = torch.arange(4, device=images.device).repeat_interleave(len(numbers))
            return _mean_cross_entropy(logits, (turns, down.repeat(4), right.repeat(4)))

        return Objective(loss_of, SHIFTS * len(images), max(2, self.batch_size // 4))

    def _optimizer(self, network: nn.Module) -> torch.optim.SGD:
        return torch.optim.SGD(
            network.parameters(),
            self.learning_rate,
            MOMENTUM,
            weight_decay=self.weight_decay,
            nesterov=True,
        )

    def _judge(self) -> Judge:
        return _judge_heads


Labels = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""The classes for the heads of rotation, vertical and horizontal shift, each (b,)."""


def head_labels(transformations: torch.Tensor) -> Labels:
    """Split numbers of the 36 transformations (b,) into the labels of the three heads."""
    return transformations // 9, transformations // 3 % 3, transformations % 3


def _mean_cross_entropy(logits: torch.Tensor, labels: Labels) -> torch.Tensor:
    """Return the mean of the heads' cross-entropies, shape ()."""
    losses = [F.cross_entropy(*pair) for pair in zip(logits.split(HEADS, 1), labels, strict=True)]
    return torch.stack(losses).mean()


def _judge_heads(
    logits: torch.Tensor, transformations: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = list(zip(logits.split(HEADS, 1), head_labels(transformations), strict=True))
    given = [head.softmax(1).gather(1, label[:, None])[:, 0] for head, label in pairs]
    right = [(head.argmax(1) == label).double() for head, label in pairs]
    # The paper's score is a normality; ours is higher for anomalies.
    return -torch.stack(given).sum(0), torch.stack(right).mean(0)


def _crop(side: int) -> int:
    """Return the side of the crop of a large image: 224 of 256 px (authors' code)."""
    return side * 7 // 8
