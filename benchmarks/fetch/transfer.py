"""Move files onto this machine: the only file that uses the network.

It does so itself or through npm, apt-get, pip or timm. In the order in which a fetch uses them:

    claim             one process fetches a thing, into a scratch folder
    first_that_works  one source after the other, each with the reason why it failed
    download          a file from an address, through pooch
    run_program       npm, apt-get, pip
    unpack            archives, whose paths cannot lead out of their folder
    put               what was fetched goes to its place, whole
    reason            what went wrong, in one line
"""

from __future__ import annotations

import errno
import glob
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from benchmarks.contracts import Progress
from benchmarks.datasets.arrays import UNREADABLE
from dn2.files import hold

SILENCE_SECONDS = 15
"""A connection that sends nothing for this long is given up."""

WINDOW_SECONDS, LONGEST_SECONDS = 15, 600
"""A download is given up if, at the rate of the last 15 s, the rest would take over 10 minutes."""

CHUNK_BYTES = 1 << 14
"""After each chunk the rate is checked. Smaller ones would take more time than the network."""

PROGRAM_SECONDS = 1800
"""A program that runs for longer than this is ended."""

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
"""Errors of the disk under the home folder. No other source would fare better."""

T = TypeVar("T")
Tell = Callable[[int, int], None]
"""Called as ``tell(done, total)``, in bytes. The total is 0 if it is not known."""


class NoSourceError(Exception):
    """No source could serve. The message has the reason of each."""


@contextmanager
def claim(target: Path, waiting: Callable[[], None]) -> Iterator[Path]:
    """Keep other processes from making ``target``, and yield an empty scratch folder.

    The folder is on the file system of the target. The lock ends with the process, however that
    ends. The next holder removes what a killed one left.

    Parameters
    ----------
    target : Path
        May exist. The caller must check, once it holds the claim, whether it is good.
    waiting : callable
        Called without arguments before waiting, if another process holds the claim.

    Raises
    ------
    OSError
        If the folder cannot be made or written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = target.parent / f".{target.name}.lock"
    with ExitStack() as held:
        if not held.enter_context(hold(lock, wait=False)):
            waiting()
            held.enter_context(hold(lock, wait=True))
        prefix = f".{target.name}.tmp-"
        for stale in target.parent.glob(f"{glob.escape(prefix)}*"):
            shutil.rmtree(stale, ignore_errors=True)
        with tempfile.TemporaryDirectory(
            prefix=prefix, dir=target.parent, ignore_cleanup_errors=True
        ) as scratch:
            yield Path(scratch)


def put(made: Path, target: Path) -> None:
    """Rename ``made``, in the scratch folder, to ``target``.

    A folder that was there goes with the scratch folder.
    """
    if target.is_dir():
        target.rename(made.with_name("replaced"))
    made.rename(target)


def first_that_works(attempts: Mapping[str, Callable[[Path], T]], scratch: Path) -> tuple[str, T]:
    """Return the name and the result of the first attempt that works.

    Parameters
    ----------
    attempts : mapping
        Name of the source -> function of the folder, below ``scratch``, that it may use.
    scratch : Path

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
        except UNREADABLE as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise
            reasons.append(f"{kind}: {reason(error)}")
            shutil.rmtree(place)
    raise NoSourceError("; ".join(reasons))


