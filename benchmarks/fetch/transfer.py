"""Bringing files onto this machine: the only file that touches the network, itself or through npm, apt-get, pip or timm."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

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
    with urllib.request.urlopen(request, timeout=SILENCE_SECONDS) as response, path.open("wb") as file:
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
                    raise OSError(f"{url} is too slow: {rate / 1e3:.0f} kB/s with {left:.0f} MB left")
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
        lines = [line.strip() for line in child.stderr.splitlines() if line.strip()] or [f"exit code {child.returncode}"]
        said = [line for line in lines if line.lower().startswith(("e:", "err", "npm err"))][:3] or lines[-1:]
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
