"""Find exact nearest neighbours without torch, which takes seconds to import.

It is what a saved detector searches with. The steps are those of `dn2.search.exact`, with NumPy's
product in place of torch's, and so are the answers, to the last bit: both measure every row that
the product's error could hide among the k nearest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dn2.search.terms import float_type, measure, smallest

BLOCK_DISTANCES = 2**22  # computed at once: 16 MB of float32


class Light:
    """Search by NumPy's product and differences.

    Parameters
    ----------
    rows : ndarray of shape (m, d), float32 or float64
        Finite, in C order. They stay as they are, and no copy is made.
    """

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows
        self.squares = _squares(rows)
        self.longest = float(np.sqrt(self.squares.max(initial=0.0)))

    def search(
        self, queries: np.ndarray, k: int, exclude_self: bool, subsets: Sequence[np.ndarray | None]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Search each subset: see `dn2.search.exact.Exact.search`."""
        found = []
        for subset in subsets:
            if subset is None:
                found.append(self._search_all(queries, k, exclude_self))
            else:
                asking = queries[subset] if exclude_self else queries
                found.append(Light(self.rows[subset])._search_all(asking, k, exclude_self))
        return found

    def _search_all(
        self, queries: np.ndarray, k: int, exclude_self: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        distances = np.empty((len(queries), k), np.float32)
        places = np.empty((len(queries), k), np.int64)
        step = max(1, BLOCK_DISTANCES // len(self.rows))
        for start in range(0, len(queries), step):
            block = np.array(
                queries[start : start + step], dtype=float_type(queries), order="C", subok=False
            )
            marks = self._candidates(block, k, start if exclude_self else None)
            query, row = np.divmod(np.flatnonzero(marks), marks.shape[1])
            distance = measure(block.astype(np.float64), self.rows, query, row)
            nearest, place = smallest(query, row, distance, k)
            with np.errstate(over="ignore"):  # the bank refuses infinity
                distances[start : start + step], places[start : start + step] = nearest, place
        return distances, places

    def _candidates(self, block: np.ndarray, k: int, start: int | None) -> np.ndarray:
        """Mark every row that may be among a query's k nearest: bool, (b, m).

        Parameters
        ----------
        block : ndarray of shape (b, d)
        k : int
        start : int or None
            The queries are the rows from this one on, and none is its own neighbour.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            values = block @ self.rows.T
            values *= -2
            values += self.squares.astype(values.dtype)
        if start is not None:
            own = np.arange(len(block))
            values[own, start + own] = np.inf
        limit = np.partition(values, k - 1, axis=1)[:, k - 1].astype(np.float64)
        limit += 2 * self._error_bound(block, values.dtype)
        limit = np.nextafter(limit.astype(values.dtype), values.dtype.type(np.inf))
        # Written with "not", so that an overflow to NaN marks the pair.
        marks = ~(values > limit[:, None])
        # A product that overflowed says nothing about its row.
        overflowed = ~np.isfinite(limit) | np.isneginf(values).any(axis=1)
        marks[overflowed] = True
        if start is not None:
            marks[own, start + own] = False
        return marks

    def _error_bound(self, block: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Bound each query's error in |y|^2 - 2xy, whatever the order in which the product sums.

        A sum of d products is off by at most d u |x||y|, u being the rounding unit (Higham,
        Accuracy and Stability of Numerical Algorithms, section 3.1). The rest is for |y|^2, for
        rounding float64 factors, and for the additions.
        """
        info, d = np.finfo(dtype), block.shape[1]
        unit = (d + 10) * float(info.eps) / 2
        gamma = unit / (1 - unit) if unit < 1 else np.inf
        x, y = np.sqrt(_squares(block)), self.longest
        return gamma * (y * y + 2 * x * y) + 4 * (d + 10) * float(info.tiny)


def _squares(rows: np.ndarray) -> np.ndarray:
    """Compute |y|^2 of each row in float64, a piece at a time."""
    squares = np.empty(len(rows))
    step = max(1, 2**20 // rows.shape[1])
    for start in range(0, len(rows), step):
        piece = rows[start : start + step].astype(np.float64)
        squares[start : start + step] = np.einsum("ij,ij->i", piece, piece)
    return squares
