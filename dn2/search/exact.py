"""Exact nearest neighbours by a blocked matrix product.

The product |y|^2 - 2xy ranks a whole block of distances at the speed of the machine but loses digits where vectors are long and
distances short. So it only narrows the choice: every row that its rounding error could hide among the k nearest is measured again
from the differences, in float64. Answers therefore depend on no block, thread, precision or device, and equal a brute force in
float64.

Time grows with the rows that float32 cannot tell apart: a bank of 5,000 equal rows takes a hundred times longer than a usual one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property

import numpy as np
import torch

from dn2.engines import available_cores

ROUNDING = 2.0**-24  # largest relative error of one float32 operation
TINY = float(
    np.finfo(np.float32).tiny
)  # largest absolute error of one float32 operation that underflows


class Product:
    """Rows made ready to be multiplied, in one of two precisions.

    Parameters
    ----------
    rows : ndarray of shape (m, d), float32 or float64
    device : torch.device
    coarse : bool
        Factors are rounded to bfloat16; sums are float32 all the same.
    """

    def __init__(self, rows: np.ndarray, device: torch.device, *, coarse: bool) -> None:
        self.coarse, self.device = coarse, device
        with self.settings():
            self._make_ready(torch.from_numpy(rows).to(device))

    def _make_ready(self, raw: torch.Tensor) -> None:
        self.mean = raw.mean(0)  # subtracted, as an offset costs digits
        centred = (raw - self.mean).float()
        lengths = lengths_of(centred)
        self.longest = lengths.max()
        factors, gaps = self._round(centred)
        self.widest_gap = gaps.max()
        # |y|^2 is met by ones in the query: |y|^2 - 2xy is then a plain product, the fastest there is
        squares = lengths.square().float()[:, None]
        self.lifted = torch.cat(
            [factors, *(_in_bfloat16(squares) if self.coarse else [squares])], dim=1
        )

    def multiply(self, block: np.ndarray, out: torch.Tensor) -> torch.Tensor:
        """Write |y|^2 - 2xy into ``out``; |x|^2 is left out, the same for all rows. Return each query's largest error.

        To be called within `settings`.
        """
        centred = (torch.from_numpy(block).to(self.device) - self.mean).float()
        factors, gaps = self._round(centred)
        ones = torch.ones((len(block), self.lifted.shape[1] - centred.shape[1]), device=self.device)
        torch.mm(torch.cat([-2 * factors, ones], dim=1), self.lifted.T, out=out)
        return self.error(centred, gaps)

    def error(self, centred: torch.Tensor, gaps: torch.Tensor) -> torch.Tensor:
        """Bound each query's error in the product, whatever the order in which the product is summed.

        A sum of d products is off by at most d u |x||y|, u being the rounding unit (Higham, Accuracy and Stability of Numerical
        Algorithms, section 3.1); subtracting the mean moves a distance by at most 2u (|x| + |y|)^2. Rounding the factors to p and
        q moves xy by at most |x - p||y| + |p||y - q| (Cauchy-Schwarz). The rest is for |y|^2, the last additions and the rounding
        of the limit.
        """
        x, y, d = lengths_of(centred), self.longest, centred.shape[1]
        unit = (d + 10) * ROUNDING
        gamma = unit / (1 - unit) if unit < 1 else float("inf")
        rounded = 2 * (gaps * y + (x + gaps) * self.widest_gap)
        x, y = x + gaps, y + self.widest_gap
        return (
            gamma * (y * y + 2 * x * y)
            + rounded
            + 3 * ROUNDING * (x + y) ** 2
            + 4 * (d + 10) * TINY
        )

    def settings(self) -> AbstractContextManager[None]:
        """One thread a product, and the precision, for a while: a context."""
        return torch_settings("medium" if self.coarse else "highest")

    def _round(self, centred: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Round factors to the precision; the second array is how far that moves each row."""
        if not self.coarse:
            return centred, torch.zeros(len(centred), dtype=torch.float64, device=self.device)
        near = centred.bfloat16().float()
        near[near.abs() < TINY] = 0  # the processor would take these for zero, unasked
        return near, lengths_of(centred - near)


