"""Whether an image file is whole: what each format can tell beyond what its decoder notices.

- PNG: every checksum.
- JPEG: an end marker after the last scan.
- JPEG within TIFF: an end marker of each part.
- WebP, AVIF, HEIC: the sizes and names of all parts.
- WebP, AVIF, HEIC: compressed pixels that end in many zeros. A download that was broken off leaves
  such a tail where the file's place was reserved first, and their decoders take it for pixels. No
  AVIF encoder was seen to end so. WebP may, and is then decoded once more without the last of the
  zeros: a decoder that does not miss them had left them over, which no encoder does.

BMP, PPM, TGA and uncompressed TIFF hold bare pixels: a tail of zeros there is a black area, and
only a file that is too short is noticed. So it is with a lossless WebP of pure noise, in which
zeros take as much room as any other pixels. Neither does JPEG have a checksum, so that bytes
altered in its middle may show as wrong pixels.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from PIL import Image

MOST_ZEROS = 16
"""So many zeros at the end of compressed pixels are looked into."""


def check_whole(image: Image.Image, content: bytes) -> None:
    """Raise an error if a file that was decoded is not whole.

    Parameters
    ----------
    image : PIL.Image.Image
        Decoded.
    content : bytes
        Of its file.

    Raises
    ------
    ValueError, SyntaxError
        The message says what is wrong.
    """
    if image.format == "TIFF":
        _check_tiff(image.tag_v2, content)  # type: ignore[attr-defined]
    check = CHECKS.get(image.format or "")
    if check is not None:
        check(content)


def _check_png(content: bytes) -> None:
    """Compare the checksums, which loading alone does not look at."""
    with Image.open(io.BytesIO(content)) as image:
        image.verify()


def _check_jpeg(content: bytes) -> None:
    """Refuse a JPEG without an end marker after its last scan, such as an unfinished download."""
    if content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda"):
        raise ValueError("image file is truncated: it has no end marker")


def _check_tiff(tags: Mapping[int, Any], content: bytes) -> None:
    """Refuse JPEG within TIFF if a part of it has no end marker."""
    if tags.get(COMPRESSION) != JPEG_IN_TIFF:
        return
    starts, lengths = (
        next((tags[tag] for tag in pair if tag in tags), ())
        for pair in ((273, 324), (279, 325))  # of strips or tiles: where they are, and how long
    )
    for start, length in zip(starts, lengths, strict=False):
        if not content[start : start + length].rstrip(b"\0").endswith(b"\xff\xd9"):
            raise ValueError("image file is truncated: a part of it has no end marker")


COMPRESSION, JPEG_IN_TIFF = 259, 7


def _check_webp(content: bytes) -> None:
    (size,) = struct.unpack_from("<I", content, 4)
    if size + 8 > len(content):
        raise ValueError("image file is truncated: it is shorter than its header says")
    for kind, start, end in _chunks(content[: size + 8]):
        zeros = not content[max(start, end - MOST_ZEROS) : end].strip(b"\0")
        if kind in (b"VP8 ", b"VP8L") and zeros and end - start > MOST_ZEROS:
            _check_webp_pixels(kind, content[start : end - MOST_ZEROS])


def _check_webp_pixels(kind: bytes, pixels: bytes) -> None:
    """Raise ValueError if pixels without their last bytes are still enough for the decoder."""
    padded = pixels + bytes(len(pixels) % 2)
    head = struct.pack("<4sI4s4sI", b"RIFF", len(padded) + 12, b"WEBP", kind, len(pixels))
    try:
        with Image.open(io.BytesIO(head + padded)) as image:
            image.load()
    except MemoryError:
        raise
    except Exception:  # as it should be
        return
    raise ValueError(CUT_SHORT)


CUT_SHORT = "image file is cut short: its pixels end in zeros"


def _chunks(content: bytes, start: int = 12) -> Iterator[tuple[bytes, int, int]]:
    """Yield the parts of a RIFF file: name, and where the content starts and ends."""
    while start + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, start)
        end = start + 8 + size
        if not kind.isascii() or not kind.decode().isprintable():
            raise ValueError("image file is damaged: a part of it has no name")
        if end > len(content):
            raise ValueError("image file is truncated: its last part is not whole")
        yield kind, start + 8, end
        start = end + size % 2


def _check_boxes(content: bytes) -> None:
    """Look at the parts of an ISO file, AVIF or HEIC, and at the ends of its compressed images."""
    for kind, start, end in _boxes(content, 0, len(content)):
        if kind == b"meta":
            inner = {name: (first, last) for name, first, last in _boxes(content, start + 4, end)}
            if b"iinf" not in inner or b"iloc" not in inner:
                continue
            kinds = _item_kinds(content, *inner[b"iinf"])
            for item, first, last in _item_places(content, inner[b"iloc"][0]):
                if kinds.get(item) in (b"av01", b"hvc1", b"hev1"):
                    _check_tail(content, first, last)


def _boxes(content: bytes, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the boxes in a part of an ISO file: name, and where the content starts and ends."""
    while start < stop:
        if start + 8 > stop:
            raise ValueError("image file is damaged: bytes are left over at its end")
        size, kind = struct.unpack_from(">I4s", content, start)
        body = start + 8
        if size == 1 and start + 16 <= stop:
            (size,) = struct.unpack_from(">Q", content, body)
            body += 8
        end = stop if size == 0 else start + size
        if not kind.isascii() or not kind.decode().isprintable() or end < body:
            raise ValueError("image file is damaged: a part of it has no name")
        if end > stop:
            raise ValueError("image file is truncated: its last part is not whole")
        yield kind, body, end
        start = end


