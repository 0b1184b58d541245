"""Exact nearest neighbours by a blocked matrix product.

The product |y|^2 - 2xy ranks a whole block of distances at the speed of the machine but loses digits where vectors are long and
distances short. So it only narrows the choice: every row that its rounding error could hide among the k nearest is measured again
from the differences, in float64. Answers therefore depend on no block, thread or device, and equal a brute force in float64.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

BLOCK = 2**22  # distances held at once: 16 MB of float32
CHUNK = 2**17  # numbers in one step of measuring again: 1 MB of float64, which stays in the cache
ROUNDING = 2.0**-24  # largest relative error of one float32 operation
TINY = float(np.finfo(np.float32).tiny)  # largest absolute error of one float32 operation that underflows


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
    index : {"exact", "flat"}, default "exact"
        ``exact`` is exact to a relative 1e-6. ``flat`` asks faiss's IndexFlatL2, in float32 and on the CPU, as a second opinion.
    device : str, optional
        Where torch computes, ``cpu`` or ``cuda``; by default CUDA where there is one.

    Returns
    -------
    distances : ndarray of shape (n, k), float32
        Squared, ascending, never negative.
    rows : ndarray of shape (n, k), int64
        Rows of the bank; of equally distant rows the lowest come first.

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
    """Rows made ready to be searched many times: their copy, and what the index derives from it (for ``exact`` as much again).

    Parameters and errors are those of `nearest`. Searching gives the same answers whatever was searched before.

    Attributes
    ----------
    rows : ndarray of shape (m, d), float32 or float64
        The bank's own copy: changing the array that was given changes nothing.
    """

    def __init__(self, rows: np.ndarray, *, index: str = "exact", device: str | None = None) -> None:
        if index not in INDEXES:
            near = difflib.get_close_matches(str(index), INDEXES, n=1) or list(INDEXES)[:1]
            raise ValueError(f"index {index!r} is unknown: did you mean {near[0]!r}? there are {', '.join(INDEXES)}")
        checked = _matrix(rows, "bank")
        self.rows = np.array(checked, dtype=_precision(checked), order="C", subok=False)
        self._index = INDEXES[index](self.rows, device)

    def nearest(self, queries: np.ndarray, k: int, *, exclude_self: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Find each query's k nearest rows: see `nearest`."""
        n, width = self.rows.shape
        check_k(k)
        if k > n - exclude_self:
            needed = k + exclude_self
            besides = " besides the query itself" if exclude_self else ""
            raise ValueError(f"nearest(k={k}) needs at least {needed} bank rows{besides}, got {n}: lower k or give more rows")
        queries = _matrix(queries, "queries")
        if queries.shape[1] != width:
            raise ValueError(f"queries must be as wide as the bank's {width} columns, got {queries.shape[1]}: encode both alike")
        if exclude_self and not np.array_equal(queries, self.rows):
            raise ValueError("exclude_self=True needs the bank itself as queries, got other rows: pass the bank twice")
        distances, rows = self._index.search(queries, int(k), exclude_self)
        if not np.isfinite(distances).all():
            raise ValueError("squared distances must fit in float32, got one above 3.4e38: divide all rows by a constant")
        return distances, rows


