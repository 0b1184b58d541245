"""The networks of the baselines, and how their weights start.

- `WideResNet` (Zagoruyko and Komodakis, 1605.07146): GEOM, GOAD and MHRot on small images.
- `AttentionResNet18`, a ResNet-18 with CBAM (Woo et al., 1807.06521): MHRot on large images.
- `Encoder`, `Autoencoder` and `DigitAutoencoder`, in the manner of LeNet: Deep SVDD.
- `build_network` draws the first weights of any of them, by one of the rules before it.
  `use_generator` seeds their dropout.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeVar, cast

import torch
from torch import nn
from torch.nn import functional as F

Network = TypeVar("Network", bound=nn.Module)


class WideResNet(nn.Module):
    """The Wide ResNet WRN-``depth``-``width``.

    It has three stages of (depth - 4) / 6 blocks with 16, 32 and 64 times ``width`` channels.

    Parameters
    ----------
    channels : int
        The channels of an image.
    outputs : int
        The number of logits; those of several heads lie side by side.
    depth, width : int
        10 and 4 in GEOM, which makes 16, 64, 128 and 256 channels.
    dropout : float
        The fraction of activations dropped between a block's convolutions.

    Raises
    ------
    ValueError
        If the depth is not 6 n + 4.
    """

    def __init__(
        self, channels: int, outputs: int, depth: int = 10, width: int = 4, dropout: float = 0.0
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(
                f"a Wide ResNet's depth is 6 n + 4 (10, 16, 22 ...), got {depth}: use 10 or 16"
            )
        widths = (16, 16 * width, 32 * width, 64 * width)
        self.stem = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        stages: list[nn.Module] = []
        for stage, (before, after) in enumerate(pairwise(widths)):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(
                    PreActivationBlock(before if block == 0 else after, after, stride, dropout)
                )
        self.blocks = nn.ModuleList(stages)
        self.norm = nn.BatchNorm2d(widths[-1])
        self.head = nn.Linear(widths[-1], outputs)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        """Return activations before pooling, (b, 64 * width, side / 4, side / 4)."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return F.relu(self.norm(x))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return pooled features, shape (b, 64 * width), float32."""
        return self.maps(x).float().mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (b, outputs), float32.

        The head is never bfloat16: with its 8 bits many images would have equal scores.
        """
        features = self.features(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.head(features)


class PreActivationBlock(nn.Module):
    """BN, ReLU, 3x3 convolution, BN, ReLU, dropout, 3x3 convolution, added to the block's input.

    The input is projected where the shape changes.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.dropout = Dropout(dropout)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        changes = stride != 1 or channels_in != channels_out
        self.project = (
            nn.Conv2d(channels_in, channels_out, 1, stride, bias=False) if changes else None
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = F.relu(self.norm1(x))
        skip = x if self.project is None else self.project(active)
        return skip + self.conv2(self.dropout(F.relu(self.norm2(self.conv1(active)))))


class Dropout(nn.Module):
    """Dropout that draws its masks from a given generator; torch's draws from the global one.

    Masks are 16-bit pieces of 64-bit draws, four per draw. With one draw per element, they would
    take as long as the convolutions.

    Parameters
    ----------
    fraction : float
        The fraction of elements that are dropped, in [0, 1).
    """

    def __init__(self, fraction: float) -> None:
        super().__init__()
        self.fraction = fraction
        self.generator: torch.Generator | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.fraction == 0:
            return x
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device=x.device)
        draws.random_(-(2**63), None, generator=self.generator)
        pieces = draws.view(torch.int16)[: x.numel()].reshape(x.shape)
        keep = pieces >= round(self.fraction * 2**16) - 2**15
        return x * keep / (1 - self.fraction)


REDUCTION = 16  # channels per hidden unit of the channel attention (CBAM, section 4.1)
SPATIAL_KERNEL = 7  # pixels a side of the spatial attention's kernel (CBAM, section 4.1)


class AttentionResNet18(nn.Module):
    """A ResNet-18 with attention (CBAM) in each block.

    A 7x7 convolution and a max-pool, then four stages of two blocks with 64, 128, 256 and 512
    channels.

    Parameters
    ----------
    channels : int
        The channels of an image.
    outputs : int
        The number of logits; those of several heads lie side by side.
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        self.stem_norm = nn.BatchNorm2d(64)
        stages = (
            (64, 64, 1),
            (64, 64, 1),
            (64, 128, 2),
            (128, 128, 1),
            (128, 256, 2),
            (256, 256, 1),
            (256, 512, 2),
            (512, 512, 1),
        )
        self.blocks = nn.Sequential(*(AttentionBlock(*stage) for stage in stages))
        self.head = nn.Linear(512, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (b, outputs), float32."""
        x = F.max_pool2d(F.relu(self.stem_norm(self.stem(x))), 3, 2, 1)
        features = self.blocks(x).float().mean((2, 3))
        with torch.autocast(x.device.type, enabled=False):
            return self.head(features)


class AttentionBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm, then attention.

    The block's input is added before the last ReLU.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.attention = Attention(channels_out)
        self.project: nn.Sequential | None = None
        if stride != 1 or channels_in != channels_out:
            self.project = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.attention(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))
        return F.relu(out + (x if self.project is None else self.project(x)))


class Attention(nn.Module):
    """CBAM: scale each channel by a gate, then each pixel by a gate.

    A channel's gate follows from its average and its maximum over the pixels, a pixel's gate from
    those over the channels around it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // REDUCTION
        self.squeeze = nn.Conv2d(channels, hidden, 1)  # linear layers over pooled channels
        self.expand = nn.Conv2d(hidden, channels, 1)
        self.place = nn.Conv2d(2, 1, SPATIAL_KERNEL, padding=SPATIAL_KERNEL // 2, bias=False)
        self.place_norm = nn.BatchNorm2d(1, momentum=0.01)  # authors' code

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = (x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True))
        x = (
            x
            * torch.stack([self.expand(F.relu(self.squeeze(pool))) for pool in pooled])
            .sum(0)
            .sigmoid()
        )
        across = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * self.place_norm(self.place(across)).sigmoid()


@dataclass(frozen=True)
class Widths:
    """The widths of Deep SVDD's encoder.

    Attributes
    ----------
    channels : tuple of int
        The channels of each block; a block halves the side.
    embedding : int
        The dimensions of the embedding.
    """

    channels: tuple[int, ...]
    embedding: int


DIGIT_SIDE = 28
DIGITS = Widths((8, 4), 32)
"""For grey images of 28 px (MNIST, FashionMNIST): 4 x 7 x 7 = 196 values become 32."""

COLOUR = Widths((32, 64, 128), 128)
"""For all others; at 32 px, 128 x 4 x 4 = 2048 values become 128."""

CODE_SIDE = 4
"""A decoder begins with the embedding folded into a map of this side, in pixels: 128 values make
8 x 4 x 4, 32 values make 2 x 4 x 4."""


class Encoder(nn.Module):
    """Deep SVDD's encoder: convolutional blocks, then a linear layer.

    A block is a 5x5 convolution, a BatchNorm without affine parameters, a leaky ReLU and a 2x2
    max-pool. No layer has a bias: with one, the network could map every image to the centre (Ruff
    et al. 2018, proposition 2).

    Parameters
    ----------
    channels, side : int
        The channels of an image, and its side in pixels.
    widths : Widths
    """

    def __init__(self, channels: int, side: int, widths: Widths) -> None:
        super().__init__()
        before = (channels, *widths.channels[:-1])
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 5, padding=2, bias=False)
            for a, b in zip(before, widths.channels, strict=True)
        )
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(b, eps=1e-4, affine=False) for b in widths.channels
        )
        self.side = side >> len(widths.channels)
        self.embed = nn.Linear(widths.channels[-1] * self.side**2, widths.embedding, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Embed images (b, c, side, side) as (b, embedding), float32."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.max_pool2d(F.leaky_relu(norm(convolution(x))), 2)
        with torch.autocast(x.device.type, enabled=False):
            return self.embed(x.float().flatten(1))


class Autoencoder(nn.Module):
    """The encoder and its mirror image, which reconstructs the encoder's input.

    The decoder normalises the code, upsamples (nearest) after each convolution, and ends in a
    sigmoid. At 32 px it is the authors' network for CIFAR-10. For other sides there is none of
    theirs; the decoder then upsamples straight to the encoder's sides.

    Parameters
    ----------
    channels, side : int
        The channels of an image, and its side in pixels.
    widths : Widths
    """

    def __init__(self, channels: int, side: int, widths: Widths) -> None:
        super().__init__()
        self.encoder = Encoder(channels, side, widths)
        code_channels = widths.embedding // CODE_SIDE**2
        self.norm = nn.BatchNorm1d(widths.embedding, eps=1e-4, affine=False)
        before = (code_channels, *reversed(widths.channels))
        after = (*reversed(widths.channels), channels)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 5, padding=2, bias=False) for a, b in zip(before, after, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(b, eps=1e-4, affine=False) for b in after[:-1])
        self.sides = [side >> level for level in reversed(range(len(widths.channels)))]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Reconstruct images (b, c, side, side), with values in [0, 1], float32."""
        code = F.leaky_relu(self.norm(self.encoder(x)))
        x = code.reshape(len(code), -1, CODE_SIDE, CODE_SIDE)
        for convolution, norm, side in zip(self.convolutions, self.norms, self.sides, strict=False):
            x = F.interpolate(F.leaky_relu(norm(convolution(x))), (side, side))
        return self.convolutions[-1](x).float().sigmoid()


