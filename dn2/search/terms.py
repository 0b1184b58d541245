"""What every search has in common: names, what it asks of its arguments, how it measures.

Imports neither torch nor faiss: a detector is made and fitted without the seconds that they take.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from dn2.parameters import one_of, whole

INDEXES = ("exact", "flat", "hnsw", "ivf", "pq")
"""By name: how neighbours are found."""

APPROXIMATE = ("hnsw", "ivf", "pq")
"""The indexes that may miss a nearest row."""

SMALLEST = 1000
"""Rows from which on an approximate index is built; fewer are searched exactly."""

COUNT = whole(1)
INDEX = one_of(INDEXES)

NUMBERS_AT_ONCE = 2**21  # read in one step: a matrix may be a memory map


def check_k(k: int) -> None:
    """Raise ValueError unless k is a whole number of at least 1."""
    COUNT.check("k", k)


def check_index(index: str) -> None:
    """Raise ValueError unless ``index`` is one of INDEXES."""
    INDEX.check("index", index)


def check_matrix(array: np.ndarray, name: str) -> np.ndarray:
    """Return the array if it is a finite matrix, else raise ValueError.

    It is read a piece at a time, as it may be a memory map.
    """
    array = np.asanyarray(array)
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} must hold real numbers, got dtype {array.dtype}: convert it first"
        )
    if array.ndim != 2:
        raise ValueError(
            f"{name} must be a matrix (rows, columns), got shape {array.shape}: reshape it"
        )
    if 0 in array.shape:
        raise ValueError(
            f"{name} must have at least one row and one column, got shape {array.shape}: give more"
        )
    step = max(1, NUMBERS_AT_ONCE // array.shape[1])
    for start in range(0, len(array), step):
        finite = np.isfinite(array[start : start + step])
        if not finite.all():
            row = start + int(np.argmin(finite.all(axis=1)))
            raise ValueError(
                f"{name} must be finite, got NaN or infinity in row {row}: drop the row or repair "
                "its source"
            )
    return array


def float_type(array: np.ndarray) -> type[np.float32] | type[np.float64]:
    """Return float32 if it can hold the array's type, else float64."""
    return np.float32 if np.can_cast(array.dtype, np.float32) else np.float64


def checksum(rows: np.ndarray) -> int:
    """Compute the CRC-32 of rows as float64: equal for equal numbers of whatever type and order."""
    value, step = 0, max(1, NUMBERS_AT_ONCE // rows.shape[1])
    for start in range(0, len(rows), step):
        piece = rows[start : start + step].astype(np.float64, order="C") + 0.0  # -0 becomes 0
        value = zlib.crc32(piece.data, value)
    return value


# ---- Distances from differences, and the smallest of them: the last two steps of every search

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


def leave_out(distances: np.ndarray, rows: np.ndarray, own: np.ndarray) -> tuple[Any, Any]:
    """Leave each query's own row out of its k + 1 nearest: distances and rows (n, k).

    Parameters
    ----------
    distances, rows : ndarray of shape (n, k + 1)
        What `dn2.search.nearest` found in a bank that has the queries.
    own : ndarray of shape (n,)
        The queries' rows. One that is not found is hidden by rows that are as near: the last one
        is left out in its place.

    Examples
    --------
    >>> leave_out(np.array([[0.0, 4.0], [0.0, 0.0]]), np.array([[7, 2], [3, 4]]), np.array([7, 9]))
    (array([[4.],
           [0.]]), array([[2],
           [3]]))
    """
    found = rows == own[:, None]
    found[~found.any(axis=1), -1] = True
    shape = len(rows), rows.shape[1] - 1
    return distances[~found].reshape(shape), rows[~found].reshape(shape)
