"""Bringing files onto this machine: the only file that touches the network, itself or through npm, apt-get, pip or timm."""

from __future__ import annotations

import errno
import fcntl
import glob
import http.client
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from benchmarks.contracts import Progress
from benchmarks.datasets.arrays import UNREADABLE

SILENCE_SECONDS = 15
"""A connection that says nothing for so long is given up."""
WINDOW_SECONDS, LONGEST_SECONDS = 15, 600
"""A download is given up when, at the rate of the last 15 s, the rest would take more than 10 minutes."""
PROGRAM_SECONDS = 1800


def download(url: str, path: Path, tell: Callable[[int, int], None]) -> None:
    """Stream a file to disk, unless the other side is silent, or too slow to be waited for.

    Parameters
    ----------
    url : str
    path : Path
        The file to write; what there is of it stays after a failure.
    tell : callable
        Called as ``tell(done, total)``, in bytes; the total is 0 if the server does not say it.

    Raises
    ------
    OSError, http.client.HTTPException
        If the server cannot be reached, refuses, breaks off, falls silent, or the rest would take more than 10 minutes.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "dn2-benchmark"})
    with (
        urllib.request.urlopen(request, timeout=SILENCE_SECONDS) as response,
        path.open("wb") as file,
    ):
        total, done = int(response.headers.get("Content-Length") or 0), 0
        since, done_then = time.monotonic(), 0
        while chunk := response.read1(1 << 18):
            done += file.write(chunk)
            tell(done, total)
            seconds = time.monotonic() - since
            if seconds >= WINDOW_SECONDS:
                rate = (done - done_then) / seconds
                if total - done > rate * LONGEST_SECONDS:
                    left = (total - done) / 1e6
                    raise OSError(
                        f"{url} is too slow: {rate / 1e3:.0f} kB/s with {left:.0f} MB left"
                    )
                since, done_then = time.monotonic(), done
    if done < total:
        raise OSError(f"{url} broke off after {done} of {total} bytes")


def is_reachable(url: str) -> bool:
    """Whether a server answers within 5 s, be it with an error."""
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def run_program(command: list[str], folder: Path, **environment: str) -> None:
    """Run another program in a folder; its failure is an OSError with what it said."""
    program, env = Path(command[0]).name, {**os.environ, **environment}
    try:
        child = subprocess.run(
            command,
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PROGRAM_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise OSError(f"{program} is not installed") from None
    except subprocess.TimeoutExpired:
        raise OSError(f"{program} took more than {PROGRAM_SECONDS} s") from None
    if child.returncode:
        lines = [line.strip() for line in child.stderr.splitlines() if line.strip()] or [
            f"exit code {child.returncode}"
        ]
        said = [line for line in lines if line.lower().startswith(("e:", "err", "npm err"))][
            :3
        ] or lines[-1:]
        raise OSError(f"{program}: {' '.join(said)[:400]}")


def unpack_flat(archive: Path, folder: Path) -> None:
    """Unpack the files of an archive by their last name: a path in it cannot lead out of the folder."""
    with tarfile.open(archive) as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is not None:
                with (folder / Path(member.name).name).open("wb") as file:
                    shutil.copyfileobj(content, file)


def unpack(archive: Path) -> None:
    """Replace an archive by its files, beside it; a path in it that leads out of the folder is refused."""
    with tarfile.open(archive) as tar:
        tar.extractall(archive.parent, filter="data")
    archive.unlink()


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
        with tempfile.TemporaryDirectory(
            prefix=prefix, dir=target.parent, ignore_cleanup_errors=True
        ) as scratch:
            yield Path(scratch)


def put(made: Path, target: Path) -> None:
    """Rename ``made``, in the scratch folder, to ``target``; what was there goes with the scratch folder."""
    if target.is_dir():
        target.rename(made.with_name("replaced"))
    made.rename(target)


T = TypeVar("T")
Tell = Callable[[int, int], None]
"""Called as ``tell(done, total)``, in bytes."""

FAILURES = (*UNREADABLE, http.client.HTTPException)
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
"""Errors of the disk under the home folder: no other source would fare better."""


class NoSourceError(Exception):
    """No source had it; the message has the reason of each."""


def first_that_works(attempts: Mapping[str, Callable[[Path], T]], scratch: Path) -> tuple[str, T]:
    """Return the name and the result of the first attempt that works, each in a folder of its own below ``scratch``.

    Raises
    ------
    NoSourceError
        If none works.
    OSError
        If the disk is full or takes no writes.
    """
    reasons = []
    for kind, attempt in attempts.items():
        place = scratch / kind
        place.mkdir()
        try:
            return kind, attempt(place)
        except FAILURES as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise
            reasons.append(f"{kind}: {reason(error)}")
            shutil.rmtree(place)
    raise NoSourceError("; ".join(reasons))


def teller(progress: Progress | None, what: str) -> Tell:
    """Return a function of bytes that tells ``progress``, if there is one, of megabytes."""
    return lambda done, total: (
        progress(what, done // 10**6, total // 10**6) if progress is not None else None
    )


def reason(error: Exception) -> str:
    """Say in one line what went wrong."""
    if isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError):
        error = error.reason if isinstance(error.reason, Exception) else error
    return (str(error).splitlines() or [type(error).__name__])[0]


def disk_reason(error: OSError, target: Path) -> str:
    """Say in one line why ``target`` cannot be written, and the remedy."""
    return f"{target}: {error.strerror or error}: free some space there or name another folder with DN2_HOME"