class DigitAutoencoder(nn.Module):
    """The encoder of grey 28 px images, and the decoder that the authors give MNIST.

    The decoder upsamples (nearest) to twice the side before each convolution, ends in a sigmoid,
    and does not normalise the code. Its sides are 4, 8, 16, cropped to 14 by the second
    convolution, and 28.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder(1, DIGIT_SIDE, DIGITS)
        last, first = DIGITS.channels[-1], DIGITS.channels[0]
        self.convolutions = nn.ModuleList(
            nn.ConvTranspose2d(before, after, 5, padding=padding, bias=False)
            for before, after, padding in (
                (DIGITS.embedding // CODE_SIDE**2, last, 2),
                (last, first, 3),
                (first, 1, 2),
            )
        )
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(channels, eps=1e-4, affine=False) for channels in (last, first)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Reconstruct images (b, 1, 28, 28), with values in [0, 1], float32."""
        x = self.encoder(x).reshape(len(x), -1, CODE_SIDE, CODE_SIDE)
        for convolution, norm in zip(self.convolutions, (*self.norms, nn.Identity()), strict=True):
            x = norm(convolution(F.interpolate(F.leaky_relu(x), scale_factor=2)))
        return x.float().sigmoid()


Draw = Callable[[nn.Module, torch.Generator], None]
"""Draws the first weights of a network in place. Biases are 0 and norms the identity before it."""


def draw_he(
    network: nn.Module,
    generator: torch.Generator,
    fan: Literal["fan_in", "fan_out"] = "fan_out",
) -> None:
    """Draw convolutions He-normal (1502.01852), and linear layers uniform in +-1/sqrt(inputs).

    Parameters
    ----------
    network : torch.nn.Module
    generator : torch.Generator
    fan : {"fan_in", "fan_out"}
        What a convolution's variance is 2 divided by: the inputs of an output, or the reverse.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(
                module.weight, mode=fan, nonlinearity="relu", generator=generator
            )
        elif isinstance(module, nn.Linear):
            _draw_uniform(module, generator)


def draw_he_by_inputs(network: nn.Module, generator: torch.Generator) -> None:
    """Draw as `draw_he`, with the variance 2 / inputs, as GEOM's authors do."""
    draw_he(network, generator, "fan_in")


def draw_with_attention(network: nn.Module, generator: torch.Generator) -> None:
    """Draw an `AttentionResNet18` as released.

    Convolutions are He-normal by fan-out, the head He-normal by fan-in. Projections and the layers
    of the channels' gates are uniform in +-1/sqrt(inputs). The norms of the pixels' gates multiply
    by 0, so that each of these gates is one half at the start.
    """
    draw_he(network, generator)
    for module in network.modules():
        if isinstance(module, AttentionBlock):
            if module.project is not None:
                _draw_uniform(cast(nn.Conv2d, module.project[0]), generator)
            _draw_uniform(module.attention.squeeze, generator)
            _draw_uniform(module.attention.expand, generator)
            nn.init.zeros_(module.attention.place_norm.weight)
    if isinstance(network, AttentionResNet18):
        nn.init.kaiming_normal_(network.head.weight, nonlinearity="relu", generator=generator)


def draw_uniform(network: nn.Module, generator: torch.Generator) -> None:
    """Draw all layers uniform in +-1/sqrt(inputs), as PyTorch does where nothing is said.

    The inputs of a transposed convolution are its outputs' channels, times the kernel's pixels.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            _draw_uniform(module, generator)


def draw_xavier(network: nn.Module, generator: torch.Generator) -> None:
    """Draw convolutions Xavier-uniform with a leaky ReLU's gain, linear layers as `draw_uniform`.

    The authors of Deep SVDD do so for CIFAR-10's autoencoder.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(
                module.weight, nn.init.calculate_gain("leaky_relu"), generator=generator
            )
        elif isinstance(module, nn.Linear):
            _draw_uniform(module, generator)


def _draw_uniform(
    layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, generator: torch.Generator
) -> None:
    bound = 1 / math.sqrt(layer.weight[0].numel())
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)


def build_network(
    make: Callable[[], Network],
    device: torch.device,
    generator: torch.Generator,
    draw: Draw = draw_he,
) -> Network:
    """Build a network with weights drawn from a generator; the global generator is not used.

    Biases and buffers start at 0, and BatchNorm at the identity.

    Parameters
    ----------
    make : callable
        Makes the network, without arguments.
    device : torch.device
    generator : torch.Generator
        On the CPU.
    draw : callable
        Draws the weights; see `Draw`.

    Returns
    -------
    torch.nn.Module
        On the device, in float32, channels last in memory.
    """
    # There is no memory on "meta", so that nothing is drawn from the global generator.
    with torch.device("meta"):
        network = make()
    network = network.float().to_empty(device="cpu")
    for buffer in network.buffers():
        buffer.zero_()
    module: Any
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_parameters()
        elif getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)
    draw(network, generator)
    return network.to(device).to(memory_format=torch.channels_last)


def use_generator(network: nn.Module, generator: torch.Generator) -> None:
    """Make every `Dropout` of the network draw from this generator."""
    for module in network.modules():
        if isinstance(module, Dropout):
            module.generator = generator
