"""Which files are images by their names, and how many pages a file holds: one table for all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path, PurePath
from typing import Any

from dn2.files import open_regular

SUFFIXES = frozenset(
    (
        *(".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm"),
        *(".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
    )
)
"""By which images are known in a folder, in lower case."""

OF_HEIF = frozenset((".heic", ".heif", ".hif"))
"""Read as well where the plug-in ``pillow-heif`` is installed."""

UNREAD = OF_HEIF | frozenset(
    (
        *(".apng", ".arw", ".cr2", ".cr3", ".dcm", ".dng", ".exr", ".hdr", ".ico", ".j2k", ".jpf"),
        *(".jpx", ".jxl", ".mpo", ".nef", ".nii", ".npy", ".orf", ".pcx", ".pfm", ".psd", ".qoi"),
        *(".raf", ".raw", ".rw2", ".sgi", ".svg", ".svs"),
    )
)
"""Endings of images that are not read: to leave one out without a word would be a loss."""

OPENED = (
    *("AVIF", "BMP", "DIB", "GIF", "HEIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF"),
    "WEBP",
)
"""Pillow's names of the formats that are opened, whatever a file is called.

Others may run programs (PostScript), or have decoders that hardly anybody tests.
"""

REDUCED, MASK = 1, 4
"""Bits of a TIFF page's NewSubfileType: a smaller copy of a page, or its mask, is no page."""

NEW_SUBFILE_TYPE = 254
WEBP_ANIMATION = 2
"""A bit of the flags of WebP's extended header."""

OF_TIFF, OF_FRAMES = (".tif", ".tiff"), (".gif", ".webp")
"""Files that may hold several pages, and several frames."""


@cache
def image_suffixes() -> frozenset[str]:
    """Return the endings that are read here; those of HEIF if its plug-in is installed."""
    try:
        import pillow_heif
    except ImportError:
        return SUFFIXES
    pillow_heif.register_heif_opener()
    return SUFFIXES | OF_HEIF


@cache
def opened_formats() -> tuple[str, ...]:
    """Return those of `OPENED` that can be opened here."""
    from PIL import Image

    image_suffixes()  # registers the plug-in for HEIF
    Image.init()
    return tuple(name for name in OPENED if name in Image.OPEN)


def ending(path: str | PurePath) -> str:
    """Return the ending of a file's name in lower case; ``no ending`` if it has none.

    Examples
    --------
    >>> ending("a/B.JPG"), ending("Makefile")
    ('.jpg', 'no ending')
    """
    return PurePath(path).suffix.lower() or "no ending"


def count_endings(endings: Iterable[str]) -> str:
    """Count endings, the most frequent first.

    Examples
    --------
    >>> count_endings([".txt", ".db", ".txt"])
    '.txt 2, .db 1'
    """
    counts: dict[str, int] = {}
    for one in endings:
        counts[one] = counts.get(one, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {count:,}" for name, count in ordered)


def pages(path: str | Path) -> int:
    """Count the pages of a TIFF file, or the frames of a GIF or WebP file; 1 for any other.

    Smaller copies of a page and masks are no pages. Only headers are read. A file that is no whole
    image counts as 1: decoding it says what is wrong.

    Raises
    ------
    OSError
        If it cannot be opened.
    """
    if ending(path) not in (*OF_TIFF, *OF_FRAMES):
        return 1
    with open_regular(path) as file:
        head = file.read(32)
        is_webp = head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and head[20:21] > b""
        if not (
            head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"GIF8")
            or (is_webp and head[20] & WEBP_ANIMATION)
        ):
            return 1
        from PIL import Image

        file.seek(0)
        try:
            with Image.open(file, formats=opened_formats()) as image:
                if image.format != "TIFF":
                    return int(getattr(image, "n_frames", 1))
                return pages_of_tiff(image)
        except MemoryError:
            raise
        except Exception:  # decoders of broken files raise almost anything
            return 1


def pages_of_tiff(image: Any) -> int:
    """Count the pages of an open TIFF image, which is at its first page afterwards."""
    found = number = 0
    while True:
        try:
            image.seek(number)
        except EOFError:
            image.seek(0)
            return max(found, 1)
        found += not int(image.tag_v2.get(NEW_SUBFILE_TYPE, 0)) & (REDUCED | MASK)
        number += 1


def stack_reason(n: int) -> str:
    """Say why a file of n pages is not read; empty for one page.

    Examples
    --------
    >>> print(stack_reason(3))
    it holds 3 pages, and an image is one: write each page to its own file
    """
    return f"it holds {n} pages, and an image is one: write each page to its own file" * (n > 1)


def reason_if_stack(path: str | Path) -> str:
    """Say why a TIFF file of several pages is not read; empty for any other file.

    It says so before anything is decoded. Whatever a file is called, opening it says the same.
    """
    return stack_reason(_pages_or_one(path) if ending(path) in OF_TIFF else 1)


def is_animation(path: str | Path) -> bool:
    """Tell whether a file is a GIF or WebP of several frames, of which the first is the image."""
    return ending(path) in OF_FRAMES and _pages_or_one(path) > 1


def _pages_or_one(path: str | Path) -> int:
    try:
        return pages(path)
    except OSError:  # reading the image will say why
        return 1


def unread(endings: Sequence[str]) -> str:
    """Say that files are probably images, that they are not read, and what helps.

    Examples
    --------
    >>> print(unread([".dng"]))
    not read, though probably images: .dng 1 (convert them to PNG)
    """
    plugin = ", or install pillow-heif" if OF_HEIF & set(endings) else ""
    return (
        f"not read, though probably images: {count_endings(endings)} (convert them to PNG{plugin})"
    )
