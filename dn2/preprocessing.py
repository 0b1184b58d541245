"""Resize 256, crop 224, exactly as torchvision does it on PIL images: the same integers.

`resize_with_pil` does it with PIL itself, for an image of any size; `dn2.layers.Resize` does it in
the network, for small images of one size, with the weights of `pil_weights`. One grey level more or
less is no detail: it was seen to move EfficientNet-Lite0's features by 6 % on average.

Imports no torch: a saved detector starts without the seconds that it takes.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

RESIZE, CROP = 256, 224
LARGEST_MATRIX = 128
"""Sides up to this go through matrices. Beyond it, and for mixed sizes, PIL itself is as fast."""

WEIGHT_BITS = 22
HALF_BITS = 11


def resize_with_pil(image: np.ndarray) -> np.ndarray:
    """Resize one image of any size, (h, w) or (h, w, 3) uint8, to (224, 224, 3) uint8."""
    height, width = resized_size(*image.shape[:2])
    top, left = crop_offset(height), crop_offset(width)
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(resized.crop((left, top, left + CROP, top + CROP)))
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def resized_size(height: int, width: int) -> tuple[int, int]:
    """Compute the size after the short side became 256.

    The long side is rounded down, as torchvision does.

    Examples
    --------
    >>> resized_size(30, 40)
    (256, 341)
    """
    short, long = min(height, width), max(height, width)
    longer = RESIZE * long // short
    return (RESIZE, longer) if height <= width else (longer, RESIZE)


def crop_offset(size: int) -> int:
    """Find the first row or column of the centre crop: half to even, as torchvision does."""
    return round((size - CROP) / 2)


def pil_weights(size_in: int, size_out: int) -> np.ndarray:
    """Compute PIL's weights for the cropped outputs of an axis: (224, size_in), units of 2^-22."""
    scale = size_in / size_out
    support = max(scale, 1.0)  # a triangle, widened when shrinking: that is the antialiasing
    weights = np.zeros((CROP, size_in), np.int64)
    for row, output in enumerate(range(crop_offset(size_out), crop_offset(size_out) + CROP)):
        center = (output + 0.5) * scale
        first, last = max(int(center - support + 0.5), 0), min(int(center + support + 0.5), size_in)
        triangle = np.maximum(0.0, 1.0 - np.abs(np.arange(first, last) + 0.5 - center) / support)
        weights[row, first:last] = (0.5 + triangle / triangle.sum() * (1 << WEIGHT_BITS)).astype(
            np.int64
        )
    return weights
