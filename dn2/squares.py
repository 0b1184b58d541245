"""From an image of any shape to a square: cropped, padded or squashed.

- ``crop``: the short side is resized, and the middle is cut out. What lies outside of it is not
  seen; this is how the networks were trained.
- ``pad``: the long side is resized to the square's, and the rest is grey. All is seen, smaller.
- ``squash``: both sides are resized. All is seen, in another proportion.

A strip is cut before it is blown up: its square needs no more memory than the strip itself. Pillow
resizes in two passes, the width first, with weights in units of 2^-22, and rounds to integers after
each. A pass is therefore a product with a matrix, of which only the rows of the square are needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

RESIZE, CROP = 256, 224
"""To what the short side is resized, and the side of the square that is cut from the middle."""

SQUARES = ("crop", "pad", "squash")

PADDING = 127
"""The grey of what an image does not fill: about the mean that networks subtract."""

WEIGHT_BITS = 22

ELONGATED = 16
"""Times longer than wide: from here on, the source is cut first."""


def to_square(image: Image.Image, how: str = "crop") -> np.ndarray:
    """Make the square that an encoder sees: (224, 224, 3) uint8.

    Parameters
    ----------
    image : PIL.Image.Image
        Of mode L or RGB.
    how : {"crop", "pad", "squash"}
    """
    found = _middle(image, RESIZE, CROP) if how == "crop" else resize_whole(image, CROP, how)
    pixels = np.asarray(found)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def resize_with_pil(image: np.ndarray, how: str = "crop") -> np.ndarray:
    """Make the square of one image of any size, (h, w) or (h, w, 3) uint8: (224, 224, 3) uint8."""
    return to_square(Image.fromarray(image), how)


def resize_whole(image: Image.Image, side: int, how: str) -> Image.Image:
    """Make a square of a given side, in the image's own mode.

    Parameters
    ----------
    image : PIL.Image.Image
        Of mode L or RGB.
    side : int
        In pixels.
    how : {"crop", "pad", "squash"}
        With ``crop``, the short side becomes the square's, and the middle is kept.
    """
    if how == "crop":
        return _middle(image, side, side)
    if how == "squash":
        return image.resize((side, side), Image.Resampling.BILINEAR)
    long = max(image.size)
    width, height = (max(1, round(side * length / long)) for length in image.size)
    padded = Image.new(image.mode, (side, side), (PADDING,) * len(image.getbands()))
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    padded.paste(resized, ((side - width) // 2, (side - height) // 2))
    return padded


def _middle(image: Image.Image, short: int, side: int) -> Image.Image:
    """Resize the short side, and cut a square out of the middle."""
    height, width = resized_size(image.height, image.width, short)
    top, left = crop_offset(height, side), crop_offset(width, side)
    if max(image.size) <= ELONGATED * min(image.size):
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        return resized.crop((left, top, left + side, top + side))
    columns, across = axis_weights(image.width, width, left, side)
    rows, down = axis_weights(image.height, height, top, side)
    source = image.crop((columns, rows, columns + across.shape[1], rows + down.shape[1]))
    pixels = np.atleast_3d(np.asarray(source)).transpose(2, 0, 1)
    found = _whole(down @ _whole(pixels @ across.T)).astype(np.uint8).transpose(1, 2, 0)
    return Image.fromarray(found if found.shape[2] == 3 else found[..., 0])


def _whole(sums: np.ndarray) -> np.ndarray:
    """Round sums in units of 2^-22 half up; float64 holds them exactly."""
    return np.floor(sums / (1 << WEIGHT_BITS) + 0.5)


def axis_weights(size_in: int, size_out: int, start: int, n: int) -> tuple[int, np.ndarray]:
    """Compute Pillow's weights for some outputs of an axis.

    Parameters
    ----------
    size_in, size_out : int
    start, n : int
        The first output, and how many.

    Returns
    -------
    first : int
        The first input that any of them needs.
    weights : ndarray of shape (n, inputs), float64
        Whole numbers, in units of 2^-22; each row sums to about 1.
    """
    scale = size_in / size_out
    support = max(scale, 1.0)  # a triangle, widened when shrinking: that is the antialiasing
    centers = (np.arange(start, start + n) + 0.5) * scale
    firsts = np.maximum((centers - support + 0.5).astype(np.int64), 0)
    lasts = np.minimum((centers + support + 0.5).astype(np.int64), size_in)
    weights = np.zeros((n, int(lasts[-1] - firsts[0])))
    for row, (center, first, last) in enumerate(zip(centers, firsts, lasts, strict=True)):
        triangle = np.maximum(0.0, 1.0 - np.abs(np.arange(first, last) + 0.5 - center) / support)
        weights[row, first - firsts[0] : last - firsts[0]] = np.floor(
            0.5 + triangle / triangle.sum() * (1 << WEIGHT_BITS)
        )
    return int(firsts[0]), weights


def resized_size(height: int, width: int, to: int = RESIZE) -> tuple[int, int]:
    """Compute the size after the short side became 256, or what is given.

    The long side is rounded down, as torchvision does.

    Examples
    --------
    >>> resized_size(30, 40)
    (256, 341)
    """
    short, long = min(height, width), max(height, width)
    longer = to * long // short
    return (to, longer) if height <= width else (longer, to)


def crop_offset(size: int, side: int = CROP) -> int:
    """Find the first row or column of the centre crop: half to even, as torchvision does."""
    return round((size - side) / 2)


def unseen(height: int, width: int, how: str, margin: float = CROP / RESIZE) -> float:
    """Compute which fraction of an image is not seen, or how far it is squashed.

    Parameters
    ----------
    height, width : int
    how : {"crop", "pad", "squash"}
    margin : float
        How much of the short side a crop keeps.

    Returns
    -------
    float
        For ``crop``, the fraction of the image's area that is cut away; for ``squash``, that by
        which the long side shrinks against the short one; for ``pad``, that of the square which
        stays empty.

    Examples
    --------
    >>> round(unseen(100, 200, "crop"), 3), unseen(100, 200, "pad"), unseen(100, 200, "squash")
    (0.617, 0.5, 0.5)
    """
    short, long = min(height, width), max(height, width)
    if short == long:
        return 0.0
    if how == "crop":
        return 1 - margin * margin * short / long
    return 1 - short / long


def describe_unseen(how: str, unseen: Sequence[float]) -> str:
    """Say what squares leave out of images that are none; empty if all are squares.

    Parameters
    ----------
    how : {"crop", "pad", "squash"}
    unseen : sequence of float
        See `unseen`; 0 for a square image.
    """
    shares = np.array([share for share in unseen if share > 0])
    if not len(shares):
        return ""
    middle, worst = (f"{100 * share:.3g} %" for share in (np.median(shares), shares.max()))
    what = {
        "crop": "of the area lies outside of the crop (--fit pad or squash shows all)",
        "pad": "of the square is grey margin",
        "squash": "of the long side's detail is squashed away",
    }[how]
    return (
        f"{len(shares):,} of {len(unseen):,} images are no squares; median {middle}, worst {worst} "
        + what
    )
