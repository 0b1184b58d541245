"""What a client sent, as images, or the reason why not. Nothing is read beyond the limits."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import json
import re
import string
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import Image

from dn2.images import CorruptImageError, allow_pixels

if TYPE_CHECKING:
    from starlette.requests import Request

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of what is opened; some of its other formats start programs."""

SHOWN_NAME = 200  # characters of a file's name that an answer repeats

COMMAS = 256
"""How many commas JSON may have for each image that is allowed: a name may have many."""

SPACES = string.whitespace.encode()


@dataclass(frozen=True)
class Limits:
    """Say how much a request may ask for.

    Attributes
    ----------
    bytes : int
        Of the body of a request.
    pixels : int
        Of an image; its header tells, before anything is decoded.
    images : int
        In a request.
    requests : int
        That are handled at a time. Others wait, and their bodies are not read meanwhile.
    seconds : float
        For a body to arrive, and for a request to wait.
    """

    bytes: int
    pixels: int
    images: int
    requests: int
    seconds: float


class Refused(Exception):
    """The error of a request that is not answered as it is: a status, and the reason."""

    def __init__(self, status: int, reason: str, **more: Any) -> None:
        super().__init__(reason)
        self.status, self.reason, self.more = status, reason, more


@dataclass(frozen=True)
class Upload:
    """Hold an image that was sent.

    Attributes
    ----------
    name : str
        What the client calls it. It is shown, and never used as a path.
    content : bytes or binary file
        A file where it is large: it lies on disk until it is decoded.
    """

    name: str
    content: bytes | BinaryIO

    def read(self) -> bytes:
        """Read the whole content."""
        if isinstance(self.content, bytes):
            return self.content
        self.content.seek(0)
        return self.content.read()

    def close(self) -> None:
        """Give back the file."""
        if not isinstance(self.content, bytes):
            self.content.close()


