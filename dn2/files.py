"""Files that no crash can spoil: locks that die with their process, and writing all or nothing."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
import socket
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
