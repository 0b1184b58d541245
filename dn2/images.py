"""Image files as uint8 arrays, decoded in parallel threads under one budget of memory.

What a file holds and what comes out:

- Grey of 8 bits or 1 bit: (h, w). Grey of 16 bits: (h, w); `View.levels` says which level becomes
  black and which white, the same for every image. Floating-point numbers and larger integers have
  no agreed white: they are refused. Of 16-bit colour, Pillow reads the upper 8 bits.
- RGB, palette, CMYK, YCbCr, Lab: (h, w, 3).
- With transparency: laid on white, as a page shows it; grey stays grey.
- With an orientation, by EXIF or a tag of TIFF: turned upright, once. Of an animation or a
  multi-page file: the first frame.

A file that is corrupt or cut short is an error, never half an image: see `dn2.whole`. To be short
of memory is another error, which says nothing about the file.
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
from PIL import ExifTags, Image

from dn2.budget import DECODING
from dn2.files import SHORT, NoFileError, open_regular, printable
from dn2.formats import opened_formats, pages_of_tiff, stack_reason
from dn2.whole import check_whole

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

MOST_PIXELS = 178_956_970
"""The most pixels of an image unless more are asked for: Pillow's limit against bombs."""

ALL_LEVELS = (0, 65535)
"""The levels of 16 bits that become black and white unless a range was learnt."""

BAND_PIXELS = 2**20
"""A large image is converted so many pixels at a time: copies of the whole would add up."""


@dataclass(frozen=True)
class View:
    """Say how image files are looked at.

    Attributes
    ----------
    square : {"crop", "pad", "squash"}
        How an image becomes a square: see `dn2.squares`.
    levels : tuple of int
        The levels of 16-bit grey that become black and white: see `dn2.levels`.
    most_pixels : int
        Larger images are refused before they are decoded.
    """

    square: str = "crop"
    levels: tuple[int, int] = ALL_LEVELS
    most_pixels: int = MOST_PIXELS


VIEW = View()


class CorruptImageError(ValueError):
    """The error of a readable file that is no whole image: ``path`` says which, ``reason`` why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # both, so that the error can be sent from another process
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return (
            f"{printable(str(self.path))} is not a whole image ({self.reason}): replace it, or "
            "leave it out with --skip-corrupt"
        )


class LargeImageError(CorruptImageError):
    """The error of an image with more pixels than are allowed; nothing of it was decoded."""

    def __str__(self) -> str:
        return (
            f"{printable(str(self.path))} is too large ({self.reason}), or leave it out with "
            "--skip-corrupt"
        )


class ImageMemoryError(MemoryError):
    """The error of an image for which memory, or the number of open files, does not suffice.

    It says nothing about the file, and must not be remembered.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return (
            f"{printable(str(self.path))} could not be read ({self.reason}): the file may be "
            "whole; do less at a time, or use a machine with more memory"
        )


def read_image(path: Path, at_least: int | None = None, view: View = VIEW) -> np.ndarray:
    """Decode one file.

    Parameters
    ----------
    path : Path
    at_least : int, optional
        A JPEG may be decoded at a half, a quarter or an eighth of its size, which is several times
        faster, as long as both sides keep this many pixels. By default at its full size.
    view : View, optional
        Of it, the levels and the limit of pixels.

    Returns
    -------
    ndarray of shape (height, width) or (height, width, 3), uint8
        Grey stays grey.

    Raises
    ------
    CorruptImageError
        If it is no image, is corrupt or cut short, has more pixels than the view allows, or grey
        levels without a known white.
    ImageMemoryError
        If there is too little memory for it.
    OSError
        If it cannot be read at all, or is no regular file: see `dn2.files.open_regular`.
    """
    return reduce_image(path, as_array, at_least, view, whole=True)


def decode_image(
    content: bytes, name: str, at_least: int | None = None, view: View = VIEW
) -> np.ndarray:
    """Decode the bytes of a file: see `read_image`; errors call it ``name``."""
    return _decode(Path(name), content, at_least, view, as_array, whole=True)


Reduce = Callable[[Image.Image], np.ndarray]
"""What makes less of a decoded image, of mode L or RGB."""


def reduce_image(
    source: Path | bytes,
    reduce: Reduce,
    at_least: int | None = None,
    view: View = VIEW,
    name: str = "",
    whole: bool = False,
) -> np.ndarray:
    """Decode a file, or its content, and return what ``reduce`` makes of it.

    The image itself is gone when the next one is decoded in its place: memory for it is held until
    ``reduce`` returns; ``whole`` says that it returns all pixels. Errors are those of `read_image`,
    and call it ``name`` or by its path.
    """
    if isinstance(source, bytes):
        return _decode(Path(name), source, at_least, view, reduce, whole)
    return _decode(Path(name or source), _content(source, view), at_least, view, reduce, whole)


