"""What every search asks of its arguments, and the names of the indexes.

Imports neither torch nor faiss: a detector is made and fitted without the seconds that they take.
"""

from __future__ import annotations

import zlib

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
