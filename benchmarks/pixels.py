"""The input of detectors that look at the images themselves: ``pixels`` as they are, ``pixels:32`` resized to 32 x 32."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.contracts import Dataset, UsageError
from dn2.images import ImageFiles

RESAMPLING = "squares, Pillow's bilinear with antialiasing; 1"
"""Part of the identity of resized pixels: change it whenever the pixels change."""


@dataclass(frozen=True)
class Pixels:
    """A data set's images as an array that is read by rows: ``X[rows]`` decodes and resizes those, and no other.

    Attributes
    ----------
    images : sequence of n uint8 arrays, (height, width) or (height, width, 3)
    shape : tuple of int
        (n, height, width, channels): 1 channel if all images are grey, else 3, grey ones being replicated.
    """

    images: Any
    shape: tuple[int, int, int, int]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Gather rows (n,): uint8 of shape (n, height, width, channels)."""
        equal = _equal_shape(self.images)
        if equal is not None and equal[:2] == self.shape[1:3]:
            return np.asarray(self.images[rows]).reshape(len(rows), *self.shape[1:])
        gathered = np.empty((len(rows), *self.shape[1:]), np.uint8)

        def put(place: int) -> None:
            gathered[place] = self._pixels(self.images[int(rows[place])])

        with ThreadPoolExecutor() as pool:  # Pillow releases the interpreter's lock; one image a thread is held besides
            for _ in pool.map(put, range(len(rows))):
                pass
        return gathered

    def _pixels(self, image: np.ndarray) -> np.ndarray:
        height, width = self.shape[1:3]
        if image.shape[:2] != (height, width):
            image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        return image if image.ndim == 3 else image[..., None]  # a single channel is broadcast to three


def pixel_size(name: str) -> int | None:
    """The side that an input's name asks for: ``pixels:32`` gives 32, ``pixels`` None, the images' own size.

    Raises
    ------
    UsageError
        If it is not ``pixels``, or ``pixels:`` and a positive whole number.
    """
    kind, colon, size = name.partition(":")
    if kind != "pixels" or (colon and not (size.isdecimal() and int(size) > 0)):
        raise UsageError(f"input '{name}' is not pixels or pixels:SIZE, such as pixels:32: give a side of at least 1.")
    return int(size) if colon else None


def pixels_identity(name: str) -> dict[str, Any]:
    """What the input's name stands for today; no weights are part of it."""
    size = pixel_size(name)
    return {"preprocessing": "native size; 1" if size is None else f"{size} x {size}, {RESAMPLING}"}


def load_pixels(dataset: Dataset, name: str) -> Pixels:
    """Open a data set's images as `Pixels`. Files are not decoded: their headers tell sizes and channels.

    Raises
    ------
    UsageError
        If the images have several sizes and the name asks for none.
    """
    size, images = pixel_size(name), dataset.images
    equal = _equal_shape(images)
    if equal is not None:
        shapes = {equal}
    else:
        shapes = set(images.shapes() if isinstance(images, ImageFiles) else [image.shape for image in images])
    sizes = sorted({shape[:2] for shape in shapes})
    if size is None and len(sizes) > 1:
        smallest, largest = (f"{height} x {width}" for height, width in (sizes[0], sizes[-1]))
        raise UsageError(
            f"{dataset.name} has images of {len(sizes)} sizes, {smallest} to {largest}, and input 'pixels' needs one: "
            "resize them, such as --size 64."
        )
    height, width = (size, size) if size is not None else sizes[0]
    channels = max(shape[2] if len(shape) == 3 else 1 for shape in shapes)
    return Pixels(images, (len(dataset.labels), height, width, channels))


def _equal_shape(images: Any) -> tuple[int, ...] | None:
    """The shape of all images of an array, or of what slices to one; None of files, of which none is decoded to know."""
    first = None if isinstance(images, ImageFiles) else images[:1]
    return first.shape[1:] if isinstance(first, np.ndarray) else None
