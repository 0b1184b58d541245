"""Exact nearest neighbours by a blocked matrix product.

The product |y|^2 - 2xy ranks a whole block of distances at the speed of the machine but loses digits where vectors are long and
distances short. So it only narrows the choice: every row that its rounding error could hide among the k nearest is measured again
from the differences, in float64. Answers therefore depend on no block, thread, precision or device, and equal a brute force in
float64.

Time grows with the rows that float32 cannot tell apart: a bank of 5,000 equal rows takes a hundred times longer than a usual one.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np
import torch

from dn2.engines import available_cores
from dn2.narrow import Search, Shortlist
from dn2.products import Product, is_fast_in_bfloat16

PRODUCT = 2**23  # distances that one thread holds at once: 32 MB of float32
SEVERAL = 2  # subsets, from which on a shortlist saves more than it costs
DOUBTFUL = 128  # one row in so many, beside 2k, may be left in doubt by a coarse product before a fine one is cheaper


class Exact:
    """Search by product and differences. Rows are a finite matrix of float32 or float64, in C order, and stay as they are.

    ``search`` gives squared distances (n, k) float32, ascending, infinite where float32 ends, and rows (n, k) int64; with
    ``exclude_self`` the queries are the rows themselves. Given subsets, it searches each of them apart, all with one product.
    """

    def __init__(self, rows: np.ndarray, device: str | None) -> None:
        self.rows = rows
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @cached_property
    def coarse(self) -> Product:
        """The product that is tried first, where it is the faster one."""
        return Product(self.rows, self.device, coarse=True)

    @cached_property
    def fine(self) -> Product:
        """The product that leaves the fewest rows in doubt."""
        return Product(self.rows, self.device, coarse=False)

    def search(
        self, queries: np.ndarray, k: int, exclude_self: bool, subsets: Sequence[np.ndarray | None]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Find each query's k nearest rows in each subset of the rows: ascending row numbers, or None for all rows.

        Answers give places in the subset. With ``exclude_self`` a subset's rows are its only queries.
        """
        searches = [Search(self.rows, subset, len(queries), k, exclude_self) for subset in subsets]
        step = min(512, max(16, PRODUCT // len(self.rows)), -(-len(queries) // available_cores()))
        starts = list(range(0, len(queries), step))
        if is_fast_in_bfloat16(self.device):
            starts = self._search_blocks(searches, queries, starts, step, self.coarse, 2 * k + len(self.rows) / DOUBTFUL)
        if starts:
            self._search_blocks(searches, queries, starts, step, self.fine, np.inf)
        return [(search.distances, search.found) for search in searches]

    def _search_blocks(
        self, searches: list[Search], queries: np.ndarray, starts: list[int], step: int, product: Product, most: float
    ) -> list[int]:
        """Answer the blocks of ``step`` queries that begin at ``starts``.

        Returns those that have no answer yet, as the product left more than ``most`` rows a query in doubt.
        """
        crowded: list[int] = []
        todo = iter(starts)

        def work() -> None:
            values = torch.empty((step, len(self.rows)), device=self.device)  # once: fresh memory costs as much as filling it
            for start in todo:  # shared by the threads: each takes the next block
                block = np.array(queries[start : start + step], dtype=precision(queries), order="C", subok=False)
                rough = values[: len(block)]
                error = product.multiply(block, rough)
                if searches and searches[0].exclude_self:
                    rough.diagonal(start).fill_(torch.inf)
                known = Shortlist(self.rows, block, rough, error) if len(searches) > SEVERAL else None
                if not all(search.see(start, block, rough, error, known, most) for search in searches):
                    crowded.append(start)

        # A thread for each block, not all threads for each step: they would wait for each other, long on a busy machine.
        threads = available_cores()
        with product.settings(), ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(work) for _ in range(threads)]:
                done.result()
        return sorted(crowded)


def precision(array: np.ndarray) -> type[np.float32] | type[np.float64]:
    """float32 if it can hold the array's type, else float64."""
    return np.float32 if np.can_cast(array.dtype, np.float32) else np.float64
