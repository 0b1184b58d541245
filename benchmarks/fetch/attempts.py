"""Trying sources one after the other, each failure with its reason in one line."""

from __future__ import annotations

import errno
import http.client
import shutil
import urllib.error
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from benchmarks.contracts import Progress
from benchmarks.datasets.arrays import UNREADABLE

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
    return lambda done, total: progress(what, done // 10**6, total // 10**6) if progress is not None else None


def reason(error: Exception) -> str:
    """Say in one line what went wrong."""
    if isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError):
        error = error.reason if isinstance(error.reason, Exception) else error
    return (str(error).splitlines() or [type(error).__name__])[0]


def disk_reason(error: OSError, target: Path) -> str:
    """Say in one line why ``target`` cannot be written, and the remedy."""
    return f"{target}: {error.strerror or error}: free some space there or name another folder with DN2_HOME"