def is_fast_in_bfloat16(device: torch.device) -> bool:
    """Whether the coarse product saves time: with AMX it does; elsewhere nobody has measured."""
    capabilities: dict[str, bool] = getattr(
        torch.cpu, "get_capabilities", dict
    )()  # torch 2.9 has none
    return device.type == "cpu" and bool(capabilities.get("amx_bf16"))


def lengths_of(rows: torch.Tensor) -> torch.Tensor:
    """Euclidean lengths in float64, some rows at a time: torch makes a float64 copy of what it measures.

    To be called with one thread: several would wait for each other at every step, on a busy machine a hundred times longer.
    """
    return torch.cat(
        [torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) for part in rows.split(64)]
    )


@contextmanager
def torch_settings(products: str) -> Iterator[None]:
    """One thread, and a precision of float32 products, for a while.

    ``highest`` is float32: its error bound knows no TF32 or bfloat16. ``medium`` allows bfloat16, which is exact for factors that
    are bfloat16 already.
    """
    threads, before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision(products)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(before)


def _in_bfloat16(numbers: torch.Tensor) -> list[torch.Tensor]:
    """Three float32 arrays of bfloat16 numbers whose sum is the float32 given: 24 binary digits in three times 8."""
    parts = []
    for _ in range(3):
        parts.append(numbers.bfloat16().float())
        numbers = numbers - parts[-1]
    return parts


PIECE = 2**21  # values searched for candidates at once
CHUNK = 2**15  # numbers in one step of measuring: they stay in a core's cache
LISTED = 256  # rows on a query's shortlist: 94 to 99 % of CIFAR-10's queries find their nearest of a contaminated subset there


