"""Deep SVDD's pieces: the normalisation of its images, the centre, and the distance to it."""

from __future__ import annotations

import torch
from torch import nn

from baselines._autoencoder import Encoder, Widths

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
