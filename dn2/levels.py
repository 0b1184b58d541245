"""Which levels of 16-bit grey become black and white, learnt from normal images.

Cameras and X-ray detectors write 10, 12 or 14 bits into files of 16, and a part of them has all the
contrast. Divided by 257, it would be a few grey levels of 8 bits. The rule, for all 16-bit grey
images that are given together: take the level below which 0.1 % of the pixels lie, and the one
above which 0.1 % do. Widen this range by half of itself on either side, so that anomalies which are
darker or brighter keep their contrast, to at least 256 levels, and to no more than there are. Where
all levels are used, that is 0 to 65535, as if nothing were learnt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dn2.files import open_regular
from dn2.images import ALL_LEVELS, VIEW, CorruptImageError, View, read_levels

RARE = 0.001
"""The fraction of the pixels that may be darker than the range, and of those brighter."""

FEWEST = 256
"""Levels of a range: an even image must not become noise."""

UNUSUAL = (b"\xff\xd8", b"GIF8", b"BM", b"RIFF")
"""How files begin that never hold 16 bits of grey: JPEG, GIF, BMP, WebP."""


class Learnt(NamedTuple):
    """Hold what was found.

    Attributes
    ----------
    levels : tuple of int
        The level that becomes black and the one that becomes white.
    n_images : int
        How many images of 16-bit grey there are.
    complete : bool
        Whether all of them could be read.
    """

    levels: tuple[int, int]
    n_images: int
    complete: bool


def learn_levels(
    sources: Iterable[object],
    threads: int | None = None,
    view: View = VIEW,
    progress: Callable[[int], None] | None = None,
) -> Learnt:
    """Learn the range from images; those that are not 16-bit grey count for nothing.

    Images that cannot be read are passed over: encoding them says what is wrong.

    Parameters
    ----------
    sources : iterable of path, bytes or ndarray
    threads : int, optional
    view : View, optional
        Of it, the limit of pixels.
    progress : callable, optional
        Called with the number of images that were looked at.

    Raises
    ------
    dn2.images.ImageMemoryError
        If there is too little memory for one.
    """
    counts = np.zeros(ALL_LEVELS[1] + 1, np.int64)
    n_images, complete = 0, True
    with ThreadPoolExecutor(threads) as pool:
        for done, found in enumerate(pool.map(lambda one: _count(one, view), sources), 1):
            if isinstance(found, bool):
                complete = complete and found
            else:
                counts += found
                n_images += 1
            if progress is not None:
                progress(done)
    return Learnt(range_of(counts), n_images, complete)


def range_of(counts: np.ndarray) -> tuple[int, int]:
    """Choose the range.

    Parameters
    ----------
    counts : ndarray of shape (65536,), int
        How many pixels have each level.

    Examples
    --------
    >>> counts = np.zeros(65536, int)
    >>> counts[1000:2001] = 1
    >>> range_of(counts)
    (502, 2498)
    """
    total = counts.sum()
    if not total:
        return ALL_LEVELS
    below = np.cumsum(counts)
    low = int(np.searchsorted(below, RARE * total, side="right"))
    high = int(np.searchsorted(below, (1 - RARE) * total, side="left"))
    wider = max((high - low) // 2, (FEWEST - (high - low) + 1) // 2)
    black = min(max(low - wider, 0), ALL_LEVELS[1] - FEWEST + 1)
    return black, max(min(high + wider, ALL_LEVELS[1]), black + FEWEST - 1)


def _count(source: object, view: View) -> np.ndarray | bool:
    """Count an image's pixels of each level; True if it has no 16-bit grey, False if unreadable."""
    if not isinstance(source, str | Path | bytes):
        return True
    try:
        if not _may_be_deep(source):
            return True
        found = read_levels(source if isinstance(source, bytes) else Path(source), view)
    except (OSError, ValueError, CorruptImageError):
        return False
    return True if found is None else found


def _may_be_deep(source: str | Path | bytes) -> bool:
    """Tell by its first bytes whether a file may hold 16-bit grey."""
    if isinstance(source, bytes):
        head = source[:32]
    else:
        with open_regular(source) as file:
            head = file.read(32)
    if head.startswith(b"\x89PNG"):
        return len(head) > 25 and head[24] == 16 and head[25] == 0
    return not head.startswith(UNUSUAL)
