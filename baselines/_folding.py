"""A trained Wide ResNet with its BatchNorms folded into the convolutions before them: half the time of a forward pass.

In evaluation mode a BatchNorm is a scale and a shift for each channel. It can be made part of the convolution whose output it
takes, if nobody else takes that output as it was: so of every block's second norm, and, where the block after projects its skip
connection (in a WRN-10 each does), of the norm that this block or the head begins with.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from baselines._networks import PreActivationBlock, WideResNet


def _fold(
    convolution: nn.Conv2d, norm: nn.BatchNorm2d | None, precision: torch.dtype
) -> tuple[nn.Parameter, nn.Parameter | None]:
    """Weight and bias of the convolution followed by the norm."""
    weight, bias = convolution.weight, None
    if norm is not None:
        mean, variance = cast(torch.Tensor, norm.running_mean), cast(torch.Tensor, norm.running_var)
        scale = norm.weight / (variance + norm.eps).sqrt()
        weight, bias = weight * scale[:, None, None, None], _constant(norm.bias - mean * scale, precision)
    return _constant(weight.contiguous(memory_format=torch.channels_last), precision), bias


def _constant(tensor: torch.Tensor, precision: torch.dtype) -> nn.Parameter:
    return nn.Parameter(tensor.detach().to(precision, copy=True), requires_grad=False)


class _FoldedBlock(nn.Module):
    """A block whose input is active already (``entry`` None) or not, and whose output is, if ``exit_norm`` is folded in."""

    def __init__(
        self, block: PreActivationBlock, entry: nn.Module | None, exit_norm: nn.BatchNorm2d | None, precision: torch.dtype
    ) -> None:
        super().__init__()
        self.entry = entry
        self.stride = block.conv1.stride
        self.leaves_active = exit_norm is not None
        self.weight1, self.bias1 = _fold(block.conv1, block.norm2, precision)
        self.weight2, self.bias2 = _fold(block.conv2, exit_norm, precision)
        self.project = None if block.project is None else _fold(block.project, exit_norm, precision)[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = x if self.entry is None else F.relu(self.entry(x))
        hidden = F.conv2d(active, self.weight1, self.bias1, self.stride, 1).relu_()
        out = F.conv2d(hidden, self.weight2, self.bias2, 1, 1)
        out += x if self.project is None else F.conv2d(active, self.project, None, self.stride)
        return out.relu_() if self.leaves_active else out


class FoldedWideResNet(nn.Module):
    """What `WideResNet` computes in evaluation mode; the network itself is left as it is.

    Parameters
    ----------
    network : WideResNet
    precision : torch.dtype
        Of convolutions and activations; pooling and head are float32.
    """

    def __init__(self, network: WideResNet, precision: torch.dtype) -> None:
        super().__init__()
        blocks = [cast(PreActivationBlock, block) for block in network.blocks]
        producers: list[PreActivationBlock | None] = [None, *blocks]  # None is the stem
        takers: list[PreActivationBlock | None] = [*blocks, None]  # None is the head
        norms = [*(block.norm1 for block in blocks), network.norm]
        # Norm i stands between producer i and taker i; with a plain skip connection on either side its input is needed unscaled.
        folds = [
            all(block is None or block.project is not None for block in (before, after))
            for before, after in zip(producers, takers, strict=True)
        ]
        self.stem, self.stem_bias = _fold(network.stem, norms[0] if folds[0] else None, precision)
        self.stem_active = folds[0]
        self.blocks = nn.ModuleList(
            _FoldedBlock(block, None if folds[i] else norms[i], norms[i + 1] if folds[i + 1] else None, precision)
            for i, block in enumerate(blocks)
        )
        self.norm = None if folds[-1] else network.norm
        self.precision = precision
        self.head = network.head

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Pooled features, shape (b, 64 * width), float32."""
        x = F.conv2d(x.to(self.precision), self.stem, self.stem_bias, 1, 1)
        if self.stem_active:
            x = x.relu_()
        for block in self.blocks:
            x = block(x)
        if self.norm is not None:
            x = F.relu(self.norm(x))
        return x.float().mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, shape (b, outputs), float32."""
        return self.head(self.features(x))