def read_levels(source: Path | bytes, view: View = VIEW) -> np.ndarray | None:
    """Count the pixels of each level of a 16-bit grey image: (65536,) int64; None for others.

    Errors are those of `read_image`.
    """
    path = Path("image") if isinstance(source, bytes) else source
    content = source if isinstance(source, bytes) else _content(source, view)
    needed = 0
    with _named(path, lambda: needed), _opened(path, io.BytesIO(content), view) as file:
        if not file.mode.startswith("I"):
            return None
        needed = _bytes_needed(file, whole=False)
        with DECODING.hold(needed):
            file.load()
            check_whole(file, content)
            counts = np.zeros(ALL_LEVELS[1] + 1, np.int64)
            for top, bottom in _bands(file):
                band = np.asarray(file.crop((0, top, file.width, bottom))).ravel()
                _check_range(int(band.min()), int(band.max()))
                counts += np.bincount(band, minlength=len(counts))
            return counts


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
    view : View, optional

    Raises
    ------
    ValueError
        If there are not as many boxes as paths. When an image is asked for: if its box holds none
        of its pixels.
    CorruptImageError, OSError
        When an image is asked for; see `read_image`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        boxes: np.ndarray | None = None,
        size: int | None = None,
        view: View = VIEW,
    ) -> None:
        if boxes is not None and np.shape(boxes) != (len(paths), 4):
            raise ValueError(
                f"boxes must have shape ({len(paths)}, 4), got {np.shape(boxes)}: give one a path"
            )
        self.paths, self.boxes, self.size, self.view = paths, boxes, size, view

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, rows: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, rows: slice) -> list[np.ndarray]: ...
    def __getitem__(self, rows: Any) -> Any:
        if not isinstance(rows, slice):
            return self.reduced(range(len(self))[rows], as_array)
        with ThreadPoolExecutor() as pool:  # Pillow releases the interpreter's lock
            return list(pool.map(lambda row: self.reduced(row, as_array), range(len(self))[rows]))

    def reduced(self, row: int, reduce: Reduce) -> np.ndarray:
        """Return what a function makes of an image, which is not kept: see `reduce_image`.

        Parameters
        ----------
        row : int
        reduce : callable
            Gets a ``PIL.Image.Image`` of mode L or RGB.
        """
        return reduce_image(
            self.paths[row],
            lambda image: reduce(self._part(row, image)),
            view=self.view,
            whole=reduce is as_array,
        )

    def seen(self, **changes: Any) -> ImageFiles:
        """Return the same images under another view: ``seen(levels=(0, 4095))``."""
        return ImageFiles(self.paths, self.boxes, self.size, replace(self.view, **changes))

    def take(self, rows: np.ndarray) -> ImageFiles:
        """Return the images of some rows, still unread."""
        boxes = None if self.boxes is None else self.boxes[rows]
        return ImageFiles([self.paths[row] for row in rows], boxes, self.size, self.view)

    def shapes(self) -> list[tuple[int, ...]]:
        """Read the images' shapes, (height, width) or (height, width, 3), from file headers."""
        distinct = list(dict.fromkeys(self.paths))
        with ThreadPoolExecutor() as pool:
            found = dict(
                zip(distinct, pool.map(lambda one: _header(one, self.view), distinct), strict=True)
            )
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

    def _part(self, row: int, image: Image.Image) -> Image.Image:
        """Cut out an image's box, and resize it, where that is asked for."""
        if self.boxes is not None:
            left, top, right, bottom = self.boxes[row].tolist()
            box = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
            if box[0] >= box[2] or box[1] >= box[3]:
                raise _OutsideError(
                    f"box {(left, top, right, bottom)} of {printable(str(self.paths[row]))} lies "
                    f"outside of its {image.size} pixels: correct it"
                )
            image = image.crop(box)
        if self.size is not None:
            image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return image


class _OutsideError(ValueError):
    """The error of a box without a pixel: the file is whole."""


