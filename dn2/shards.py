"""One shard of features on disk: a .npy file with its seconds and checksum at the end, written whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import struct
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np

DIGEST_BYTES = 32
SECONDS = struct.Struct("<d")


def verify_shard(path: Path) -> float | None:
    """Return the seconds that a shard took to compute, or None if it is not there or not what was written.

    The last 32 bytes are the SHA-256 of all before them (700 MB a second on one core); `numpy.load` does not read that far.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _seconds_if_whole(content)
    except (OSError, ValueError, struct.error):  # ValueError: an empty file cannot be mapped
        return None


def _seconds_if_whole(content: mmap.mmap) -> float | None:
    # The view is closed by hand: an open one would keep the file mapped.
    with memoryview(content)[:-DIGEST_BYTES] as body:
        whole = hashlib.sha256(body).digest() == content[-DIGEST_BYTES:]
        return SECONDS.unpack(body[-SECONDS.size :])[0] if whole else None


def write_shard(path: Path, features: np.ndarray, seconds: float) -> None:
    """Write features (n, d) float32 and the seconds they took."""
    content = BytesIO()
    np.save(content, features)
    content.write(SECONDS.pack(seconds))
    content.write(hashlib.sha256(content.getbuffer()).digest())
    write_atomically(path, content.getbuffer())


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a read-only file that is there entirely or not at all, also after a power cut."""
    temporary = path.with_name(f"{path.stem}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o444)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_leftovers(path: Path) -> None:
    """Remove temporary files of killed processes; only for who holds the shard's lock."""
    for leftover in path.parent.glob(f"{path.stem}.*.tmp"):
        leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def claim(path: Path, wait: bool) -> Iterator[bool]:
    """Hold a lock that dies with its process; False if another holds it and we do not ``wait``.

    The file stays: removing it would let two processes lock two files of one name.
    """
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            claimed = False
        else:
            claimed = True
        yield claimed
