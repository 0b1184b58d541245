"""ResNet-18 (He et al., 1512.03385) with attention in each block (CBAM, Woo et al., 1807.06521)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

REDUCTION = 16  # of the channel attention's hidden layer (CBAM, section 4.1)
SPATIAL_KERNEL = 7  # of the spatial attention (CBAM, section 4.1)


class Attention(nn.Module):
    """Scales channels by what their averages and maxima say, then places by what those over the channels say."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // REDUCTION
        self.squeeze = nn.Conv2d(channels, hidden, 1)  # linear layers over pooled channels
        self.expand = nn.Conv2d(hidden, channels, 1)
        self.place = nn.Conv2d(2, 1, SPATIAL_KERNEL, padding=SPATIAL_KERNEL // 2, bias=False)
        self.place_norm = nn.BatchNorm2d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = (x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True))
        x = x * torch.stack([self.expand(F.relu(self.squeeze(pool))) for pool in pooled]).sum(0).sigmoid()
        across = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * self.place_norm(self.place(across)).sigmoid()


class AttentionBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm, attention, and the skip connection added before the last ReLU."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.attention = Attention(channels_out)
        self.project: nn.Module | None = None
        if stride != 1 or channels_in != channels_out:
            self.project = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.attention(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))
        return F.relu(out + (x if self.project is None else self.project(x)))


class AttentionResNet18(nn.Module):
    """Four stages of two blocks with 64, 128, 256 and 512 channels, after a 7x7 convolution and a max-pool.

    Parameters
    ----------
    channels : int
        Of the images.
    outputs : int
        Logits; those of several heads lie side by side.
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
        """Logits, shape (b, outputs), float32."""
        x = F.max_pool2d(F.relu(self.stem_norm(self.stem(x))), 3, 2, 1)
        features = self.blocks(x).float().mean((2, 3))
        with torch.autocast(x.device.type, enabled=False):
            return self.head(features)
