"""Files that no crash can spoil: locks that die with their process, and writing all or nothing.

Also reading what is a file, and no FIFO or device that may never end; and names as they are shown.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import io
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

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
    writer = f"{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"
    temporary = path.with_name(f"{path.name}.{writer}.tmp")
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


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files that killed writers of ``path`` left.

    Those of a living process of this host stay, and those of other hosts for an hour: a writer at
    work needs them.
    """
    for leftover in path.parent.glob(f"{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            if not _is_at_work(leftover):
                leftover.unlink()


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
