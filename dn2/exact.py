"""Exact nearest neighbours by a blocked matrix product.

The product |y|^2 - 2xy ranks a whole block of distances at the speed of the machine but loses digits where vectors are long and
distances short. So it only narrows the choice: every row that its rounding error could hide among the k nearest is measured again
from the differences, in float64. Answers therefore depend on no block, thread or device, and equal a brute force in float64.

Time grows with the rows that float32 cannot tell apart: a bank of 5,000 equal rows takes a hundred times longer than a usual one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
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
    ``exclude_self`` the queries are the rows themselves.
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

    def search(self, queries: np.ndarray, k: int, exclude_self: bool) -> tuple[np.ndarray, np.ndarray]:
        """Find each query's k nearest rows."""
        distances, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        threads = cores()
        step = min(512, max(16, PRODUCT // len(self.rows)), -(-len(queries) // threads))
        starts = iter(range(0, len(queries), step))

        def work() -> None:
            product = torch.empty((step, len(self.rows)), device=self.device)  # once: fresh memory costs as much as filling it
            for start in starts:  # shared by the threads: each takes the next block
                block = np.array(queries[start : start + step], dtype=precision(queries), order="C", subok=False)
                candidates = self._candidates(block, k, start if exclude_self else None, product[: len(block)])
                part = max(1, PIECE // len(self.rows))
                for first in range(0, len(block), part):
                    found = slice(start + first, start + min(first + part, len(block)))
                    near, which = _settle(block[first : first + part], self.rows, candidates[first : first + part], k)
                    with np.errstate(over="ignore"):  # the bank refuses infinity
                        distances[found], rows[found] = near, which

        # A thread for each block, not all threads for each step: they would wait for each other, long on a busy machine.
        with _torch_settings(threads=1), ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(work) for _ in range(threads)]:
                done.result()
        return distances, rows

    def _candidates(self, block: np.ndarray, k: int, own: int | None, product: torch.Tensor) -> np.ndarray:
        """Mark every row that may be among a query's k nearest: bool of shape (len(block), len(rows)).

        ``own`` is the bank's row that the first query is, where the queries are the bank: pairs on that diagonal are left out.
        """
        centred = (torch.from_numpy(block).to(self.device) - self.mean).float()
        lifted = torch.cat([-2 * centred, torch.ones_like(centred[:, :1])], dim=1)
        torch.mm(lifted, self.lifted.T, out=product)  # |x|^2 is left out, the same for all rows
        if own is not None:
            product.diagonal(own).fill_(torch.inf)
        limit = _upper_kth(product, k) + 2 * self._error(centred)
        marks = (product > limit.float()[:, None]).logical_not_()  # so written, an overflow to NaN marks the pair
        if own is not None:
            marks.diagonal(own).fill_(False)
        return marks.cpu().numpy()

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


def _lengths(rows: torch.Tensor) -> torch.Tensor:
    """Euclidean lengths in float64, some rows at a time: torch makes a float64 copy of what it measures."""
    return torch.cat([torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) for part in rows.split(64)])


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
