"""Exact nearest neighbours by a blocked matrix product.

The product |y|^2 - 2xy ranks a whole block of distances at the speed of the machine but loses digits where vectors are long and
distances short. So it only narrows the choice: every row that its rounding error could hide among the k nearest is measured again
from the differences, in float64. Answers therefore depend on no block, thread or device, and equal a brute force in float64.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch

PRODUCT = 2**23  # distances that one thread holds at once: 32 MB of float32
PIECE = 2**21  # of them, searched for candidates at once; also numbers in one check for NaN
CHUNK = 2**15  # numbers in one step of measuring again: they stay in a core's cache
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
            own = ", the query's own included" if exclude_self else ""
            raise ValueError(f"nearest(k={k}) needs at least {needed} bank rows{own}, got {n}: lower k or give more rows")
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
        self.rows = rows
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        with _torch_settings(threads=_cores()):
            raw = torch.from_numpy(rows).to(self.device)
            self.mean = raw.mean(0)  # subtracted, as an offset costs digits
            self.centred = (raw - self.mean).float()
            pieces = self.centred.split(4096)  # as torch makes a float64 copy of what it measures
            lengths = torch.cat([torch.linalg.vector_norm(piece, dim=1, dtype=torch.float64) for piece in pieces])
            self.longest = lengths.max()
            self.squares = lengths.square().float()

    def search(self, queries: np.ndarray, k: int, exclude_self: bool) -> tuple[np.ndarray, np.ndarray]:
        distances, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        cores = _cores()
        step = min(512, max(16, PRODUCT // len(self.rows)), -(-len(queries) // cores))
        starts = iter(range(0, len(queries), step))

        def work() -> None:
            product = torch.empty((step, len(self.rows)), device=self.device)  # once: fresh memory costs as much as filling it
            for start in starts:  # shared by the threads: each takes the next block
                block = np.array(queries[start : start + step], dtype=_precision(queries), order="C", subok=False)
                candidates = self._candidates(block, k, start if exclude_self else None, product[: len(block)])
                part = max(1, PIECE // len(self.rows))
                for first in range(0, len(block), part):
                    found = slice(start + first, start + min(first + part, len(block)))
                    near, which = _settle(block[first : first + part], self.rows, candidates[first : first + part], k)
                    with np.errstate(over="ignore"):  # the bank refuses infinity
                        distances[found], rows[found] = near, which

        # A thread for each block, not all threads for each step: they would wait for each other, long on a busy machine.
        with _torch_settings(threads=1), ThreadPoolExecutor(cores) as pool:
            for done in [pool.submit(work) for _ in range(cores)]:
                done.result()
        return distances, rows

    def _candidates(self, block: np.ndarray, k: int, own: int | None, product: torch.Tensor) -> np.ndarray:
        """Mark every row that may be among a query's k nearest: bool of shape (len(block), len(rows)).

        ``own`` is the bank's row that the first query is, where the queries are the bank: pairs on that diagonal are left out.
        """
        centred = (torch.from_numpy(block).to(self.device) - self.mean).float()
        torch.addmm(self.squares, centred, self.centred.T, alpha=-2, out=product)  # without |x|^2, the same for all rows
        if own is not None:
            product.diagonal(own).fill_(torch.inf)
        limit = _upper_kth(product, k) + 2 * self._error(centred)
        marks = (product > limit.float()[:, None]).logical_not_()  # so written, an overflow to NaN marks the pair
        if own is not None:
            marks.diagonal(own).fill_(False)
        return marks.cpu().numpy()

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


def _settle(queries: np.ndarray, rows: np.ndarray, candidates: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Measure the candidates and choose each query's k nearest: distances and rows."""
    query, row = np.divmod(np.flatnonzero(candidates), len(rows))  # numpy takes ten times longer for two axes
    distance = _measure(queries.astype(np.float64), rows, query, row)
    order = np.lexsort((distance, query))  # stable, and rows ascend: of equal distances the lowest row comes first
    counts = np.bincount(query)
    chosen = order[(np.cumsum(counts) - counts)[:, None] + np.arange(k)]
    return distance[chosen], row[chosen]


def _measure(queries: np.ndarray, rows: np.ndarray, query: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Squared distances of pairs from differences in float64: no pair's value depends on the pairs around it."""
    step, width = max(1, CHUNK // rows.shape[1]), rows.shape[1]
    raw, ours, theirs = np.empty((step, width), rows.dtype), np.empty((step, width)), np.empty((step, width))
    distance = np.empty(len(row))
    for start in range(0, len(row), step):
        part = slice(start, start + step)
        m = len(row[part])
        np.take(rows, row[part], axis=0, out=raw[:m], mode="clip")  # "clip", as "raise" goes through a copy
        np.copyto(theirs[:m], raw[:m])
        np.take(queries, query[part], axis=0, out=ours[:m], mode="clip")
        np.subtract(ours[:m], theirs[:m], out=ours[:m])
        np.square(ours[:m], out=ours[:m])
        np.sum(ours[:m], axis=1, out=distance[part])  # not einsum or torch.sum: they add a long row otherwise if it is alone
    return distance


def _matrix(array: np.ndarray, name: str) -> np.ndarray:
    """Check that the array is a finite matrix; it is read a piece at a time, as it may be a memory map."""
    array = np.asanyarray(array)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype}: convert it first")
    if array.ndim != 2:
        raise ValueError(f"{name} must be a matrix (rows, columns), got shape {array.shape}: reshape it")
    if 0 in array.shape:
        raise ValueError(f"{name} must have at least one row and one column, got shape {array.shape}: give more")
    step = max(1, PIECE // array.shape[1])
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
def _torch_settings(threads: int) -> Iterator[None]:
    """So many threads, and float32 products in float32, for a while: the error bound knows no TF32 or bfloat16."""
    before, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_float32_matmul_precision(precision)
