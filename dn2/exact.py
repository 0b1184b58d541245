"""Exact nearest neighbours by a blocked matrix product.

The product |y|^2 - 2xy ranks a whole block of distances at the speed of the machine but loses digits where vectors are long and
distances short. So it only narrows the choice: every row that its rounding error could hide among the k nearest is measured again
from the differences, in float64. Answers therefore depend on no block, thread or device, and equal a brute force in float64.

Time grows with the rows that float32 cannot tell apart: a bank of 5,000 equal rows takes a hundred times longer than a usual one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch

from dn2.engines import available_cores
from dn2.narrow import Search, Shortlist

PRODUCT = 2**23  # distances that one thread holds at once: 32 MB of float32
SEVERAL = 2  # subsets, from which on a shortlist saves more than it costs
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
        with _torch_settings(threads=1):  # on a busy machine threads wait for each other longer than this takes
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
        searches = [Search(self.rows, subset, len(queries), k, exclude_self) for subset in subsets]
        threads = available_cores()
        step = min(512, max(16, PRODUCT // len(self.rows)), -(-len(queries) // threads))
        starts = iter(range(0, len(queries), step))

        def work() -> None:
            product = torch.empty((step, len(self.rows)), device=self.device)  # once: fresh memory costs as much as filling it
            for start in starts:  # shared by the threads: each takes the next block
                block = np.array(queries[start : start + step], dtype=precision(queries), order="C", subok=False)
                values = product[: len(block)]
                error = self._multiply(block, values)
                if exclude_self:
                    values.diagonal(start).fill_(torch.inf)
                known = Shortlist(self.rows, block, values, error) if len(searches) > SEVERAL else None
                for search in searches:
                    search.see(start, block, values, error, known)

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


def _lengths(rows: torch.Tensor) -> torch.Tensor:
    """Euclidean lengths in float64, some rows at a time: torch makes a float64 copy of what it measures."""
    return torch.cat([torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) for part in rows.split(64)])


def precision(array: np.ndarray) -> type[np.float32] | type[np.float64]:
    """float32 if it can hold the array's type, else float64."""
    return np.float32 if np.can_cast(array.dtype, np.float32) else np.float64


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
