"""Measure distances from differences, and choose the smallest: the last two steps of every search.

Imports no torch.
"""

from __future__ import annotations

import numpy as np

CACHED_NUMBERS = 2**15  # in one step of measuring: they stay in a core's cache
SUMMED_NUMBERS = 8192  # of a row, at once: BLAS would set threads to longer ones, and then round


def measure(
    queries: np.ndarray, rows: np.ndarray, query: np.ndarray, row: np.ndarray
) -> np.ndarray:
    """Compute squared distances of pairs from differences in float64.

    No pair's value depends on the pairs around it.

    Parameters
    ----------
    queries : ndarray of shape (b, d), float64
    rows : ndarray of shape (m, d), float32 or float64
    query, row : ndarray of shape (p,), int64
        The pairs.
    """
    step, width = max(1, CACHED_NUMBERS // rows.shape[1]), rows.shape[1]
    raw = np.empty((step, width), rows.dtype)
    ours, theirs = np.empty((step, width)), np.empty((step, width))
    distance = np.zeros(len(row))
    for start in range(0, len(row), step):
        part = slice(start, start + step)
        m = len(row[part])
        # mode="clip", as "raise" goes through a copy
        np.take(rows, row[part], axis=0, out=raw[:m], mode="clip")
        np.copyto(theirs[:m], raw[:m])
        np.take(queries, query[part], axis=0, out=ours[:m], mode="clip")
        np.subtract(ours[:m], theirs[:m], out=ours[:m])
        for left in range(0, width, SUMMED_NUMBERS):
            piece = ours[:m, left : left + SUMMED_NUMBERS]
            distance[part] += np.vecdot(piece, piece)
    return distance


def smallest(
    query: np.ndarray, place: np.ndarray, distance: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Choose each query's k smallest distances from pairs; of equal ones the lowest place first.

    Returns
    -------
    distances, places : ndarray of shape (number of different queries, k)
    """
    order = np.lexsort((place, distance, query))
    counts = np.bincount(query)
    counts = counts[counts > 0]
    chosen = order[(np.cumsum(counts) - counts)[:, None] + np.arange(k)]
    return distance[chosen], place[chosen]