class _Exact:
    """The product narrows the choice, differences decide."""

    def __init__(self, rows: np.ndarray, device: str | None) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        with _torch_at_full_width():
            self.rows = torch.from_numpy(rows).to(self.device)
            self.mean = self.rows.mean(0, dtype=torch.float64).to(self.rows.dtype)  # subtracted, as offsets cost digits
            self.centred = (self.rows - self.mean).float()
            lengths = torch.linalg.vector_norm(self.centred, dim=1, dtype=torch.float64)
            self.longest = lengths.max()
            self.squares = lengths.square().float()

    def search(self, queries: np.ndarray, k: int, exclude_self: bool) -> tuple[np.ndarray, np.ndarray]:
        n = len(queries)
        distances, rows = np.empty((n, k), np.float32), np.empty((n, k), np.int64)
        step = min(1024, max(16, BLOCK // len(self.rows)))
        with _torch_at_full_width():
            for start in range(0, n, step):
                block = np.array(queries[start : start + step], dtype=_precision(queries), order="C", subok=False)
                found = slice(start, start + len(block))
                own = start if exclude_self else None
                distances[found], rows[found] = self._search_block(torch.from_numpy(block).to(self.device), k, own)
        return distances, rows

    def _search_block(self, queries: torch.Tensor, k: int, own: int | None) -> tuple[np.ndarray, np.ndarray]:
        query, row = np.divmod(self._candidates(queries, k, own), len(self.rows))
        distance = self._measure(queries, torch.from_numpy(query), torch.from_numpy(row))
        order = np.lexsort((distance, query))  # stable: candidates come with rows ascending, so that ties stay so
        counts = np.bincount(query, minlength=len(queries))
        chosen = order[(np.cumsum(counts) - counts)[:, None] + np.arange(k)]
        return distance[chosen], row[chosen]

    def _candidates(self, queries: torch.Tensor, k: int, own: int | None) -> np.ndarray:
        """Name every pair (query, row) that may be among the k nearest, as query * len(rows) + row, ascending.

        ``own`` is the bank's row that the first query is, where the queries are the bank: pairs on that diagonal are left out.
        """
        centred = (queries - self.mean).float()
        rough = torch.addmm(self.squares, centred, self.centred.T, alpha=-2)  # without |x|^2, the same for all rows
        if own is not None:
            rough.diagonal(own).fill_(torch.inf)
        limit = _upper_kth(rough, k) + 2 * self._error(centred)
        keep = ~(rough > limit.float()[:, None])  # so written, an overflow to NaN keeps the pair
        if own is not None:
            keep.diagonal(own).fill_(False)
        return np.flatnonzero(keep.cpu().numpy())

    def _error(self, centred: torch.Tensor) -> torch.Tensor:
        """Bound each query's error in ``rough``, whatever the order in which the product is summed.

        A sum of d products is off by at most d u |x||y|, u being the rounding unit (Higham, Accuracy and Stability of Numerical
        Algorithms, section 3.1); subtracting the mean moves a distance by at most 2u (|x| + |y|)^2. The rest is for |y|^2, the
        last additions and the rounding of the limit.
        """
        x, y, d = torch.linalg.vector_norm(centred, dim=1, dtype=torch.float64), self.longest, centred.shape[1]
        unit = (d + 8) * ROUNDING
        gamma = unit / (1 - unit) if unit < 1 else float("inf")
        return gamma * (y * y + 2 * x * y) + 3 * ROUNDING * (x + y) ** 2 + 4 * (d + 8) * TINY

    def _measure(self, queries: torch.Tensor, query: torch.Tensor, row: torch.Tensor) -> np.ndarray:
        """Squared distances of pairs, from differences in float64. A pair's value does not depend on the pairs around it."""
        query, row = query.to(self.device), row.to(self.device)
        distance = torch.empty(len(row), dtype=torch.float64, device=self.device)
        step = max(1, CHUNK // queries.shape[1])
        for start in range(0, len(row), step):
            part = slice(start, start + step)
            difference = self.rows.index_select(0, row[part]).double()
            difference -= queries.index_select(0, query[part]).double()
            # not (difference**2).sum(1): torch splits a single long row over its threads and then rounds otherwise
            distance[part] = torch.linalg.vector_norm(difference, dim=1).square()
        return distance.cpu().numpy()


class _Flat:
    """faiss's IndexFlatL2: float32, its cancellation noise only clamped at 0."""

    def __init__(self, rows: np.ndarray, device: str | None) -> None:  # noqa: ARG002 - the wheel's faiss knows only the CPU
        import faiss

        self._faiss = faiss
        self.index = faiss.IndexFlatL2(rows.shape[1])
        self.index.add(rows.astype(np.float32, copy=False))

    def search(self, queries: np.ndarray, k: int, exclude_self: bool) -> tuple[np.ndarray, np.ndarray]:
        before = self._faiss.omp_get_max_threads()
        self._faiss.omp_set_num_threads(_cores())
        try:
            distances, rows = self.index.search(np.ascontiguousarray(queries, np.float32), k + exclude_self)
        finally:
            self._faiss.omp_set_num_threads(before)
        distances = np.maximum(distances, 0)
        if exclude_self:
            distances[rows == np.arange(len(rows))[:, None]] = np.inf
        order = np.lexsort((rows, distances))[:, :k]
        return np.take_along_axis(distances, order, 1), np.take_along_axis(rows, order, 1)


INDEXES: dict[str, Callable[[np.ndarray, str | None], _Exact | _Flat]] = {"exact": _Exact, "flat": _Flat}


def check_k(k: int) -> None:
    """Raise ValueError unless k is a whole number of at least 1."""
    if isinstance(k, bool | np.bool_) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k must be an integer of at least 1, got {k!r}")


def _upper_kth(values: torch.Tensor, k: int) -> torch.Tensor:
    """At least the k-th smallest value of each row, and seldom much more: the k-th smallest of the minima of groups of columns.

    k groups with a minimum up to some value hold k values up to it. Minima are found at the speed of memory, sorting is not.
    """
    n = values.shape[1]
    size = max(1, n // max(256, 8 * k))
    groups = n // size
    minima = values[:, : groups * size].unflatten(1, (size, groups)).amin(1)
    minima = torch.cat([minima, values[:, groups * size :]], dim=1)
    return minima.topk(k, dim=1, largest=False, sorted=True).values[:, -1].double()


def _matrix(array: np.ndarray, name: str) -> np.ndarray:
    """Check that the array is a finite matrix; it is read a piece at a time, as it may be a memory map."""
    array = np.asanyarray(array)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype}: convert it first")
    if array.ndim != 2:
        raise ValueError(f"{name} must be a matrix (rows, columns), got shape {array.shape}: reshape it")
    if 0 in array.shape:
        raise ValueError(f"{name} must have at least one row and one column, got shape {array.shape}: give more")
    step = max(1, BLOCK // array.shape[1])
    for start in range(0, len(array), step):
        finite = np.isfinite(array[start : start + step]).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise ValueError(f"{name} must be finite, got NaN or infinity in row {row}: drop the row or repair its source")
    return array


def _precision(array: np.ndarray) -> type[np.float32] | type[np.float64]:
    return np.float32 if np.can_cast(array.dtype, np.float32) else np.float64


def _cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _torch_at_full_width() -> Iterator[None]:
    """All cores, and float32 products in float32, for a while: the error bound knows no TF32 or bfloat16."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(_cores())
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
