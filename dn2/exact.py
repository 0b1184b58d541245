"""Exact nearest neighbours by a blocked matrix product.

The product |y|^2 - 2xy ranks a whole block of distances at the speed of the machine but loses digits where vectors are long and
distances short. So it only narrows the choice: every row that its rounding error could hide among the k nearest is measured again
from the differences, in float64. Answers therefore depend on no block, thread or device, and equal a brute force in float64.

Time grows with the rows that float32 cannot tell apart: a bank of 5,000 equal rows takes a hundred times longer than a usual one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch

PRODUCT = 2**23  # distances that one thread holds at once: 32 MB of float32
PIECE = 2**21  # of them, searched for candidates at once
CHUNK = 2**15  # numbers in one step of measuring again: they stay in a core's cache
ROUNDING = 2.0**-24  # largest relative error of one float32 operation
TINY = float(np.finfo(np.float32).tiny)  # largest absolute error of one float32 operation that underflows


class Exact:
    """Search by product and differences. Rows are a finite matrix of float32 or float64, in C order, and stay as they are.

    ``search`` gives squared distances (n, k) float32, ascending, infinite where float32 ends, and rows (n, k) int64; with
    ``exclude_self`` the queries are the rows themselves. Given subsets, it searches each of them apart, all with one product.
    """

    def __init__(self, rows: np.ndarray, device: str | None) -> None:
        self.rows = rows
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        with _torch_settings(threads=cores()):
            raw = torch.from_numpy(rows).to(self.device)
            self.mean = raw.mean(0)  # subtracted, as an offset costs digits
            centred = (raw - self.mean).float()
            lengths = _lengths(centred)
            self.longest = lengths.max()
            # one more column, |y|^2, met by a 1 in the query: |y|^2 - 2xy is then a plain product, the fastest there is
            self.lifted = torch.cat([centred, lengths.square().float()[:, None]], dim=1)

    def search(
        self, queries: np.ndarray, k: int, exclude_self: bool, subsets: Sequence[np.ndarray | None]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Find each query's k nearest rows in each subset of the rows: ascending row numbers, or None for all rows.

        Answers give places in the subset. With ``exclude_self`` a subset's rows are its only queries.
        """
        searches = [_Search(self, subset, len(queries), k, exclude_self) for subset in subsets]
        threads, widest = cores(), max((0 if subset is None else len(subset) for subset in subsets), default=0)
        step = min(512, max(16, PRODUCT // len(self.rows)), -(-len(queries) // threads))
        starts = iter(range(0, len(queries), step))

        def work() -> None:
            product = torch.empty((step, len(self.rows)), device=self.device)  # once: fresh memory costs as much as filling it
            picked = torch.empty(step * widest, device=self.device)
            for start in starts:  # shared by the threads: each takes the next block
                block = np.array(queries[start : start + step], dtype=precision(queries), order="C", subok=False)
                values = product[: len(block)]
                error = self._multiply(block, values)
                for search in searches:
                    search.see(block, values, error, start, picked)

        # A thread for each block, not all threads for each step: they would wait for each other, long on a busy machine.
        with _torch_settings(threads=1), ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(work) for _ in range(threads)]:
                done.result()
        return [(search.distances, search.found) for search in searches]

    def _multiply(self, block: np.ndarray, product: torch.Tensor) -> torch.Tensor:
        """Write |y|^2 - 2xy into ``product``; |x|^2 is left out, the same for all rows. Return each query's largest error."""
        centred = (torch.from_numpy(block).to(self.device) - self.mean).float()
        lifted = torch.cat([-2 * centred, torch.ones_like(centred[:, :1])], dim=1)
        torch.mm(lifted, self.lifted.T, out=product)
        return self._error(centred)

    def _error(self, centred: torch.Tensor) -> torch.Tensor:
        """Bound each query's error in the product, whatever the order in which the product is summed.

        A sum of d products is off by at most d u |x||y|, u being the rounding unit (Higham, Accuracy and Stability of Numerical
        Algorithms, section 3.1); subtracting the mean moves a distance by at most 2u (|x| + |y|)^2. The rest is for |y|^2, the
        last additions and the rounding of the limit.
        """
        x, y, d = _lengths(centred), self.longest, centred.shape[1]
        unit = (d + 8) * ROUNDING
        gamma = unit / (1 - unit) if unit < 1 else float("inf")
        return gamma * (y * y + 2 * x * y) + 3 * ROUNDING * (x + y) ** 2 + 4 * (d + 8) * TINY


class _Search:
    """A search in one subset of the rows: block by block it is shown the products with all of them."""

    def __init__(self, whole: Exact, subset: np.ndarray | None, n: int, k: int, exclude_self: bool) -> None:
        self.rows, self.subset, self.k, self.exclude_self = whole.rows, subset, k, exclude_self
        self.columns = None if subset is None else torch.from_numpy(subset).to(whole.device)
        n = len(subset) if subset is not None and exclude_self else n
        self.distances, self.found = np.empty((n, k), np.float32), np.empty((n, k), np.int64)

    def see(self, block: np.ndarray, values: torch.Tensor, error: torch.Tensor, start: int, picked: torch.Tensor) -> None:
        """Answer the queries of a block, the first of which is number ``start``; ``picked`` is memory to work in."""
        if self.subset is not None and self.columns is not None:
            picked = picked[: len(block) * len(self.subset)].view(len(block), len(self.subset))
            values = torch.index_select(values, 1, self.columns, out=picked)
            if self.exclude_self:  # only the subset's rows ask
                first, last = np.searchsorted(self.subset, (start, start + len(block)))
                mine = self.subset[first:last] - start
                block, values, error, start = block[mine], values[mine], error[mine], int(first)
        marks = _candidates(values, error, self.k, start if self.exclude_self else None)
        step = max(1, PIECE // marks.shape[1])
        for first in range(0, len(block), step):
            part, answers = slice(first, first + step), slice(start + first, start + min(first + step, len(block)))
            near, found = _settle(block[part], self.rows, self.subset, marks[part], self.k)
            with np.errstate(over="ignore"):  # the bank refuses infinity
                self.distances[answers], self.found[answers] = near, found


def _candidates(values: torch.Tensor, error: torch.Tensor, k: int, own: int | None) -> np.ndarray:
    """Mark every column that may be among a row's k smallest, the values being off by ``error`` at most: bool.

    ``own`` is the column that the first query is, where the queries are the bank: pairs on that diagonal are left out.
    """
    if own is not None:
        values.diagonal(own).fill_(torch.inf)
    limit = _upper_kth(values, k) + 2 * error
    marks = (values > limit.float()[:, None]).logical_not_()  # so written, an overflow to NaN marks the pair
    if own is not None:
        marks.diagonal(own).fill_(False)
    return marks.cpu().numpy()


def _upper_kth(values: torch.Tensor, k: int) -> torch.Tensor:
    """Bound the k-th smallest value of each row from above, seldom by much: the k-th smallest of the minima of groups of columns.

    k groups with a minimum up to some value hold k values up to it. Minima are found at the speed of memory, sorting is not.
    The last few columns, which fill no group, are left out.
    """
    n = values.shape[1]
    size = max(1, n // max(256, 8 * k))
    groups = n // size
    minima = values[:, : groups * size].unflatten(1, (size, groups)).amin(1)
    return minima.topk(k, dim=1, largest=False, sorted=True).values[:, -1].double()


def _lengths(rows: torch.Tensor) -> torch.Tensor:
    """Euclidean lengths in float64, some rows at a time: torch makes a float64 copy of what it measures."""
    return torch.cat([torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) for part in rows.split(64)])


def _settle(
    queries: np.ndarray, rows: np.ndarray, subset: np.ndarray | None, candidates: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Measure the candidates and choose each query's k nearest: distances and columns."""
    query, column = np.divmod(np.flatnonzero(candidates), candidates.shape[1])  # numpy takes ten times longer for two axes
    row = column if subset is None else subset[column]
    distance = _measure(queries.astype(np.float64), rows, query, row)
    order = np.lexsort((distance, query))  # stable, and columns ascend: of equal distances the lowest row comes first
    counts = np.bincount(query)
    chosen = order[(np.cumsum(counts) - counts)[:, None] + np.arange(k)]
    return distance[chosen], column[chosen]


def _measure(queries: np.ndarray, rows: np.ndarray, query: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Squared distances of pairs from differences in float64: no pair's value depends on the pairs around it."""
    step, width = max(1, CHUNK // rows.shape[1]), rows.shape[1]
    raw, ours, theirs = np.empty((step, width), rows.dtype), np.empty((step, width)), np.empty((step, width))
    distance = np.zeros(len(row))
    for start in range(0, len(row), step):
        part = slice(start, start + step)
        m = len(row[part])
        np.take(rows, row[part], axis=0, out=raw[:m], mode="clip")  # "clip", as "raise" goes through a copy
        np.copyto(theirs[:m], raw[:m])
        np.take(queries, query[part], axis=0, out=ours[:m], mode="clip")
        np.subtract(ours[:m], theirs[:m], out=ours[:m])
        for left in range(0, width, 8192):  # BLAS would set threads to longer rows, and then round otherwise
            piece = ours[:m, left : left + 8192]
            distance[part] += np.vecdot(piece, piece)
    return distance


def precision(array: np.ndarray) -> type[np.float32] | type[np.float64]:
    """float32 if it can hold the array's type, else float64."""
    return np.float32 if np.can_cast(array.dtype, np.float32) else np.float64


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _torch_settings(threads: int) -> Iterator[None]:
    """So many threads, and float32 products in float32, for a while: the error bound knows no TF32 or bfloat16."""
    before, products = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_float32_matmul_precision(products)
