"""Arrays from .npy files and from .npz archives, without trusting what these say of themselves.

Only the header is read until the caller has compared shape and type with what it expects. Objects,
which are pickles and can run code, are refused.
"""

from __future__ import annotations

import ast
import math
import re
import struct
import zipfile
import zlib
from typing import IO, Any, NamedTuple

import numpy as np

LONGEST_HEADER = 10_000
PLAIN = re.compile(r"[<>=|]?(?:b1|[iuf][1248]|f16)")
"""Numbers and booleans; all else is refused."""


class Header(NamedTuple):
    """What a .npy file says of its array; ``offset`` is where the data begins."""

    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool
    offset: int

    @property
    def n_bytes(self) -> int:
        """The size of the data."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes], name: str) -> Header:
    """Read the header of a .npy file, and leave the file at its data.

    Raises
    ------
    ValueError
        In one line that begins with ``name``, if it is no such header, or of an array that holds
        something other than numbers.
    """
    start = file.read(8)
    if start[:6] != b"\x93NUMPY" or start[6:8] not in (b"\1\0", b"\2\0", b"\3\0"):
        raise ValueError(f"{name} is not an array as numpy.save writes it: save it again")
    length_format = "<H" if start[6] == 1 else "<I"
    size = struct.calcsize(length_format)
    length_bytes = file.read(size)
    length = struct.unpack(length_format, length_bytes)[0] if len(length_bytes) == size else 0
    content = file.read(length) if 0 < length <= LONGEST_HEADER else b""
    if not content or len(content) != length:
        raise ValueError(f"{name} has a header that is cut short or too long: save it again")
    try:
        text = content.decode("utf-8" if start[6] == 3 else "latin-1")
        said = ast.literal_eval(re.sub(r"(\d)L\b", r"\1", text).strip())  # 3L: by Python 2
        descr, fortran, shape = said["descr"], said["fortran_order"], said["shape"]
        known = len(said) == 3 and isinstance(fortran, bool) and isinstance(shape, tuple)
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        known = False
    if not known or not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError(f"{name} has a header that does not describe an array: save it again")
    if not isinstance(descr, str) or not PLAIN.fullmatch(descr):
        if isinstance(descr, str) and "O" in descr:
            raise ValueError(
                f"{name} holds Python objects, which are never loaded: save it as an array of "
                "numbers"
            )
        kind = re.sub(r"\s+", " ", ascii(descr))[:60]
        raise ValueError(
            f"{name} holds {kind}: save it as an array of numbers (labels: integers from 0)"
        )
    try:
        dtype = np.dtype(descr)
    except TypeError:
        raise ValueError(
            f"{name} holds {descr}: save it as an array of numbers (labels: integers from 0)"
        ) from None
    return Header(shape, dtype, fortran, 8 + size + length)


def check_size(header: Header, size: int, name: str) -> None:
    """Raise ValueError unless a file of ``size`` bytes holds just what its header says."""
    if size - header.offset != header.n_bytes:
        raise ValueError(
            f"{name} holds {size - header.offset:,} bytes, and its header says {header.n_bytes:,} "
            f"({header.dtype} {_shape(header.shape)}): save it again"
        )


def read_into(file: IO[bytes], target: np.ndarray, header: Header, name: str) -> None:
    """Fill an array, of the header's shape and type, with the data that follows a header.

    Raises
    ------
    ValueError
        If the data is cut short or damaged.
    """
    if header.is_fortran:
        flat = np.empty(math.prod(header.shape), header.dtype)
        _fill(file, flat, name)
        target[...] = flat.reshape(header.shape, order="F")
    else:
        _fill(file, target, name)


def _fill(file: IO[bytes], target: np.ndarray, name: str) -> None:
    flat: Any = target.reshape(-1).view(np.uint8) if target.size else bytearray()
    view = memoryview(flat)
    done = 0
    try:
        while done < len(view):
            block = file.read(min(len(view) - done, 2**24))
            if not block:
                raise EOFError("it is cut short")
            view[done : done + len(block)] = block
            done += len(block)
        if file.read(1):
            raise EOFError("it is too long")
    except (zlib.error, zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
        # (zipfile raises the last for a compression that it does not know)
        reason = " ".join(str(error).split())
        raise ValueError(f"{name} is damaged ({reason}): save or copy it again") from None


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))[:60] or "a single number"
