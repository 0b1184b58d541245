"""Resize 256, crop 224, exactly as torchvision does it on PIL images: the same integers.

PIL resizes in two passes, the width first, and rounds to integers after each. Its weights are
fixed-point numbers of 22 bits. A pass is therefore a matrix product, and float32 computes it
without any rounding once the weights are cut into two halves of 11 bits: each half times 8-bit
pixels stays below 2^24. Only the rows and columns that the crop keeps are in the matrices. One grey
level more or less is no detail: it was seen to move EfficientNet-Lite0's features by 6 % on
average. For large images PIL does it itself: see `dn2.squares.resize_with_pil`.
"""

from __future__ import annotations

import numpy as np
import torch

from dn2.squares import CROP, axis_weights, crop_offset, resized_size

HALF_BITS = 11


class Resize(torch.nn.Module):
    """Map images (n, h, w, c) uint8 to (n, c, 224, 224) float32 that holds integers in [0, 255].

    Parameters
    ----------
    height, width : int
        Of every image, at most 16 times 256.
    """

    columns_high: torch.Tensor
    columns_low: torch.Tensor
    rows_high: torch.Tensor
    rows_low: torch.Tensor

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        resized_height, resized_width = resized_size(height, width)
        # Factors such as CIFAR's 8 need the high half alone.
        self.columns_exact = self._register("columns", _weights(width, resized_width))
        self.rows_exact = self._register("rows", _weights(height, resized_height))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Resize and crop."""
        x = images.permute(0, 3, 1, 2).float()
        x = _round(x @ self.columns_high.T, None if self.columns_exact else x @ self.columns_low.T)
        return _round(self.rows_high @ x, None if self.rows_exact else self.rows_low @ x)

    def _register(self, name: str, weights: np.ndarray) -> bool:
        """Keep weights as two float32 matrices in units of 2^-11; return whether the low is 0."""
        low = weights & ((1 << HALF_BITS) - 1)
        for half, values in (("high", weights >> HALF_BITS), ("low", low)):
            self.register_buffer(
                f"{name}_{half}",
                torch.tensor(values / (1 << HALF_BITS), dtype=torch.float32),
                persistent=False,
            )
        return not low.any()


class Normalize(torch.nn.Module):
    """Map grey levels (n, 1 or 3, 224, 224) to an encoder's scale (n, 3, 224, 224)."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        super().__init__()
        scale, shift = 1 / (255 * np.array(std)), -np.array(mean) / np.array(std)
        self.register_buffer(
            "scale", torch.tensor(scale, dtype=torch.float32).view(3, 1, 1), persistent=False
        )
        self.register_buffer(
            "shift", torch.tensor(shift, dtype=torch.float32).view(3, 1, 1), persistent=False
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scale and shift."""
        return pixels * self.scale + self.shift


class ToFloat(torch.nn.Module):
    """Map images (n, h, w, c) uint8 that have the right size already to (n, c, h, w) float32."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Transpose and convert."""
        return images.permute(0, 3, 1, 2).float()


def _weights(size_in: int, size_out: int) -> np.ndarray:
    """Compute PIL's weights for the cropped outputs of an axis: (224, size_in), units of 2^-22."""
    first, needed = axis_weights(size_in, size_out, crop_offset(size_out), CROP)
    weights = np.zeros((CROP, size_in), np.int64)
    weights[:, first : first + needed.shape[1]] = needed
    return weights


def _round(high: torch.Tensor, low: torch.Tensor | None) -> torch.Tensor:
    """Round half up to integers; ``low`` counts in units of 2^-11 of ``high``'s."""
    if low is not None:
        high = high + torch.floor(low) * (1 / (1 << HALF_BITS))
    return torch.floor(high + 0.5)