def teller(progress: Progress | None, what: str) -> Tell:
    """Return a function of bytes that reports megabytes to ``progress``, if there is one."""
    return lambda done, total: (
        progress(what, done // 10**6, total // 10**6) if progress is not None else None
    )


def download(url: str, path: Path, tell: Tell, known_hash: str | None = None) -> None:
    """Download a file, unless the server falls silent or is too slow.

    Parameters
    ----------
    url : str
    path : Path
        The file to write. It appears once it is whole and has the known hash.
    tell : callable
        Called with the bytes that are done and their total.
    known_hash : str, optional
        As pooch takes it, such as ``md5:0a1b...``.

    Raises
    ------
    OSError
        If the server cannot be reached, refuses, breaks off, falls silent, or the rest would take
        more than 10 minutes.
    ValueError
        If the file has another hash.
    """
    import pooch
    from requests.exceptions import ChunkedEncodingError

    pooch.get_logger().setLevel("ERROR")  # what it does is no news, and its errors reach us
    meter = _Meter(url, tell)
    downloader = pooch.HTTPDownloader(
        progressbar=meter,
        chunk_size=CHUNK_BYTES,
        timeout=SILENCE_SECONDS,
        # Some servers would compress once more, and the file would be another.
        headers={"User-Agent": "dn2-benchmark", "Accept-Encoding": "identity"},
    )
    try:
        pooch.retrieve(url, known_hash, path.name, path.parent, downloader=downloader)
    except ChunkedEncodingError as error:
        raise OSError(f"{url} broke off after about {meter.done} of {meter.total} bytes") from error


class _Meter:
    """What pooch takes for a progress bar: it reports progress, and gives a slow server up.

    Parameters
    ----------
    url : str
        Named in the error.
    tell : callable
    """

    def __init__(self, url: str, tell: Tell) -> None:
        self.url = url
        self.tell = tell
        self.total = 0  # set by pooch, and left at 0 if the server does not say it
        self.done = 0
        self._since, self._done_then = time.monotonic(), 0

    def update(self, count: int) -> None:
        """Count bytes. Of the last chunk, pooch reports more than it got."""
        self.done = min(self.done + count, self.total) if self.total else self.done + count
        self.tell(self.done, self.total)
        seconds = time.monotonic() - self._since
        if seconds < WINDOW_SECONDS:
            return
        rate = (self.done - self._done_then) / seconds
        left = self.total - self.done
        if left > rate * LONGEST_SECONDS:
            raise OSError(
                f"{self.url} is too slow: {rate / 1e3:.0f} kB/s with {left / 1e6:.0f} MB left"
            )
        self._since, self._done_then = time.monotonic(), self.done

    def reset(self) -> None:
        """Begin again; pooch then reports the total at once."""
        self.done = 0 if self.total else self.done

    def close(self) -> None:
        """Do nothing: there is no bar to take away."""


def is_reachable(url: str) -> bool:
    """Return whether a server answers within 5 s, even if it answers with an error."""
    import pooch

    try:
        pooch.HTTPDownloader(timeout=5)(url, os.devnull, None, check_only=True)
    except OSError:
        return False
    return True


def run_program(command: list[str], folder: Path, **environment: str) -> None:
    """Run another program in a folder.

    Raises
    ------
    OSError
        If it is not installed, takes too long, or fails, with the lines in which it says why.
    """
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
        lines = [line.strip() for line in child.stderr.splitlines() if line.strip()]
        lines = lines or [f"exit code {child.returncode}"]
        errors = [line for line in lines if line.lower().startswith(("e:", "err", "npm err"))]
        raise OSError(f"{program}: {' '.join(errors[:3] or lines[-1:])[:400]}")


def unpack_flat(archive: Path, folder: Path) -> None:
    """Unpack the files of an archive into one folder, each under its last name.

    So no path in the archive can lead out of the folder.
    """
    with tarfile.open(archive) as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is not None:
                with (folder / Path(member.name).name).open("wb") as file:
                    shutil.copyfileobj(content, file)


def unpack(archive: Path) -> None:
    """Replace an archive by its files, in the folder where it is.

    Raises
    ------
    tarfile.TarError
        If a path in it leads out of the folder.
    """
    with tarfile.open(archive) as tar:
        tar.extractall(archive.parent, filter="data")
    archive.unlink()


def reason(error: Exception) -> str:
    """Return in one line what went wrong."""
    from requests.exceptions import ConnectionError as NoConnectionError

    if isinstance(error, NoConnectionError) and error.args:
        # The outer errors repeat the address and the number of attempts.
        inner = getattr(error.args[0], "reason", None) or error.args[0]
        error = inner if isinstance(inner, Exception) else error
    return (str(error).splitlines() or [type(error).__name__])[0]


def disk_reason(error: OSError, target: Path) -> str:
    """Return in one line why ``target`` cannot be written, and the remedy."""
    return (
        f"{target}: {error.strerror or error}: free some space there or name another folder with "
        "DN2_HOME"
    )
