"""Image files as uint8 arrays, decoded in parallel threads.

A thread decodes one image at a time, so that memory does not grow with their number. What a file
holds and what comes out:

- Grey of 8 bits or 1 bit: (h, w). Grey of 16 bits: (h, w), value v becomes v / 257 rounded, the
  same scale for every image, so that an image of 12 bits in 16 stays as dark as it is stored.
  Floating-point numbers and larger integers have no agreed white: they are refused.
- RGB, palette, CMYK, YCbCr, Lab: (h, w, 3).
- With transparency: laid on white, as a page shows it; grey stays grey.
- With an EXIF orientation: turned upright. Of an animation or a multi-page file: the first frame.

A file that is corrupt or cut short is an error, never half an image. JPEG has no checksum, so bytes
altered in its middle may show as wrong pixels only: to be sure, compare digests.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import ExifTags, Image

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation; 1 is upright already."""

GREY = ("1", "L", "LA", "La")
"""Pillow's modes that stay grey, in addition to those of 16 bits."""


RESIZE, CROP = 256, 224
"""To what the short side is resized, and the side of the square that is cut from the middle."""

LARGEST_MATRIX = 128
"""Sides up to this are resized in the network. Beyond it, and for mixed sizes, PIL is as fast."""


class CorruptImageError(ValueError):
    """The error of a readable file that is no whole image: ``path`` says which, ``reason`` why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # both, so that the error can be sent from another process
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return (
            f"{self.path} is not a whole image ({self.reason}): replace it, or leave it out with "
            "--skip-corrupt"
        )


def read_image(path: Path, at_least: int | None = None) -> np.ndarray:
    """Decode one file.

    Parameters
    ----------
    path : Path
    at_least : int, optional
        A JPEG may be decoded at a half, a quarter or an eighth of its size, which is several times
        faster, as long as both sides keep this many pixels. By default at its full size.

    Returns
    -------
    ndarray of shape (height, width) or (height, width, 3), uint8
        Grey stays grey.

    Raises
    ------
    CorruptImageError
        If it is no image, is corrupt or cut short, has more pixels than Pillow's limit against
        decompression bombs (179 million), or grey levels without a known white.
    OSError
        If it cannot be read at all.
    """
    return np.asarray(_decode(path, at_least=at_least))


def decode_image(content: bytes, name: str, at_least: int | None = None) -> np.ndarray:
    """Decode the bytes of a file: see `read_image`; errors call it ``name``."""
    return np.asarray(_decode(Path(name), content, at_least))


class ImageFiles(Sequence[np.ndarray]):
    """Read images from files when they are asked for.

    ``images[a:b]`` decodes in parallel threads and is a list.

    Parameters
    ----------
    paths : sequence of n Path
        May name a file more than once.
    boxes : ndarray of shape (n, 4), int, optional
        The part of each image to take: left, top, right, bottom in pixels, the last two exclusive.
        What lies outside of the image is cut off.
    size : int, optional
        Resize (bilinear, antialiased) each image to this height and width, after the crop.

    Raises
    ------
    ValueError
        If there are not as many boxes as paths. When an image is asked for: if its box holds none
        of its pixels.
    CorruptImageError, OSError
        When an image is asked for; see `read_image`.
    """

    def __init__(
        self, paths: Sequence[Path], boxes: np.ndarray | None = None, size: int | None = None
    ) -> None:
        if boxes is not None and np.shape(boxes) != (len(paths), 4):
            raise ValueError(
                f"boxes must have shape ({len(paths)}, 4), got {np.shape(boxes)}: give one a path"
            )
        self.paths, self.boxes, self.size = paths, boxes, size

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, rows: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, rows: slice) -> list[np.ndarray]: ...
    def __getitem__(self, rows: Any) -> Any:
        if not isinstance(rows, slice):
            return self._read(range(len(self))[rows])
        with ThreadPoolExecutor() as pool:  # Pillow releases the interpreter's lock
            return list(pool.map(self._read, range(len(self))[rows]))

    def take(self, rows: np.ndarray) -> ImageFiles:
        """Return the images of some rows, still unread."""
        boxes = None if self.boxes is None else self.boxes[rows]
        return ImageFiles([self.paths[row] for row in rows], boxes, self.size)

    def shapes(self) -> list[tuple[int, ...]]:
        """Read the images' shapes, (height, width) or (height, width, 3), from file headers."""
        distinct = list(dict.fromkeys(self.paths))
        with ThreadPoolExecutor() as pool:
            found = dict(zip(distinct, pool.map(_header, distinct), strict=True))
        shapes = []
        for row, path in enumerate(self.paths):
            height, width, *channels = found[path]
            if self.boxes is not None:
                left, top, right, bottom = self.boxes[row].tolist()
                height, width = min(bottom, height) - max(top, 0), min(right, width) - max(left, 0)
            if self.size is not None:
                height = width = self.size
            shapes.append((height, width, *channels))
        return shapes

    def _read(self, row: int) -> np.ndarray:
        image = _decode(self.paths[row])
        if self.boxes is not None:
            left, top, right, bottom = self.boxes[row].tolist()
            box = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
            if box[0] >= box[2] or box[1] >= box[3]:
                raise ValueError(
                    f"box {(left, top, right, bottom)} of {self.paths[row]} lies outside of its "
                    f"{image.size} pixels: correct it"
                )
            image = image.crop(box)
        if self.size is not None:
            image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return np.asarray(image)


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


def _decode(path: Path, content: bytes | None = None, at_least: int | None = None) -> Image.Image:
    """Decode a file to mode L or RGB, upright; if its content is given, ``path`` only names it."""
    if content is None:
        content = path.read_bytes()  # what fails here is the disk; below, it is the file's content
    try:
        if content.startswith(b"\x89PNG"):
            with Image.open(io.BytesIO(content)) as image:
                image.verify()  # the checksums, which loading alone does not look at
        with Image.open(io.BytesIO(content)) as file:
            if at_least is not None:
                file.draft(None, (at_least, at_least))  # does nothing unless it is a JPEG
            file.load()
            _check_end(file.format, content)
            orientation = file.getexif().get(ExifTags.Base.Orientation, 1)
            pixels = _to_grey_or_rgb(file)
            return pixels.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else pixels
    except Image.UnidentifiedImageError:
        raise CorruptImageError(
            path, "it is empty" if not content else "it is in no known image format"
        ) from None
    except Exception as error:  # decoders of broken files raise almost anything
        raise CorruptImageError(
            path, (str(error).splitlines() or [type(error).__name__])[0]
        ) from None


def _header(path: Path) -> tuple[int, ...]:
    """Read the shape that `read_image` would give."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            width, height = reversed(image.size) if turned else image.size
            is_grey = image.mode in GREY or image.mode.startswith("I")
    except Image.UnidentifiedImageError:
        raise CorruptImageError(path, "it is in no known image format") from None
    return (height, width) if is_grey else (height, width, 3)


def _check_end(format_name: str | None, content: bytes) -> None:
    """Refuse a JPEG without an end marker after its last scan, such as an unfinished download."""
    if format_name in ("JPEG", "MPO") and content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda"):
        raise ValueError("image file is truncated: it has no end marker")


def _to_grey_or_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    if image.mode == "F":
        raise ValueError("its grey levels are floating-point numbers: convert it to 8 or 16 bits")
    is_grey = image.mode in GREY
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("L" if is_grey else "RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Scale 0..65535 to 0..255; Pillow opens some 16-bit formats as 32-bit integers."""
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError(
            f"its grey levels go from {levels.min()} to {levels.max()}, not 0 to 65535: convert it "
            "to 8 or 16 bits"
        )
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8))
