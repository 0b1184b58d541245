"""Rows as an index sees them: a piece after the other, centred, scaled, turned. They may be a memory map larger than memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

PIECE = 2**23  # numbers in a piece
DIRECTIONS = 256  # that are kept of turned rows


def pieces(rows: np.ndarray, width: int) -> Iterator[slice]:
    """Cut rows into pieces of bounded size."""
    step = max(1, PIECE // width)
    return (slice(start, start + step) for start in range(0, len(rows), step))


def some(rows: np.ndarray, n: int) -> np.ndarray:
    """At most n rows, always the same."""
    return rows[np.sort(np.random.default_rng(0).permutation(len(rows))[:n])]


def frame(rows: np.ndarray) -> tuple[np.ndarray, float]:
    """The rows' mean (d,), and a power of two that brings all numbers less the mean to at most 1."""
    total, reach = np.zeros(rows.shape[1]), 0.0
    for part in pieces(rows, rows.shape[1]):
        total += rows[part].sum(axis=0, dtype=np.float64)
        reach = max(reach, float(rows[part].max()), -float(rows[part].min()))
    return total / len(rows), float(2.0 ** -np.ceil(np.log2(2 * reach))) if reach else 1.0


def directions(rows: np.ndarray, parts: int) -> np.ndarray:
    """The leading principal directions of rows (n, d): (d, at most 256, more with those of zeros that make the parts equal).

    They are dealt out: the first to the first part, the second to the second, and so on, so that all parts vary about as much.
    """
    rows = rows - rows.mean(axis=0, dtype=np.float64)
    found = np.linalg.eigh(rows.T @ rows)[1][:, ::-1][:, :DIRECTIONS]
    found = np.pad(found, ((0, 0), (0, -found.shape[1] % parts)))
    dealt = found.reshape(len(found), -1, parts).swapaxes(1, 2)
    return np.ascontiguousarray(dealt.reshape(len(found), -1))