def as_array(image: Image.Image) -> np.ndarray:
    """Copy an image, a band at a time if it is large."""
    rows = max(1, BAND_PIXELS // max(image.width, 1))
    if image.height <= rows:
        return np.asarray(image)
    bands = len(image.getbands())
    shape = (image.height, image.width) + ((bands,) if bands > 1 else ())
    pixels = np.empty(shape, np.uint8)
    for top, bottom in _bands(image):
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return pixels


def _bands(image: Image.Image) -> Iterator[tuple[int, int]]:
    """Yield the first and the last row, exclusive, of bands of some million pixels."""
    rows = max(1, BAND_PIXELS // max(image.width, 1))
    for top in range(0, image.height, rows):
        yield top, min(top + rows, image.height)


# ---- Reading one file


def _content(path: Path, view: View) -> bytes:
    """Read a file's bytes; what fails here is the disk, and later it is the content."""
    most = MOST_BYTES_A_PIXEL * view.most_pixels + MOST_BYTES_BESIDE
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise LargeImageError(
                    path,
                    f"it has {size:,} bytes, more than {view.most_pixels:,} pixels may need: raise "
                    "--max-pixels",
                )
            return file.read()
    except OSError as error:
        if error.errno in SHORT:
            raise ImageMemoryError(path, error.strerror or "too little memory") from None
        raise
    except MemoryError:
        raise ImageMemoryError(path, "too little memory for its bytes") from None
    except LargeImageError:
        raise
    except ValueError as error:  # a name with a NUL
        raise CorruptImageError(path, str(error)) from None


MOST_BYTES_A_PIXEL = 8  # RGBA of 16 bits, stored as it is
MOST_BYTES_BESIDE = 2**24  # profiles and thumbnails


@contextmanager
def _named(path: Path, needed: Callable[[], int]) -> Iterator[None]:
    """Turn what a decoder raises into an error that names the file.

    Parameters
    ----------
    path : Path
    needed : callable
        Says how many bytes the decoding needs, as far as it is known.
    """
    try:
        yield
    except (CorruptImageError, ImageMemoryError, NoFileError, _OutsideError):
        raise
    except Image.UnidentifiedImageError:
        _check_memory(path, needed())
        raise CorruptImageError(path, "it is in no known image format") from None
    except Exception as error:  # decoders of broken files raise almost anything
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        if _is_shortage(error):
            wanted = f" for some {needed():,} bytes" if needed() else ""
            raise ImageMemoryError(path, f"too little memory{wanted}: {reason}") from None
        if isinstance(error, OSError) and error.errno is not None:  # the disk, not the content
            raise OSError(error.errno, error.strerror, str(path)) from None
        _check_memory(path, needed())
        raise CorruptImageError(path, reason) from None


def _is_shortage(error: Exception) -> bool:
    """Tell whether an error is one of memory or of open files, in any decoder's words."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno in SHORT:
        return True
    return any(words in str(error).lower() for words in SHORT_WORDS)


SHORT_WORDS = (
    "out of memory",
    "cannot allocate",
    "insufficient memory",
    "bad_alloc",
    "not enough memory",
    "too many open files",
    "can't start new thread",
)


def _check_memory(path: Path, needed: int) -> None:
    """Raise ImageMemoryError unless so many bytes can be had.

    Some decoders say of a shortage only that something failed.
    """
    try:
        np.empty(needed + MOST_BYTES_BESIDE, np.uint8)
    except MemoryError:
        raise ImageMemoryError(path, f"it needs {needed:,} bytes of memory") from None


def allow_pixels(n: int) -> None:
    """Have Pillow open images of n pixels, whose own limit is the same for the whole process."""
    if n > MOST_PIXELS and Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, n)


@contextmanager
def _opened(path: Path, source: BinaryIO, view: View) -> Iterator[Image.Image]:
    """Open an image, which reads its header, and check its size."""
    allow_pixels(view.most_pixels)
    try:
        opened = Image.open(source, formats=opened_formats())
    except Image.DecompressionBombError as error:
        found = re.search(r"\d+", str(error))
        raise _too_large(path, f"{int(found[0]):,}" if found else "more", view) from None
    with opened as image:
        if image.width * image.height > view.most_pixels:
            raise _too_large(path, f"{image.width:,} x {image.height:,}", view)
        if image.format == "TIFF" and (stack := stack_reason(pages_of_tiff(image))):
            raise ValueError(stack)
        yield image


def _too_large(path: Path, pixels: str, view: View) -> LargeImageError:
    return LargeImageError(
        path,
        f"it has {pixels} pixels, more than the {view.most_pixels:,} that are allowed: "
        "raise --max-pixels",
    )


def _decode(
    path: Path,
    content: bytes,
    at_least: int | None,
    view: View,
    reduce: Reduce,
    whole: bool,
) -> np.ndarray:
    """Decode the content of a file to mode L or RGB, upright, and make less of it."""
    if not content:
        raise CorruptImageError(path, "it is empty")
    needed = 0
    with _named(path, lambda: needed), _opened(path, io.BytesIO(content), view) as file:
        if at_least is not None:
            file.draft(None, (at_least, at_least))  # does nothing unless it is a JPEG
        needed = _bytes_needed(file, whole)
        with DECODING.hold(needed):
            file.load()
            check_whole(file, content)
            pixels = _to_grey_or_rgb(file, view.levels)
            orientation = _orientation(file)
            if orientation in UPRIGHT:
                pixels = pixels.transpose(UPRIGHT[orientation])
            return reduce(pixels)


def _bytes_needed(image: Image.Image, whole: bool) -> int:
    """Estimate the most memory that decoding takes, from a header."""
    stored = STORED_BYTES.get(image.mode, 2 if image.mode.startswith("I;16") else 4)
    wanted = 1 if _is_grey(image) else 4
    a_pixel = stored + (0 if image.mode in ("L", "RGB") else wanted)
    a_pixel += DECODER_BYTES.get(image.format or "", 0)
    if image.info.get("progressive"):
        a_pixel += 6  # coefficients of 16 bits
    if image.format == "TIFF" or "exif" in image.info:
        a_pixel += wanted  # it may have to be turned
    if whole:
        a_pixel += 1 if wanted == 1 else 3
    return image.width * image.height * a_pixel


STORED_BYTES = {"1": 1, "L": 1, "P": 1}
"""Of a pixel in Pillow's memory; modes of two and three channels take 4."""

DECODER_BYTES = {"WEBP": 8, "AVIF": 10, "HEIF": 10, "JPEG2000": 16}
"""That a decoder holds beside the image, for a pixel."""


def _orientation(image: Image.Image) -> int:
    """Return how an image that is loaded has to be turned; Pillow turns TIFF itself."""
    if image.format == "TIFF":
        return 1
    return int(image.getexif().get(ExifTags.Base.Orientation, 1))


def _header(path: Path, view: View = VIEW) -> tuple[int, ...]:
    """Read the shape that `read_image` would give, and no pixel."""
    with (
        _named(path, lambda: 0),
        open_regular(path) as file,
        _opened(path, file, view) as image,
    ):
        width, height = _upright_size(image, file)
        return (height, width) if _is_grey(image) else (height, width, 3)


def _upright_size(image: Image.Image, file: BinaryIO) -> tuple[int, int]:
    """Return width and height of an image that is not loaded, as they are when it is upright."""
    size = image.size
    if image.format == "TIFF":
        size = image.tag_v2[256], image.tag_v2[257]  # type: ignore[attr-defined]
    if image.format == "PNG" and not _has_late_metadata(file):
        exif = Image.Image.getexif(image)  # that of PNG would decode the image first
    else:
        exif = image.getexif()
    turned = exif.get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return (size[1], size[0]) if turned else size


def _has_late_metadata(file: BinaryIO) -> bool:
    """Tell whether a PNG has an orientation, or text, behind its pixels."""
    before = file.tell()
    try:
        file.seek(8)
        pixels = False
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            pixels = pixels or kind == b"IDAT"
            if pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            file.seek(length + 4, io.SEEK_CUR)
        return False
    finally:
        file.seek(before)


def _is_grey(image: Image.Image) -> bool:
    return image.mode in GREY or image.mode.startswith("I")


def _to_grey_or_rgb(image: Image.Image, levels: tuple[int, int]) -> Image.Image:
    """Convert to mode L or RGB, of large images a band at a time."""
    if image.mode.startswith("I"):
        return _from_16_bits(image, levels)
    if image.mode == "F":
        raise ValueError("its grey levels are floating-point numbers: convert it to 8 or 16 bits")
    mode = "L" if image.mode in GREY else "RGB"
    if not image.has_transparency_data:
        return image if image.mode == mode else image.convert(mode)
    flat = Image.new(mode, image.size)
    for top, bottom in _bands(image):
        layer = image.crop((0, top, image.width, bottom)).convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        flat.paste(Image.alpha_composite(white, layer).convert("RGB").convert(mode), (0, top))
    return flat


def _from_16_bits(image: Image.Image, levels: tuple[int, int]) -> Image.Image:
    """Scale the levels to 0..255, half up; Pillow opens some 16-bit formats as 32-bit integers."""
    if image.mode == "I":
        _check_range(*image.getextrema())
    table = _table(levels)
    flat = Image.new("L", image.size)
    for top, bottom in _bands(image):
        band = np.asarray(image.crop((0, top, image.width, bottom)))
        flat.paste(Image.fromarray(table[band]), (0, top))
    return flat


def _check_range(low: int, high: int) -> None:
    if low < 0 or high > ALL_LEVELS[1]:
        raise ValueError(
            f"its grey levels go from {low} to {high}, not 0 to 65535: convert it to 8 or 16 bits"
        )


@lru_cache(maxsize=4)
def _table(levels: tuple[int, int]) -> np.ndarray:
    """Make the grey of 8 bits of each level of 16 bits: (65536,) uint8."""
    black, white = levels
    above = np.clip(np.arange(ALL_LEVELS[1] + 1), black, white) - black
    return ((above * 510 + (white - black)) // (2 * (white - black))).astype(np.uint8)
