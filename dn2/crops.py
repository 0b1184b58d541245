"""From images to 224-pixel crops: decoded in threads, a batch ahead of the network.

A thread holds one decoded image at a time, within the budget of `dn2.budget`, so that memory does
not grow with the number of images. One that cannot be read costs no other: it is left out, and
named with a reason. To be short of memory or of open files is no fault of an image: it ends all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from dn2.files import NoFileError
from dn2.images import VIEW, CorruptImageError, View, reduce_image
from dn2.squares import RESIZE, resize_with_pil, to_square, unseen

if TYPE_CHECKING:
    from PIL import Image

Source = str | Path | bytes | np.ndarray
"""An image: a file's path, a file's content, or uint8 (h, w) or (h, w, 3)."""

BATCH = 32
DECODED_SIDE = 2 * RESIZE
"""A JPEG may be decoded at a reduced size of at least this: twice what it is resized to."""


@dataclass(frozen=True)
class LeftOut:
    """Name an image that could not be read.

    Attributes
    ----------
    path : str
        As it was given; ``image 3`` if it was no path.
    reason : str
        What is wrong: "it is empty".
    """

    path: str
    reason: str


@dataclass(frozen=True)
class CropBatch:
    """Hold the readable images of a batch.

    Attributes
    ----------
    rows : tuple of int
        Which images of all they are.
    crops : ndarray of shape (len(rows), 224, 224, 3), uint8
    left_out : tuple of LeftOut
        The others of the batch.
    unseen : tuple of float
        Of each image, what its crop leaves out: see `dn2.squares.unseen`.
    """

    rows: tuple[int, ...]
    crops: np.ndarray
    left_out: tuple[LeftOut, ...]
    unseen: tuple[float, ...] = ()


def as_list(X: Iterable[Source]) -> Sequence[Source]:
    """Return images as a sequence.

    Raises
    ------
    TypeError
        If it is a single path or content, which would be read letter by letter.
    """
    if isinstance(X, str | bytes | os.PathLike):
        raise TypeError(
            f"images must be a list of paths, contents or arrays, got {X!r:.80}: give a list, such "
            "as sorted(Path(FOLDER).glob('*.png'))"
        )
    return cast(Sequence[Source], X) if hasattr(X, "__getitem__") else list(X)


def read_crops(sources: Sequence[Source], threads: int, view: View = VIEW) -> Iterator[CropBatch]:
    """Decode, resize and crop images, in order, at most 32 at a time.

    Raises
    ------
    ImageMemoryError
        If there is too little memory for one, or too many files are open.
    """
    with ThreadPoolExecutor(threads) as pool:

        def submit(start: int) -> Iterator[Crop | LeftOut]:
            rows = range(start, min(start + BATCH, len(sources)))
            return pool.map(lambda row: _crop_or_reason(sources[row], row, view), rows)

        starts = range(0, len(sources), BATCH)
        ahead = submit(0) if len(sources) else iter(())
        for start in starts:
            following = start + BATCH
            current, ahead = ahead, submit(following) if following < len(sources) else iter(())
            read = list(current)
            rows = [row for row, crop in enumerate(read, start) if not isinstance(crop, LeftOut)]
            crops = [crop for crop in read if not isinstance(crop, LeftOut)]
            pixels = [crop.pixels for crop in crops]
            yield CropBatch(
                tuple(rows),
                np.stack(pixels) if pixels else np.empty((0, 224, 224, 3), np.uint8),
                tuple(crop for crop in read if isinstance(crop, LeftOut)),
                tuple(crop.unseen for crop in crops),
            )


def are_the_same(sources: Sequence[Source], view: View = VIEW) -> bool:
    """Tell whether all images that can be read have the same crop."""
    crops = (batch.crops for batch in read_crops(sources, 1, view) if batch.rows)
    first = next(crops, None)
    return first is None or all(bool((batch == first[0]).all()) for batch in (first, *crops))


def name_of(source: Source, row: int) -> str:
    """Name an image: its path, or its number from 1."""
    return str(source) if isinstance(source, str | Path) else f"image {row + 1}"


class Crop(NamedTuple):
    """Hold what a network sees of an image, and how much it does not see.

    Attributes
    ----------
    pixels : ndarray of shape (224, 224, 3), uint8
    unseen : float
        See `dn2.squares.unseen`; 0 for a square image.
    """

    pixels: np.ndarray
    unseen: float


def read_crop(source: Source, name: str = "image", view: View = VIEW) -> np.ndarray:
    """Decode, resize and crop one image: (224, 224, 3) uint8.

    Raises
    ------
    CorruptImageError
        If it is no whole image, larger than the view allows, or an array of another kind.
    ImageMemoryError
        If there is too little memory for it.
    OSError
        If it is a file that cannot be read, or no regular file.
    """
    return _read(source, name, view).pixels


def _read(source: Source, name: str, view: View) -> Crop:
    if isinstance(source, np.ndarray):
        grey_or_rgb = source.ndim == 2 or (source.ndim == 3 and source.shape[2] == 3)
        if source.dtype != np.uint8 or not grey_or_rgb or 0 in source.shape:
            raise CorruptImageError(
                Path(name),
                f"an array must be uint8 (h, w) or (h, w, 3), got {source.dtype} {source.shape}",
            )
        share = unseen(source.shape[0], source.shape[1], view.square)
        return Crop(resize_with_pil(source, view.square), share)
    share = 0.0

    def square(image: Image.Image) -> np.ndarray:
        nonlocal share
        share = unseen(image.height, image.width, view.square)
        return to_square(image, view.square)

    file = source if isinstance(source, bytes) else Path(source)
    return Crop(reduce_image(file, square, DECODED_SIDE, view, name), share)


def reason_of(error: OSError | ValueError) -> str:
    """Say in a few words why `read_crop` failed."""
    if isinstance(error, CorruptImageError | NoFileError):
        return error.reason
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error)


def _crop_or_reason(source: Source, row: int, view: View) -> Crop | LeftOut:
    name = name_of(source, row)
    try:
        return _read(source, name, view)
    except (OSError, ValueError) as error:
        return LeftOut(name, reason_of(error))
