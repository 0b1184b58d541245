"""Files that no crash can spoil: locks that die with their process, and writing all or nothing.

Also reading what is a file, and no FIFO or device that may never end; names as they are shown; and
records with a checksum of their own.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import glob
import hashlib
import io
import json
import os
import re
import shutil
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

OLD_SECONDS = 3600  # no writer takes so long
POLL_SECONDS = 0.02  # between two looks at a lock that another holds

Content = bytes | bytearray | memoryview
"""What one call writes."""

KINDS = {
    stat.S_IFDIR: "it is a folder",
    stat.S_IFIFO: "it is a FIFO",
    stat.S_IFSOCK: "it is a socket",
    stat.S_IFCHR: "it is a device",
    stat.S_IFBLK: "it is a device",
}
"""What is no file, and is not opened: reading a FIFO or a device may never end."""

SHORT = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN)
"""Errors that say nothing about the file: this process or machine is short of something."""


class NoFileError(OSError):
    """The error of a path that is a FIFO, device, socket or folder: ``reason`` says which."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{printable(str(path))} cannot be read: {reason}, not a file")
        self.path, self.reason = path, f"{reason}, not a file"

    def __reduce__(self) -> tuple[type, tuple[str | Path, str]]:
        return type(self), (self.path, self.reason.removesuffix(", not a file"))


def open_regular(path: str | Path) -> io.BufferedReader:
    """Open a file for reading its bytes; what is no regular file is not read.

    Raises
    ------
    NoFileError
        If it is a FIFO, device, socket or folder, or a link to one.
    OSError
        If it cannot be opened.
    """
    _check_kind(path, os.stat(path).st_mode)  # noqa: PTH116 - opening a device may already act
    # It may have been replaced since. Without waiting, as opening a FIFO waits for a writer.
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _check_kind(path, os.fstat(number).st_mode)
        return os.fdopen(number, "rb")
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(number)
        raise