def _item_kinds(content: bytes, start: int, end: int) -> dict[int, bytes]:
    """Read the box iinf: what each item is."""
    wide = content[start] > 0  # the box's version
    kinds = {}
    for _, body, _ in _boxes(content, start + (8 if wide else 6), end):
        version = content[body]
        if version in (2, 3):
            form = ">H2x4s" if version == 2 else ">I2x4s"
            item, kind = struct.unpack_from(form, content, body + 4)
            kinds[item] = kind
    return kinds


def _item_places(content: bytes, start: int) -> Iterator[tuple[int, int, int]]:
    """Read the box iloc: yield each part of an item that lies in the file itself."""
    version, sizes = content[start], struct.unpack_from(">H", content, start + 4)[0]
    offset_size, length_size, base_size, index_size = (
        sizes >> shift & 15 for shift in (12, 8, 4, 0)
    )
    at = start + 6

    def number(size: int) -> int:
        nonlocal at
        if at + size > len(content):
            raise ValueError("image file is damaged: its list of parts is cut short")
        found = int.from_bytes(content[at : at + size])
        at += size
        return found

    for _ in range(number(2 if version < 2 else 4)):
        item = number(2 if version < 2 else 4)
        inside = number(2) & 15 if version in (1, 2) else 0
        number(2)  # which file: this one
        base = number(base_size)
        for _ in range(number(2)):
            if version in (1, 2):
                number(index_size)
            first = base + number(offset_size)
            length = number(length_size)
            if inside == 0:
                yield item, first, first + length if length else len(content)


def _check_tail(content: bytes, start: int, end: int) -> None:
    if end > len(content):
        raise ValueError("image file is truncated: its pixels are not all there")
    tail = content[max(start, end - MOST_ZEROS) : end]
    if len(tail) == MOST_ZEROS and not tail.strip(b"\0"):
        raise ValueError(CUT_SHORT)


CHECKS = {
    "PNG": _check_png,
    "JPEG": _check_jpeg,
    "MPO": _check_jpeg,
    "WEBP": _check_webp,
    "AVIF": _check_boxes,
    "HEIF": _check_boxes,
}
