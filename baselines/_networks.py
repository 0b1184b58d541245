"""The Wide ResNet (Zagoruyko and Komodakis, 1605.07146) that GEOM, GOAD and MHRot train, and how weights start."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional as F

Network = TypeVar("Network", bound=nn.Module)


class Dropout(nn.Module):
    """Dropout whose masks come from a generator of ours: torch's own draws from the global one.

    Masks are 16-bit pieces of 64-bit draws, four for the price of one: with a draw for each element they would take as long
    as the convolutions.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.generator: torch.Generator | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.share == 0:
            return x
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device=x.device)
        draws.random_(-(2**63), None, generator=self.generator)
        pieces = draws.view(torch.int16)[: x.numel()].reshape(x.shape)
        keep = pieces >= round(self.share * 2**16) - 2**15
        return x * keep / (1 - self.share)


class PreActivationBlock(nn.Module):
    """BN, ReLU, 3x3 convolution, BN, ReLU, dropout, 3x3 convolution; added to the input, projected where the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.dropout = Dropout(dropout)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        changes = stride != 1 or channels_in != channels_out
        self.project = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False) if changes else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = F.relu(self.norm1(x))
        skip = x if self.project is None else self.project(active)
        return skip + self.conv2(self.dropout(F.relu(self.norm2(self.conv1(active)))))


class WideResNet(nn.Module):
    """WRN-``depth``-``width``: three stages of (depth - 4) / 6 blocks, of 16, 32 and 64 times ``width`` channels.

    Parameters
    ----------
    channels : int
        Of the images.
    outputs : int
        Logits; those of several heads lie side by side.
    depth, width : int
        10 and 4 in GEOM (widths 16, 64, 128, 256).
    dropout : float
        Share of activations dropped between a block's convolutions.
    """

    def __init__(self, channels: int, outputs: int, depth: int = 10, width: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"a Wide ResNet's depth is 6 n + 4 (10, 16, 22 ...), got {depth}: use 10 or 16")
        widths = (16, 16 * width, 32 * width, 64 * width)
        self.stem = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        stages: list[nn.Module] = []
        for stage, (before, after) in enumerate(pairwise(widths)):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(PreActivationBlock(before if block == 0 else after, after, stride, dropout))
        self.blocks = nn.ModuleList(stages)
        self.norm = nn.BatchNorm2d(widths[-1])
        self.head = nn.Linear(widths[-1], outputs)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        """Activations before pooling, shape (b, 64 * width, side / 4, side / 4)."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return F.relu(self.norm(x))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Pooled features, shape (b, 64 * width), float32."""
        return self.maps(x).float().mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, shape (b, outputs), float32: in bfloat16's 8 bits many images would have equal scores."""
        features = self.features(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.head(features)


def build_network(make: Callable[[], Network], device: torch.device, generator: torch.Generator) -> Network:
    """Build a network on a device with float32 weights drawn from the generator, channels last; no global state is used.

    Convolutions start He-normal (1502.01852, by fan-out), linear layers uniform in +-1/sqrt(inputs), biases and buffers at 0
    and BatchNorm at the identity.
    """
    with torch.device("meta"):  # no memory, hence no weights drawn from the global generator
        network = make()
    network = network.float().to_empty(device="cpu")
    for buffer in network.buffers():
        buffer.zero_()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_parameters()
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return network.to(device).to(memory_format=torch.channels_last)


def use_generator(network: nn.Module, generator: torch.Generator) -> None:
    """Let every dropout of the network draw from this generator."""
    for module in network.modules():
        if isinstance(module, Dropout):
            module.generator = generator
