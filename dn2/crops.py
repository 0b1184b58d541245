"""From images to 224-pixel crops: decoded in threads, a batch ahead of the network.

A thread holds one decoded image at a time, and only one thread a very large one, so that memory
does not grow with the number of images. One that cannot be read costs no other: it is left out, and
named with a reason.
"""

from __future__ import annotations

import io
import os
import stat
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from dn2.images import RESIZE, CorruptImageError, decode_image, resize_with_pil

Source = str | Path | bytes | np.ndarray
"""An image: a file's path, a file's content, or uint8 (h, w) or (h, w, 3)."""

BATCH = 32
DECODED_SIDE = 2 * RESIZE
"""A JPEG may be decoded at a reduced size of at least this: twice what it is resized to."""

LARGE_PIXELS = 2**25
_large_image = threading.Lock()

KINDS = {
    stat.S_IFDIR: "it is a folder",
    stat.S_IFIFO: "it is a FIFO",
    stat.S_IFSOCK: "it is a socket",
    stat.S_IFCHR: "it is a device",
    stat.S_IFBLK: "it is a device",
}
"""What is no file, and is not opened: reading a FIFO or a device may never end."""


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
    """

    rows: tuple[int, ...]
    crops: np.ndarray
    left_out: tuple[LeftOut, ...]


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


def read_crops(sources: Sequence[Source], threads: int) -> Iterator[CropBatch]:
    """Decode, resize and crop images, in order, at most 32 at a time."""
    with ThreadPoolExecutor(threads) as pool:

        def submit(start: int) -> Iterator[np.ndarray | LeftOut]:
            rows = range(start, min(start + BATCH, len(sources)))
            return pool.map(lambda row: _crop_or_reason(sources[row], row), rows)

        starts = range(0, len(sources), BATCH)
        ahead = submit(0) if sources else iter(())
        for start in starts:
            following = start + BATCH
            current, ahead = ahead, submit(following) if following < len(sources) else iter(())
            read = list(current)
            rows = [row for row, crop in enumerate(read, start) if not isinstance(crop, LeftOut)]
            crops = [crop for crop in read if not isinstance(crop, LeftOut)]
            yield CropBatch(
                tuple(rows),
                np.stack(crops) if crops else np.empty((0, 224, 224, 3), np.uint8),
                tuple(crop for crop in read if isinstance(crop, LeftOut)),
            )


def are_the_same(sources: Sequence[Source]) -> bool:
    """Tell whether all images that can be read have the same crop."""
    crops = (batch.crops for batch in read_crops(sources, 1) if batch.rows)
    first = next(crops, None)
    return first is None or all(bool((batch == first[0]).all()) for batch in (first, *crops))


def name_of(source: Source, row: int) -> str:
    """Name an image: its path, or its number from 1."""
    return str(source) if isinstance(source, str | Path) else f"image {row + 1}"


def read_crop(source: Source, name: str = "image") -> np.ndarray:
    """Decode, resize and crop one image: (224, 224, 3) uint8.

    Raises
    ------
    CorruptImageError
        If it is no whole image, or an array of another kind.
    OSError
        If it is a file that cannot be read.
    """
    if isinstance(source, np.ndarray):
        grey_or_rgb = source.ndim == 2 or (source.ndim == 3 and source.shape[2] == 3)
        if source.dtype != np.uint8 or not grey_or_rgb or 0 in source.shape:
            raise CorruptImageError(
                Path(name),
                f"an array must be uint8 (h, w) or (h, w, 3), got {source.dtype} {source.shape}",
            )
        return _resized(Path(name), source)
    content = source if isinstance(source, bytes) else _read_file(Path(source))
    if _pixels(content) <= LARGE_PIXELS:
        return _resized(Path(name), decode_image(content, name, DECODED_SIDE))
    with _large_image:
        return _resized(Path(name), decode_image(content, name, DECODED_SIDE))


def reason_of(error: OSError | ValueError) -> str:
    """Say in a few words why `read_crop` failed."""
    if isinstance(error, CorruptImageError):
        return error.reason
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error)  # a path with a NUL


def _crop_or_reason(source: Source, row: int) -> np.ndarray | LeftOut:
    name = name_of(source, row)
    try:
        return read_crop(source, name)
    except (OSError, ValueError) as error:
        return LeftOut(name, reason_of(error))


def _read_file(path: Path) -> bytes:
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind in KINDS:
        raise CorruptImageError(path, f"{KINDS[kind]}, not a file")
    return path.read_bytes()


def _resized(path: Path, image: np.ndarray) -> np.ndarray:
    long, short = max(image.shape[:2]), min(image.shape[:2])
    if long > MOST_ELONGATED * short:
        raise CorruptImageError(
            path, f"it is {image.shape[1]} x {image.shape[0]} pixels, too long for a square crop"
        )
    return resize_with_pil(image)


MOST_ELONGATED = 200
"""Resized to a short side of 256, a longer image would fill the memory; its crop shows a 200th."""


def _pixels(content: bytes) -> int:
    """Count the pixels that will be decoded, from the header; 0 if it is no image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # decoding says it again
        try:
            with Image.open(io.BytesIO(content)) as image:
                image.draft(None, (DECODED_SIDE, DECODED_SIDE))
                return image.width * image.height
        except Exception:  # decoding tells what is wrong
            return 0
