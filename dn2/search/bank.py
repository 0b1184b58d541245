"""The nearest rows of a bank: one entrance, several ways to search."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dn2.search.terms import check_index, check_k, check_matrix, checksum, float_type

if TYPE_CHECKING:
    from dn2.search.approximate import Approximate, Built, Flat
    from dn2.search.exact import Exact
    from dn2.search.light import Light


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
        ``exact`` is exact to a relative 1e-6. ``flat`` asks faiss's IndexFlatL2, in float32 and on
        the CPU, as a second opinion. The others may miss some of the nearest rows, and are for
        banks too large for an exact search: a graph, lists, and lists of codes, whose distances
        are approximate too. See `dn2.search.approximate`.
    device : str, optional
        Where torch computes, ``cpu`` or ``cuda``; by default CUDA where there is one. ``numpy``
        computes without torch, which takes seconds to import; ``exact`` gives the same answers.

    Returns
    -------
    distances : ndarray of shape (n, k), float32
        Squared, ascending, never negative.
    rows : ndarray of shape (n, k), int64
        Rows of the bank; of equally distant rows (that were found) the lowest come first.

    Raises
    ------
    ValueError
        If k is not a whole number in range, an array is not a finite matrix with at least one row
        and column, the widths differ, the index is unknown, or a distance exceeds float32.

    Examples
    --------
    >>> nearest(np.array([[0.0, 1.0]]), np.array([[0.0, 5.0], [3.0, 1.0], [0.0, 1.0]]), 2)
    (array([[0., 9.]], dtype=float32), array([[2, 1]]))
    """
    return Bank(bank, index=index, device=device).nearest(queries, k, exclude_self=exclude_self)


class Bank:
    """Hold rows ready to be searched many times.

    It holds a copy of the rows and what the index makes of them; ``exact`` makes once or twice as
    much, at the first search. Parameters and errors are those of `nearest`, and two more. A search
    gives the same answers whatever was searched before.

    Parameters
    ----------
    copy : bool, default True
        False takes rows of float32 or float64 in C order as they are, such as a memory map: the
        caller must not change them.
    built : Built, optional
        What `built` was for the same rows and index, here or in another process: nothing is built
        again.

    Attributes
    ----------
    rows : ndarray of shape (m, d), float32 or float64; or None
        The bank's own copy: changing the array that was given changes nothing. None where only
        codes are kept, by ``pq`` of 1,000 rows or more; a memory map of rows is then read a piece
        at a time.
    """

    def __init__(
        self,
        rows: np.ndarray,
        *,
        index: str = "exact",
        device: str | None = None,
        copy: bool = True,
        built: Built | None = None,
    ) -> None:
        check_index(index)
        checked = check_matrix(rows, "bank")
        if index != "pq":
            checked = np.array(
                checked, dtype=float_type(checked), order="C", subok=False, copy=copy or None
            )
        self.rows: np.ndarray | None = checked
        self._shape, self._kind = checked.shape, index
        self._device = device
        if index != "exact":
            from dn2.search.approximate import KINDS

            self._index = KINDS[index](checked, device, built)
            self.rows = self._index.rows
        self._checksum = checksum(checked) if self.rows is None else 0

    @cached_property
    def _index(self) -> Light | Exact | Flat | Approximate:
        """Make the exact index at the first search: it imports torch, which takes seconds."""
        assert self.rows is not None
        return exact_index(self.rows, self._device)

    @property
    def built(self) -> Built | None:
        """What an approximate index made of the rows; None for the other two, and for few rows."""
        return None if self._kind == "exact" else self._index.built  # type: ignore[union-attr]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what the exact index made of the rows: it is large, and made again anywhere."""
        exact = ("_index",) if self._kind == "exact" else ()
        return {name: value for name, value in vars(self).items() if name not in exact}

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
            ``queries`` is the bank itself: each subset's own rows are its queries, and none is its
            own neighbour.

        Returns
        -------
        list of (distances, rows)
            For each subset what ``Bank(bank.rows[subset])`` answers, to the last bit: ``rows`` are
            places in the subset. (``pq`` has no rows to make another bank of, and answers from the
            codes it has.)

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
                    f"a subset's row numbers must ascend from 0 to {self._shape[0] - 1}: sort "
                    "them, each once"
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
                f"nearest(k={k}) needs at least {needed} bank rows{own}, got {n}: lower k or give "
                "more rows"
            )
        queries = check_matrix(queries, "queries")
        if queries.shape[1] != width:
            raise ValueError(
                f"queries must be as wide as the bank's {width} columns, got {queries.shape[1]}: "
                "encode both alike"
            )
        if exclude_self and not self._holds(queries):
            raise ValueError(
                "exclude_self=True needs the bank itself as queries, got other rows: pass the bank "
                "twice"
            )
        answers = self._index.search(queries, int(k), exclude_self, subsets)
        if not all(np.isfinite(distances).all() for distances, _ in answers):
            raise ValueError(
                "squared distances must fit in float32, got one above 3.4e38: divide all rows by a "
                "constant"
            )
        return answers

    def _holds(self, queries: np.ndarray) -> bool:
        """Whether these are the bank's rows."""
        if self.rows is None:
            return queries.shape == self._shape and checksum(queries) == self._checksum
        return np.array_equal(queries, self.rows)


def exact_index(rows: np.ndarray, device: str | None) -> Light | Exact:
    """Make the exact index of a device: ``numpy``, or one of torch's, or None for the best."""
    if device == "numpy":
        from dn2.search.light import Light

        return Light(rows)
    from dn2.search.exact import Exact  # late: it imports torch

    return Exact(rows, device)
