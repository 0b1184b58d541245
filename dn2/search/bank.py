"""The nearest rows of a bank: one entrance, several ways to search."""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Sequence

import numpy as np

from dn2.search.approximate import HNSW, IVF, PQ, Approximate, Flat
from dn2.search.exact import Exact, precision

PIECE = 2**21  # numbers in one check for NaN


def nearest(
    queries: np.ndarray,
    bank: np.ndarray,
    k: int,
    *,
    exclude_self: bool = False,
    index: str = "exact",
    device: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find each query's k nearest bank rows by squared Euclidean distance, |x - y|^2.

    To search one bank many times, keep a `Bank`.

    Parameters
    ----------
    queries : ndarray of shape (n, d)
        Finite numbers. Taken as float32, or as float64 where float32 cannot hold their type.
    bank : ndarray of shape (m, d)
    k : int
        At least 1, at most m (m - 1 with ``exclude_self``).
    exclude_self : bool, default False
        ``queries`` is the bank itself: no row is its own neighbour, its duplicates are.
    index : {"exact", "flat", "hnsw", "ivf", "pq"}, default "exact"
        ``exact`` is exact to a relative 1e-6. ``flat`` asks faiss's IndexFlatL2, in float32 and on the CPU, as a second opinion.
        The others may miss some of the nearest rows, for banks too large for an exact search: a graph, lists, and lists of codes,
        whose distances are approximate too. See `dn2.search.approximate`.
    device : str, optional
        Where torch computes, ``cpu`` or ``cuda``; by default CUDA where there is one.

    Returns
    -------
    distances : ndarray of shape (n, k), float32
        Squared, ascending, never negative.
    rows : ndarray of shape (n, k), int64
        Rows of the bank; of equally distant rows (that were found) the lowest come first.

    Raises
    ------
    ValueError
        If k is not a whole number in range, an array is not a finite matrix with at least one row and column, the widths
        differ, the index is unknown, or a distance exceeds float32.

    Examples
    --------
    >>> nearest(np.array([[0.0, 1.0]]), np.array([[0.0, 5.0], [3.0, 1.0], [0.0, 1.0]]), 2)
    (array([[0., 9.]], dtype=float32), array([[2, 1]]))
    """
    return Bank(bank, index=index, device=device).nearest(queries, k, exclude_self=exclude_self)


class Bank:
    """Rows made ready to be searched many times: their copy, and what the index makes of it (``exact``: once or twice as much).

    Parameters and errors are those of `nearest`. Searching gives the same answers whatever was searched before.

    Attributes
    ----------
    rows : ndarray of shape (m, d), float32 or float64; or None
        The bank's own copy: changing the array that was given changes nothing. None where codes alone are kept, by
        ``pq`` of 1,000 rows or more; a memory map of rows is then read a piece at a time.
    """

    def __init__(
        self, rows: np.ndarray, *, index: str = "exact", device: str | None = None
    ) -> None:
        check_index(index)
        checked = check_matrix(rows, "bank")
        make = INDEXES[index]
        if make is not PQ:
            checked = np.array(checked, dtype=precision(checked), order="C", subok=False)
        self._shape = checked.shape
        self._index = make(checked, device)
        self.rows = self._index.rows
        self._checksum = checksum(checked) if self.rows is None else 0

    def nearest(
        self, queries: np.ndarray, k: int, *, exclude_self: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find each query's k nearest rows: see `nearest`."""
        return self._search([None], queries, k, exclude_self)[0]

    def nearest_in(
        self,
        subsets: Sequence[np.ndarray],
        queries: np.ndarray,
        k: int,
        *,
        exclude_self: bool = False,
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Search several subsets of the rows, for little more than the time of one search.

        Parameters
        ----------
        subsets : sequence of ndarray of int64
            Row numbers of the bank, each subset's ascending.
        queries : ndarray of shape (n, d)
        k : int
        exclude_self : bool, default False
            ``queries`` is the bank itself: each subset's own rows are its queries, and none is its own neighbour.

        Returns
        -------
        list of (distances, rows)
            For each subset what ``Bank(bank.rows[subset])`` answers, to the last bit: ``rows`` are places in the subset. (``pq``
            has no rows to make another bank of, and answers from the codes it has.)

        Raises
        ------
        ValueError
            As for `nearest`, or if a subset's row numbers do not ascend within the bank.
        """
        for subset in subsets:
            if len(subset) and not (
                subset[0] >= 0 and subset[-1] < self._shape[0] and (np.diff(subset) > 0).all()
            ):
                raise ValueError(
                    f"a subset's row numbers must ascend from 0 to {self._shape[0] - 1}: sort them, each once"
                )
        return self._search(subsets, queries, k, exclude_self)

    def _search(
        self, subsets: Sequence[np.ndarray | None], queries: np.ndarray, k: int, exclude_self: bool
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        m, width = self._shape
        check_k(k)
        n = min((m if subset is None else len(subset) for subset in subsets), default=m)
        if k > n - exclude_self:
            needed = k + exclude_self
            own = ", the query's own included" if exclude_self else ""
            raise ValueError(
                f"nearest(k={k}) needs at least {needed} bank rows{own}, got {n}: lower k or give more rows"
            )
        queries = check_matrix(queries, "queries")
        if queries.shape[1] != width:
            raise ValueError(
                f"queries must be as wide as the bank's {width} columns, got {queries.shape[1]}: encode both alike"
            )
        if exclude_self and not self._holds(queries):
            raise ValueError(
                "exclude_self=True needs the bank itself as queries, got other rows: pass the bank twice"
            )
        answers = self._index.search(queries, int(k), exclude_self, subsets)
        if not all(np.isfinite(distances).all() for distances, _ in answers):
            raise ValueError(
                "squared distances must fit in float32, got one above 3.4e38: divide all rows by a constant"
            )
        return answers

    def _holds(self, queries: np.ndarray) -> bool:
        """Whether these are the bank's rows."""
        if self.rows is None:
            return queries.shape == self._shape and checksum(queries) == self._checksum
        return np.array_equal(queries, self.rows)


def check_index(index: str) -> None:
    """Raise ValueError unless INDEXES has it."""
    if index not in INDEXES:
        near = difflib.get_close_matches(str(index), INDEXES, n=1) or list(INDEXES)[:1]
        raise ValueError(
            f"index {index!r} is unknown: did you mean {near[0]!r}? there are {', '.join(INDEXES)}"
        )


INDEXES: dict[str, type[Exact] | type[Flat] | type[Approximate]] = {
    "exact": Exact,
    "flat": Flat,
    "hnsw": HNSW,
    "ivf": IVF,
    "pq": PQ,
}

APPROXIMATE = tuple(name for name, index in INDEXES.items() if issubclass(index, Approximate))
"""Those that may miss a nearest row."""


def checksum(rows: np.ndarray) -> int:
    """CRC-32 of the rows as float64, read a piece at a time: equal numbers have equal ones, whatever their type and order."""
    value, step = 0, max(1, PIECE // rows.shape[1])
    for start in range(0, len(rows), step):
        value = zlib.crc32(
            (rows[start : start + step].astype(np.float64, order="C") + 0.0).data, value
        )  # -0 becomes 0
    return value


def check_k(k: int) -> None:
    """Raise ValueError unless k is a whole number of at least 1."""
    if isinstance(k, bool | np.bool_) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k must be an integer of at least 1, got {k!r}")


def check_matrix(array: np.ndarray, name: str) -> np.ndarray:
    """Check that the array is a finite matrix; it is read a piece at a time, as it may be a memory map."""
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
    step = max(1, PIECE // array.shape[1])
    for start in range(0, len(array), step):
        finite = np.isfinite(array[start : start + step])
        if not finite.all():
            row = start + int(np.argmin(finite.all(axis=1)))
            raise ValueError(
                f"{name} must be finite, got NaN or infinity in row {row}: drop the row or repair its source"
            )
    return array
