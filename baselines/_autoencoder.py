"""Deep SVDD's small LeNet-like networks, and the mirrored decoders they are pretrained with (Ruff et al., ICML 2018, code)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Widths:
    """Channels of the blocks (each halves the side), and the dimensions of the embedding."""

    channels: tuple[int, ...]
    embedding: int


DIGIT_SIDE = 28
DIGITS = Widths((8, 4), 32)
"""For 28 x 28 x 1, MNIST's and its kin's: 4 x 7 x 7 = 196 -> 32."""
COLOUR = Widths((32, 64, 128), 128)
"""For all others; at 32 px 128 x 4 x 4 = 2048 -> 128."""

CODE_SIDE = 4
"""The embedding is folded into a map of so many pixels a side for the decoder: 128 into 8 x 4 x 4, 32 into 2 x 4 x 4."""


class Encoder(nn.Module):
    """Blocks of 5x5 convolution, BatchNorm without affine, leaky ReLU and 2x2 max-pool, then a linear layer.

    Nothing has a bias: with one, the network could map every image to the centre (Ruff et al., proposition 2).

    Parameters
    ----------
    channels, side : int
        Of the images.
    """

    def __init__(self, channels: int, side: int, widths: Widths) -> None:
        super().__init__()
        before = (channels, *widths.channels[:-1])
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 5, padding=2, bias=False) for a, b in zip(before, widths.channels, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(b, eps=1e-4, affine=False) for b in widths.channels)
        self.side = side >> len(widths.channels)
        self.embed = nn.Linear(widths.channels[-1] * self.side**2, widths.embedding, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Embed images (b, c, side, side); returns (b, embedding), float32."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.max_pool2d(F.leaky_relu(norm(convolution(x))), 2)
        with torch.autocast(x.device.type, enabled=False):
            return self.embed(x.float().flatten(1))


class Autoencoder(nn.Module):
    """The encoder, and its mirror: nearest upsampling where the encoder pools, a sigmoid at the end.

    Deviation: the decoder starts from 4 x 4 and the last upsamplings go straight to the encoder's sides; at 28 px the authors'
    decoder overshoots to 16 and crops.
    """

    def __init__(self, channels: int, side: int, widths: Widths) -> None:
        super().__init__()
        self.encoder = Encoder(channels, side, widths)
        code_channels = widths.embedding // CODE_SIDE**2
        self.norm = nn.BatchNorm1d(widths.embedding, eps=1e-4, affine=False)
        before = (code_channels, *reversed(widths.channels))
        after = (*reversed(widths.channels), channels)
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 5, padding=2, bias=False) for a, b in zip(before, after, strict=True))
        self.norms = nn.ModuleList(nn.BatchNorm2d(b, eps=1e-4, affine=False) for b in after[:-1])
        self.sides = [side >> level for level in reversed(range(len(widths.channels)))]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Reconstruct images; values in [0, 1], float32."""
        code = F.leaky_relu(self.norm(self.encoder(x)))
        x = code.reshape(len(code), -1, CODE_SIDE, CODE_SIDE)
        for convolution, norm, side in zip(self.convolutions, self.norms, self.sides, strict=False):
            x = F.interpolate(F.leaky_relu(norm(convolution(x))), (side, side))
        return self.convolutions[-1](x).float().sigmoid()
