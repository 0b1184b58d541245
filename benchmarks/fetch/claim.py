"""One process at a time makes a file or folder, out of sight, and puts it in its place in one step."""

from __future__ import annotations

import fcntl
import glob
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def claim(target: Path, waiting: Callable[[], None]) -> Iterator[Path]:
    """Keep other processes from making ``target`` meanwhile, and yield an empty scratch folder on the same file system.

    The lock is the kernel's, so it ends with the process, however that ends; the next one cleans away what a killed one left.
    The lock file itself stays: to delete it would let two processes lock two files of one name.

    Parameters
    ----------
    target : Path
        May exist; whether it is good is for the caller to look at once it holds the claim.
    waiting : callable
        Called without arguments if another process has the claim, before waiting for it.

    Raises
    ------
    OSError
        If the folder cannot be made or written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        prefix = f".{target.name}.tmp-"
        for stale in target.parent.glob(f"{glob.escape(prefix)}*"):
            shutil.rmtree(stale, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=target.parent, ignore_cleanup_errors=True) as scratch:
            yield Path(scratch)


def put(made: Path, target: Path) -> None:
    """Rename ``made``, in the scratch folder, to ``target``; what was there goes with the scratch folder."""
    if target.is_dir():
        target.rename(made.with_name("replaced"))
    made.rename(target)