def read_regular(path: str | Path) -> bytes:
    """Read a whole file: see `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def _check_kind(path: str | Path, mode: int) -> None:
    kind = stat.S_IFMT(mode)
    if kind != stat.S_IFREG:
        raise NoFileError(path, KINDS.get(kind, "it is no regular file"))


def printable(path: str) -> str:
    r"""Make a name safe to print: control characters and bytes that are no UTF-8 become escapes.

    Examples
    --------
    >>> print(printable("a\x1b[31m.png"), printable("\udcff.png"))
    a\x1b[31m.png \xff.png
    """
    return "".join(map(_printable, path))


def _printable(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode()


def expand(path: str | Path) -> Path:
    """Return a path with the home folder in place of ``~``.

    Raises
    ------
    ValueError
        If there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(
            f"'{path}' begins with a home folder that is not known: write the whole path"
        ) from None


def dn2_home() -> Path:
    """Return the folder of all that is kept: ``DN2_HOME``, or ``dn2`` in the user's cache folder.

    Raises
    ------
    ValueError
        If there is no home folder.
    """
    if given := os.environ.get("DN2_HOME"):
        return expand(given)
    cache = os.environ.get("XDG_CACHE_HOME")
    if not cache and os.environ.get("HOME") in (None, *_LENT) and not _has_home():
        raise ValueError("this user has no home folder: set DN2_HOME to a folder")
    return expand(cache or "~/.cache") / "dn2"


_LENT: list[str] = []
"""The folder that stands for a home folder in this process, if there is none."""


def _has_home() -> bool:
    try:
        return str(Path.home()) not in _LENT
    except RuntimeError:
        return False


def lend_home() -> None:
    """Give libraries an empty home folder, until the process ends, where the user has none.

    Several look for it when they are imported, and fail without.
    """
    if not _has_home() and not _LENT:
        lent = tempfile.mkdtemp(prefix="dn2-home-")
        _LENT.append(lent)
        os.environ["HOME"] = lent
        atexit.register(shutil.rmtree, lent, ignore_errors=True)


@contextlib.contextmanager
def hold(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock of a file, which the kernel releases if its process dies.

    One holder excludes all others, in other processes and in other threads of this one. The file
    and its folder are made if they are missing, and they stay: if the file were removed, two
    processes could lock two files of one name. A forked child does not inherit the lock.

    Parameters
    ----------
    path : Path
        The lock file. Nothing is written into it.
    wait : bool
        Whether to wait for another holder.

    Yields
    ------
    bool
        Whether the lock is held: False if another holds it and ``wait`` is false.

    Raises
    ------
    OSError
        If the lock file cannot be made or opened, or its file system has no locks.
    RuntimeError
        If this thread holds the lock already and ``wait`` is true: it would wait forever.
    """
    lock = FileLock(
        path,
        thread_local=False,  # a generator may be closed by another thread than the one it began in
        is_singleton=False,  # one lock object for each holder, so that threads exclude each other
        fallback_to_soft=False,  # a lock of that kind would outlive a killed process
        preserve_lock_file=True,
        poll_interval=POLL_SECONDS,
    )
    try:
        lock.acquire(blocking=wait)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def write_atomically(
    path: Path,
    content: Content | Callable[[BinaryIO], object],
    *,
    lasting: bool = True,
    read_only: bool = False,
) -> None:
    """Write a file that is there entirely or not at all.

    The content goes to a temporary file in the same folder, which is then renamed. An error
    removes the temporary file; a killed process leaves it to `remove_leftovers`.

    Parameters
    ----------
    path : Path
        Replaced if it exists. Its folder must exist.
    content : bytes-like or callable
        The bytes, or a function that writes them into the open binary file it is given.
    lasting : bool
        Whether the file must also survive a power cut, which costs a wait for the disk.
    read_only : bool
        Whether to remove everybody's permission to write.

    Raises
    ------
    OSError
        If the file cannot be written. What was under its name stays.
    """
    temporary = temporary_of(path)
    try:
        with temporary.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            if lasting:
                os.fsync(file.fileno())
        if read_only:
            temporary.chmod(0o444)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if lasting:
        _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    """Make the names in a folder survive a power cut."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def temporary_of(path: Path) -> Path:
    """Name what this thread writes before it is renamed to ``path``: see `remove_leftovers`."""
    writer = f"{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"
    return path.with_name(f"{path.name}.{writer}.tmp")


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files and folders that killed writers of ``path`` left.

    Those of a living process of this host stay, and those of other hosts for an hour: a writer at
    work needs them.
    """
    for leftover in path.parent.glob(f"{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            if _is_at_work(leftover):
                continue
            if not leftover.is_dir():
                leftover.unlink()
            elif re.search(r"-\d+-\d+\.tmp$", leftover.name):
                shutil.rmtree(leftover, ignore_errors=True)


def _is_at_work(temporary: Path) -> bool:
    """Tell whether the writer of a temporary file may be writing still."""
    host, _, process = temporary.name.rpartition(".tmp")[0].rpartition("-")[0].rpartition("-")
    if not host.endswith(f".{socket.gethostname()}"):
        return time.time() - temporary.stat().st_mtime < OLD_SECONDS and bool(process.isdecimal())
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it lives, under another user
    return True


# ---- Records that tell whether they are as they were written: JSON with its own SHA-256

SEAL = "sha256"
"""The entry that holds it, so that other programs read the file as before.

A file without one was written by an earlier version; it is read as it is.
"""


def seal(record: Mapping[str, Any]) -> str:
    """Return a record as JSON, with the SHA-256 of all that it says.

    Raises
    ------
    ValueError
        If it holds NaN or infinity, or has an entry of the seal's name.

    Examples
    --------
    >>> unseal(seal({"splits": [1, 2]}))
    {'splits': [1, 2]}
    """
    if SEAL in record:
        raise ValueError(f"a record has no entry {SEAL!r} of its own: name it otherwise")
    return json.dumps({**record, SEAL: _digest(record)}, indent=1, allow_nan=False)


def unseal(text: str | bytes, *, needed: bool = False) -> dict[str, Any]:
    """Return the record that a file holds, without its seal.

    Parameters
    ----------
    text : str or bytes
    needed : bool
        Whether a file without a seal is refused.

    Raises
    ------
    ValueError
        If it is no JSON object, or is not as it was written.
    """
    try:
        record = json.loads(text)
    except RecursionError:
        raise ValueError("it is no JSON of ours: it is nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError(f"it is no JSON object but a {type(record).__name__}")
    found = record.pop(SEAL, None)
    if found is None and not needed:
        return record
    if found != _digest(record):
        raise ValueError("it was altered: its checksum is another")
    return record


def _digest(record: Mapping[str, Any]) -> str:
    # Through JSON once: a tuple becomes a list, and a number of another kind its plain text.
    text = json.dumps(json.loads(json.dumps(record)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