class Search:
    """A search in one subset of the rows, shown the rough values of one block of queries after the other.

    Parameters
    ----------
    rows : ndarray of shape (m, d)
    subset : ndarray of int64, or None
        Ascending; None for all rows.
    n : int
        How many queries will come.
    k : int
    exclude_self : bool
        The queries are the rows; only those of the subset ask, and none is its own neighbour.

    Attributes
    ----------
    distances, found : ndarray of shape (n or len(subset), k)
        Squared distances, float32; places in the subset, int64.
    """

    def __init__(
        self, rows: np.ndarray, subset: np.ndarray | None, n: int, k: int, exclude_self: bool
    ) -> None:
        self.rows, self.k, self.exclude_self = rows, k, exclude_self
        self.subset = None if subset is None or len(subset) == len(rows) else subset
        self.place = np.arange(len(rows))  # of each row in the subset, or -1
        if self.subset is not None:
            self.place[:] = -1
            self.place[self.subset] = np.arange(len(self.subset))
            n = len(self.subset) if exclude_self else n
        self.distances, self.found = np.empty((n, k), np.float32), np.empty((n, k), np.int64)

    def see(
        self,
        start: int,
        block: np.ndarray,
        values: torch.Tensor,
        error: torch.Tensor,
        known: Shortlist | None,
        most: float,
    ) -> bool:
        """Answer the queries of a block, the first of which is number ``start``.

        Returns False, and may have answered only some, if more than ``most`` rows a query are candidates.
        """
        answers = np.arange(start, start + len(block))
        if self.exclude_self:
            answers = self.place[start : start + len(block)]
        left = answers >= 0
        if known is not None:
            sure, distances, places = known.nearest(self.place, left, self.k)
            self._write(answers[sure], distances, places)
            left &= ~sure
        step = max(1, PIECE // values.shape[1])
        queries = np.flatnonzero(left)
        for first in range(0, len(queries), step):
            mine = queries[first : first + step]
            no_gaps = mine[-1] - mine[0] < len(mine)  # then a view will do
            part = values[mine[0] : mine[-1] + 1] if no_gaps else values[mine]
            if self.subset is not None:
                part = part.index_select(1, torch.from_numpy(self.subset).to(part.device))
            marks = candidates(
                part, error[mine], self.k, answers[mine] if self.exclude_self else None
            )
            marked = np.flatnonzero(marks)
            if len(marked) > most * len(mine):
                return False
            query, place = np.divmod(
                marked, marks.shape[1]
            )  # numpy takes ten times longer for two axes
            row = place if self.subset is None else self.subset[place]
            distance = measure(block[mine].astype(np.float64), self.rows, query, row)
            self._write(answers[mine], *smallest(query, place, distance, self.k))
        return True

    def _write(self, answers: np.ndarray, distances: np.ndarray, places: np.ndarray) -> None:
        with np.errstate(over="ignore"):  # the bank refuses infinity
            self.distances[answers], self.found[answers] = distances, places


class Shortlist:
    """Each query's few hundred lowest rows of a block, by rough value: most subsets' nearest are among them.

    Looking a subset up in it costs a tenth of looking through all values, and no pair is measured twice.
    """

    def __init__(
        self, rows: np.ndarray, block: np.ndarray, values: torch.Tensor, error: torch.Tensor
    ) -> None:
        self.rows, self.queries, self.error = rows, block.astype(np.float64), error.cpu().numpy()
        limit = upper_kth(values, max(1, min(LISTED, values.shape[1] - 1)))
        listed = np.flatnonzero((values > limit.float()[:, None]).logical_not_().cpu().numpy())
        ceiling = limit.cpu().numpy()
        if len(listed) > 8 * LISTED * len(
            block
        ):  # nearly all rows are alike: a list would only cost memory
            listed, ceiling[:] = listed[:0], -np.inf
        value = (
            values.reshape(-1)[torch.from_numpy(listed).to(values.device)]
            .cpu()
            .numpy()
            .astype(np.float64)
        )
        query, row = np.divmod(listed, values.shape[1])
        order = np.lexsort((value, query))
        self.query, self.row, self.value = query[order], row[order], value[order]
        self.distance = np.full(len(listed), np.nan)  # measured when it is asked for
        ceiling[query[~np.isfinite(value)]] = -np.inf  # where a value overflowed nothing is known
        self.ceiling = ceiling  # rows with larger values are not on the list

    def nearest(
        self, place: np.ndarray, asking: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the k nearest in a subset, for the queries whose list is long enough to be sure.

        Parameters
        ----------
        place : ndarray of shape (m,)
            Each row's place in the subset, or -1.
        asking : ndarray of shape (b,), bool
        k : int

        Returns
        -------
        sure : ndarray of shape (b,), bool
            The queries that are answered.
        distances, places : ndarray of shape (sure.sum(), k)
        """
        inside = np.flatnonzero((place[self.row] >= 0) & asking[self.query])
        counts = np.bincount(self.query[inside], minlength=len(asking))
        enough = counts >= k
        limit = np.full(len(asking), np.inf)
        limit[enough] = (
            self.value[inside[(np.cumsum(counts) - counts)[enough] + k - 1]]
            + 2 * self.error[enough]
        )
        sure = limit <= self.ceiling
        limit[~sure] = -np.inf
        chosen = inside[self.value[inside] <= limit[self.query[inside]]]
        new = chosen[np.isnan(self.distance[chosen])]
        self.distance[new] = measure(self.queries, self.rows, self.query[new], self.row[new])
        return sure, *smallest(
            self.query[chosen], place[self.row[chosen]], self.distance[chosen], k
        )


def candidates(
    values: torch.Tensor, error: torch.Tensor, k: int, own: np.ndarray | None
) -> np.ndarray:
    """Mark every column that may be among a row's k smallest, the values being off by ``error`` at most: bool.

    ``own`` is each row's column that is left out, where the queries are the bank; its value is infinite.
    """
    limit = upper_kth(values, k) + 2 * error
    marks = (
        (values > limit.float()[:, None]).logical_not_().cpu().numpy()
    )  # so written, an overflow to NaN marks the pair
    if own is not None:
        marks[np.arange(len(marks)), own] = False
    return marks


def upper_kth(values: torch.Tensor, k: int) -> torch.Tensor:
    """At least the k-th smallest value of each row, and seldom much more: the k-th smallest of the minima of groups of columns.

    k groups with a minimum up to some value hold k values up to it. Minima are found at the speed of memory, sorting is not.
    """
    n = values.shape[1]
    size = max(1, n // max(256, 8 * k))
    groups = n // size
    minima = values[:, : groups * size].unflatten(1, (size, groups)).amin(1)
    minima = torch.cat([minima, values[:, groups * size :]], dim=1)
    return minima.topk(k, dim=1, largest=False, sorted=True).values[:, -1].double()


def smallest(
    query: np.ndarray, place: np.ndarray, distance: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Choose each query's k smallest distances from pairs; of equal distances the lowest place comes first."""
    order = np.lexsort((place, distance, query))
    counts = np.bincount(query)
    counts = counts[counts > 0]
    chosen = order[(np.cumsum(counts) - counts)[:, None] + np.arange(k)]
    return distance[chosen], place[chosen]


def measure(
    queries: np.ndarray, rows: np.ndarray, query: np.ndarray, row: np.ndarray
) -> np.ndarray:
    """Squared distances of pairs from differences in float64: no pair's value depends on the pairs around it."""
    step, width = max(1, CHUNK // rows.shape[1]), rows.shape[1]
    raw, ours, theirs = (
        np.empty((step, width), rows.dtype),
        np.empty((step, width)),
        np.empty((step, width)),
    )
    distance = np.zeros(len(row))
    for start in range(0, len(row), step):
        part = slice(start, start + step)
        m = len(row[part])
        np.take(
            rows, row[part], axis=0, out=raw[:m], mode="clip"
        )  # "clip", as "raise" goes through a copy
        np.copyto(theirs[:m], raw[:m])
        np.take(queries, query[part], axis=0, out=ours[:m], mode="clip")
        np.subtract(ours[:m], theirs[:m], out=ours[:m])
        for left in range(
            0, width, 8192
        ):  # BLAS would set threads to longer rows, and then round otherwise
            piece = ours[:m, left : left + 8192]
            distance[part] += np.vecdot(piece, piece)
    return distance


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
            starts = self._search_blocks(
                searches, queries, starts, step, self.coarse, 2 * k + len(self.rows) / DOUBTFUL
            )
        if starts:
            self._search_blocks(searches, queries, starts, step, self.fine, np.inf)
        return [(search.distances, search.found) for search in searches]

    def _search_blocks(
        self,
        searches: list[Search],
        queries: np.ndarray,
        starts: list[int],
        step: int,
        product: Product,
        most: float,
    ) -> list[int]:
        """Answer the blocks of ``step`` queries that begin at ``starts``.

        Returns those that have no answer yet, as the product left more than ``most`` rows a query in doubt.
        """
        crowded: list[int] = []
        todo = iter(starts)

        def work() -> None:
            values = torch.empty(
                (step, len(self.rows)), device=self.device
            )  # once: fresh memory costs as much as filling it
            for start in todo:  # shared by the threads: each takes the next block
                block = np.array(
                    queries[start : start + step], dtype=precision(queries), order="C", subok=False
                )
                rough = values[: len(block)]
                error = product.multiply(block, rough)
                if searches and searches[0].exclude_self:
                    rough.diagonal(start).fill_(torch.inf)
                known = (
                    Shortlist(self.rows, block, rough, error) if len(searches) > SEVERAL else None
                )
                if not all(
                    search.see(start, block, rough, error, known, most) for search in searches
                ):
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