def check_header(content: bytes, name: str, most_pixels: int) -> None:
    """Raise CorruptImageError if the header shows no image, or one that is too large to decode."""
    if not content:
        raise CorruptImageError(Path(name), "it is empty")
    try:
        allow_pixels(most_pixels)
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        raise CorruptImageError(
            Path(name), f"it has more than the {most_pixels:,} pixels that are allowed"
        ) from None
    except Image.UnidentifiedImageError:
        raise CorruptImageError(
            Path(name), "it is in no known image format: send PNG, JPEG, BMP, TIFF, WebP or GIF"
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # decoders of broken files raise almost anything
        raise CorruptImageError(
            Path(name), (str(error).splitlines() or [type(error).__name__])[0]
        ) from None
    if width * height > most_pixels:
        raise CorruptImageError(
            Path(name),
            f"it has {width:,} x {height:,} pixels, more than the {most_pixels:,} that are allowed",
        )


async def read_uploads(request: Request, limits: Limits) -> list[Upload]:
    """Read the images of a request: files of a form, or base64 in JSON.

    Raises
    ------
    Refused
        If there are none or too many, the body is too large or too slow, or it is neither kind.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("multipart/form-data", "application/json"):
        raise Refused(
            415,
            f"the content type must be multipart/form-data or application/json, got "
            f"{shown(kind) or 'none'}: send files of a form, or base64 in JSON",
        )
    body = _limited(request, limits.bytes)
    try:
        async with asyncio.timeout(limits.seconds):
            if kind == "multipart/form-data":
                uploads = await _read_form(request, body, limits)
            else:
                content = b"".join([chunk async for chunk in body])
                uploads = await asyncio.to_thread(_read_json, content, limits.images)
    except TimeoutError:
        raise Refused(
            408, f"the body did not arrive within {limits.seconds:g} s: send fewer images at once"
        ) from None
    if not uploads:
        raise Refused(422, "the request holds no image: send at least one file")
    return uploads


def shown(name: str) -> str:
    """Shorten what a client sent, so that it can be repeated."""
    return writable(name if len(name) <= SHOWN_NAME else name[:SHOWN_NAME] + "...")


def writable(text: str) -> str:
    r"""Write what is no UTF-8 as escapes, as JSON has no place for it.

    Bytes of a path that are none come from the disk, halves of a character from JSON.

    Examples
    --------
    >>> print(writable("\udcff.png"), writable("\ud800.png"))
    \xff.png \ud800.png
    """
    text = re.sub("[\udc80-\udcff]", lambda byte: f"\\x{ord(byte[0]) - 0xDC00:02x}", text)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


async def _limited(request: Request, most: int) -> AsyncIterator[bytes]:
    """Yield the body; refuse one that is declared too large unread, and others at the limit."""
    reason = f"a request may have {most:,} bytes: send fewer or smaller images"
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise Refused(413, reason)
    got = 0
    async for chunk in request.stream():
        got += len(chunk)
        if got > most:
            raise Refused(413, reason)
        yield chunk


async def _read_form(request: Request, body: AsyncIterator[bytes], limits: Limits) -> list[Upload]:
    from starlette.datastructures import UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser

    class Parser(MultiPartParser):
        """Notice whether the closing boundary came: without it, files were cut off."""

        whole = False

        def on_end(self) -> None:
            self.whole = True

    parser = Parser(
        request.headers,
        body,  # type: ignore[arg-type] # any asynchronous iterator will do
        max_files=limits.images,
        max_fields=limits.images,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        status = 413 if error.message.startswith("Too many") else 400
        raise Refused(status, f"the form cannot be read: {error.message}") from None
    uploads, others = [], []
    for field, value in form.multi_items():
        if isinstance(value, UploadFile):
            # a browser sends a form without a chosen file as a nameless empty one
            if value.filename or value.size:
                uploads.append(Upload(shown(value.filename or field), value.file))
        else:
            others.append(field)
    if not parser.whole or others:
        for upload in uploads:
            upload.close()
        raise Refused(
            *(
                (400, "the form is cut short: it has no closing boundary")
                if not parser.whole
                else (422, f"the field {shown(others[0])!r} is no file: give it a file name")
            )
        )
    return uploads


def _read_json(content: bytes, most: int) -> list[Upload]:
    """Read base64 in JSON, of at most so many images: what is refused takes little memory."""
    example = '{"images": [{"name": "a.png", "content": "<base64>"}]}'
    too_many = f"a request may hold {most:,} images, got"
    # A comma is before almost every value, each of which takes many times its bytes as an object.
    if (commas := content.count(b",")) > most * COMMAS:
        raise Refused(413, f"{too_many} JSON with {commas:,} commas: send fewer")
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        raise Refused(400, f"the body is no JSON: send {example}") from None
    images = said.get("images") if isinstance(said, dict) else None
    if not isinstance(images, list):
        raise Refused(422, f"the JSON has no list of images: send {example}")
    if len(images) > most:
        raise Refused(413, f"{too_many} {len(images):,}: send fewer")
    return [_read_item(item, row) for row, item in enumerate(images, 1)]


def _read_item(item: Any, number: int) -> Upload:
    if isinstance(item, str):
        item = {"content": item}
    name = item.get("name", f"image {number}") if isinstance(item, dict) else None
    text = item.get("content") if isinstance(item, dict) else None
    if not isinstance(name, str) or not isinstance(text, str):
        raise Refused(
            422, f"image {number} must be base64 text, or an object with the texts name and content"
        )
    try:
        return Upload(shown(name), decode_base64(text))
    except ValueError as error:
        raise Refused(422, f"image {number} is no base64 ({error})") from None


def decode_base64(text: str) -> bytes:
    """Decode base64; ValueError if it is none. A ``data:`` address is taken without its head."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        # (to split it at its spaces would take many times its bytes)
        return base64.b64decode(text.encode("ascii").translate(None, SPACES), validate=True)
    except UnicodeEncodeError:
        raise ValueError("it has other characters") from None
    except binascii.Error as error:
        raise ValueError(str(error)) from None
