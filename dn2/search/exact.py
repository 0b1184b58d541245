"""Find exact nearest neighbours by a matrix product whose rounding error is bounded.

For a block of queries x and all rows y:

1. `Product` computes |y|^2 - 2xy, which orders the rows as |x - y|^2 does, at the speed of the
   machine. It loses digits where vectors are long and distances short, and bounds its error.
2. `candidates` marks every row that this error could hide among the k nearest: usually few.
3. `measure` computes the distances of the candidates from the differences, in float64.
4. `smallest` takes the k smallest; of equal distances the lowest row comes first.

Steps 3 and 4 are in `dn2.search.terms`. So the answers are those of a brute force in float64.
They depend on no block, thread, precision or device. `Subset` does steps 2 to 4 for one subset of
the rows, `Shortlist` makes them cheap for many subsets of the same rows, and `Exact` deals the
blocks out to threads.

Time grows with the rows that float32 cannot tell apart: a bank of 5,000 equal rows takes a hundred
times longer than a usual one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property

import numpy as np
import torch

from dn2.engines import available_cores
from dn2.search.terms import float_type, measure, smallest

# ---- Step 1: the product and its error bound

ROUNDING = 2.0**-24  # largest relative error of one float32 operation
TINY = float(np.finfo(np.float32).tiny)  # largest absolute error of an operation that underflows


class Product:
    """Hold rows ready to be multiplied, in one of two precisions.

    Parameters
    ----------
    rows : ndarray of shape (m, d), float32 or float64
    device : torch.device
    coarse : bool
        Whether to round the factors to bfloat16. Sums are float32 in either case.
    """

    def __init__(self, rows: np.ndarray, device: torch.device, *, coarse: bool) -> None:
        self.coarse, self.device = coarse, device
        with self.settings():
            self._prepare(torch.from_numpy(rows).to(device))

    def _prepare(self, raw: torch.Tensor) -> None:
        self.mean = raw.mean(0)  # subtracted, as an offset costs digits
        centred = (raw - self.mean).float()
        lengths = lengths_of(centred)
        self.longest = lengths.max()
        factors, moved = self._round(centred)
        self.most_moved = moved.max()
        # Ones in the query meet |y|^2 here: |y|^2 - 2xy is then a plain product, the fastest there
        # is.
        squares = lengths.square().float()[:, None]
        self.lifted = torch.cat(
            [factors, *(_in_bfloat16(squares) if self.coarse else [squares])], dim=1
        )

    def multiply(self, block: np.ndarray, out: torch.Tensor) -> torch.Tensor:
        """Write |y|^2 - 2xy into ``out`` and return each query's largest error.

        |x|^2 is left out: it is the same for all rows. Call this within `settings`.
        """
        centred = (torch.from_numpy(block).to(self.device) - self.mean).float()
        factors, moved = self._round(centred)
        ones = torch.ones((len(block), self.lifted.shape[1] - centred.shape[1]), device=self.device)
        torch.mm(torch.cat([-2 * factors, ones], dim=1), self.lifted.T, out=out)
        return self.error_bound(centred, moved)

    def error_bound(self, centred: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
        """Bound each query's error in the product, whatever the order in which the product sums.

        A sum of d products is off by at most d u |x||y|, u being the rounding unit (Higham,
        Accuracy and Stability of Numerical Algorithms, section 3.1); subtracting the mean moves a
        distance by at most 2u (|x| + |y|)^2. Rounding the factors to p and q moves xy by at most
        |x - p||y| + |p||y - q| (Cauchy-Schwarz). The rest is for |y|^2, the last additions and the
        rounding of the limit.

        Parameters
        ----------
        centred : Tensor of shape (b, d), float32
            The queries less the mean.
        moved : Tensor of shape (b,), float64
            How far rounding the factors moved each query.
        """
        x, y, d = lengths_of(centred), self.longest, centred.shape[1]
        unit = (d + 10) * ROUNDING
        gamma = unit / (1 - unit) if unit < 1 else float("inf")
        rounded = 2 * (moved * y + (x + moved) * self.most_moved)
        x, y = x + moved, y + self.most_moved
        return (
            gamma * (y * y + 2 * x * y)
            + rounded
            + 3 * ROUNDING * (x + y) ** 2
            + 4 * (d + 10) * TINY
        )

    def settings(self) -> AbstractContextManager[None]:
        """Set one thread a product, and the precision, for a while: a context."""
        return torch_settings("medium" if self.coarse else "highest")

    def _round(self, centred: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Round factors to the precision, and return also how far that moves each row."""
        if not self.coarse:
            return centred, torch.zeros(len(centred), dtype=torch.float64, device=self.device)
        near = centred.bfloat16().float()
        near[near.abs() < TINY] = 0  # the processor would take these for zero, unasked
        return near, lengths_of(centred - near)


def is_fast_in_bfloat16(device: torch.device) -> bool:
    """Whether the coarse product saves time: it does with AMX, and was measured nowhere else."""
    # torch 2.9 has no get_capabilities
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return device.type == "cpu" and bool(capabilities.get("amx_bf16"))


def lengths_of(rows: torch.Tensor) -> torch.Tensor:
    """Compute Euclidean lengths in float64, 64 rows at a time: torch copies what it measures.

    Call this with one thread: on a busy machine several would wait for each other at every step,
    and take a hundred times longer.
    """
    return torch.cat(
        [torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) for part in rows.split(64)]
    )


@contextmanager
def torch_settings(products: str) -> Iterator[None]:
    """Set one thread, and a precision of float32 products, for a while.

    ``highest`` is float32: its error bound knows no TF32 or bfloat16. ``medium`` allows bfloat16,
    which is exact for factors that are bfloat16 already.
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
    """Split float32 numbers into three bfloat16 parts that add up to them: 24 digits in 3 x 8."""
    parts = []
    for _ in range(3):
        parts.append(numbers.bfloat16().float())
        numbers = numbers - parts[-1]
    return parts


# ---- Step 2: the candidates


def candidates(
    values: torch.Tensor, error: torch.Tensor, k: int, own: np.ndarray | None
) -> np.ndarray:
    """Mark every column that may be among a row's k smallest true values: bool, (b, m).

    Parameters
    ----------
    values : Tensor of shape (b, m), float32
    error : Tensor of shape (b,), float64
        How far a row's values are from the true ones, at most.
    k : int
    own : ndarray of shape (b,), or None
        Each row's column to leave out, where the queries are the bank; its value is infinite.
    """
    limit = ceiling_of_kth(values, k) + 2 * error
    # Written with "not", so that an overflow to NaN marks the pair.
    marks = (values > limit.float()[:, None]).logical_not_().cpu().numpy()
    if own is not None:
        marks[np.arange(len(marks)), own] = False
    return marks


def ceiling_of_kth(values: torch.Tensor, k: int) -> torch.Tensor:
    """Return a number that is at least each row's k-th smallest value, and seldom much more.

    It is the k-th smallest of the minima of groups of columns: k groups with a minimum up to some
    value hold k values up to it. Minima are found at the speed of memory, sorting is not.
    """
    n = values.shape[1]
    size = max(1, n // max(256, 8 * k))
    groups = n // size
    minima = values[:, : groups * size].unflatten(1, (size, groups)).amin(1)
    minima = torch.cat([minima, values[:, groups * size :]], dim=1)
    return minima.topk(k, dim=1, largest=False, sorted=True).values[:, -1].double()


# ---- Steps 2 to 4 for a subset of the rows

SCANNED_VALUES = 2**21  # searched for candidates at once


class Subset:
    """Answer queries in one subset of the rows, a block of them at a time.

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

    def answer(
        self,
        start: int,
        block: np.ndarray,
        values: torch.Tensor,
        error: torch.Tensor,
        shortlist: Shortlist | None,
        most: float,
    ) -> bool:
        """Answer a block of queries from the product's values; the first is number ``start``.

        Returns
        -------
        bool
            False if more than ``most`` rows a query are candidates: then some queries may have no
            answer yet.
        """
        answers = np.arange(start, start + len(block))
        if self.exclude_self:
            answers = self.place[start : start + len(block)]
        left = answers >= 0
        if shortlist is not None:
            sure, distances, places = shortlist.nearest(self.place, left, self.k)
            self._write(answers[sure], distances, places)
            left &= ~sure
        step = max(1, SCANNED_VALUES // values.shape[1])
        queries = np.flatnonzero(left)
        for first in range(0, len(queries), step):
            mine = queries[first : first + step]
            part = values[mine]
            if self.subset is not None:
                part = part.index_select(1, torch.from_numpy(self.subset).to(part.device))
            own = answers[mine] if self.exclude_self else None
            marks = candidates(part, error[mine], self.k, own)
            marked = np.flatnonzero(marks)
            if len(marked) > most * len(mine):
                return False
            # of a flat index, as numpy takes ten times longer to find both axes
            query, place = np.divmod(marked, marks.shape[1])
            row = place if self.subset is None else self.subset[place]
            distance = measure(block[mine].astype(np.float64), self.rows, query, row)
            self._write(answers[mine], *smallest(query, place, distance, self.k))
        return True

    def _write(self, answers: np.ndarray, distances: np.ndarray, places: np.ndarray) -> None:
        with np.errstate(over="ignore"):  # the bank refuses infinity
            self.distances[answers], self.found[answers] = distances, places


# ---- The same for many subsets

SHORTLISTED = 256
"""Rows on a query's shortlist.

94 to 99 % of CIFAR-10's queries find their nearest of a contaminated subset there.
"""


class Shortlist:
    """List each query's few hundred lowest rows of a block: most subsets' nearest are among them.

    Looking a subset up in it costs a tenth of looking through all values, and no pair is measured
    twice.
    """

    def __init__(
        self, rows: np.ndarray, block: np.ndarray, values: torch.Tensor, error: torch.Tensor
    ) -> None:
        self.rows, self.queries, self.error = rows, block.astype(np.float64), error.cpu().numpy()
        limit = ceiling_of_kth(values, max(1, min(SHORTLISTED, values.shape[1] - 1)))
        listed = np.flatnonzero((values > limit.float()[:, None]).logical_not_().cpu().numpy())
        ceiling = limit.cpu().numpy()
        if len(listed) > 8 * SHORTLISTED * len(block):
            # Nearly all rows are alike: a list would only cost memory.
            listed, ceiling[:] = listed[:0], -np.inf
        chosen = values.reshape(-1)[torch.from_numpy(listed).to(values.device)]
        value = chosen.cpu().numpy().astype(np.float64)
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
        kth = inside[(np.cumsum(counts) - counts)[enough] + k - 1]
        limit[enough] = self.value[kth] + 2 * self.error[enough]
        sure = limit <= self.ceiling
        limit[~sure] = -np.inf
        chosen = inside[self.value[inside] <= limit[self.query[inside]]]
        new = chosen[np.isnan(self.distance[chosen])]
        self.distance[new] = measure(self.queries, self.rows, self.query[new], self.row[new])
        return sure, *smallest(
            self.query[chosen], place[self.row[chosen]], self.distance[chosen], k
        )


# ---- The search

BLOCK_DISTANCES = 2**23  # that one thread holds at once: 32 MB of float32
SUBSETS_FOR_A_SHORTLIST = 3  # from which on it saves more than it costs
DOUBTFUL = 128
"""A coarse product may leave 2k rows a query in doubt, and one row in this number.

With more, a fine product is cheaper.
"""


class Exact:
    """Search by product and differences.

    Parameters
    ----------
    rows : ndarray of shape (m, d), float32 or float64
        Finite, in C order. They stay as they are.
    device : str or None
        Where torch computes; None for CUDA where there is one.
    """

    def __init__(self, rows: np.ndarray, device: str | None) -> None:
        self.rows = rows
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @cached_property
    def coarse(self) -> Product:
        """The product to try first, where it is the faster one."""
        return Product(self.rows, self.device, coarse=True)

    @cached_property
    def fine(self) -> Product:
        """The product that leaves the fewest rows in doubt."""
        return Product(self.rows, self.device, coarse=False)

    def search(
        self, queries: np.ndarray, k: int, exclude_self: bool, subsets: Sequence[np.ndarray | None]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Find each query's k nearest rows in each subset of the rows, all with one product.

        Parameters
        ----------
        queries : ndarray of shape (n, d)
        k : int
        exclude_self : bool
            The queries are the rows; a subset's rows are its only queries, and none is its own
            neighbour.
        subsets : sequence of ndarray of int64, or None
            Ascending row numbers, or None for all rows.

        Returns
        -------
        list of (distances, places)
            For each subset squared distances (n, k) float32, ascending, infinite where float32
            ends, and places in the subset (n, k) int64.
        """
        parts = [Subset(self.rows, subset, len(queries), k, exclude_self) for subset in subsets]
        step = min(
            512,
            max(16, BLOCK_DISTANCES // len(self.rows)),
            -(-len(queries) // available_cores()),
        )
        starts = list(range(0, len(queries), step))
        if is_fast_in_bfloat16(self.device):
            most = 2 * k + len(self.rows) / DOUBTFUL
            starts = self._search_blocks(parts, queries, starts, step, self.coarse, most)
        if starts:
            self._search_blocks(parts, queries, starts, step, self.fine, np.inf)
        return [(part.distances, part.found) for part in parts]

    def _search_blocks(
        self,
        subsets: list[Subset],
        queries: np.ndarray,
        starts: list[int],
        step: int,
        product: Product,
        most: float,
    ) -> list[int]:
        """Answer the blocks of ``step`` queries that begin at ``starts``.

        Returns
        -------
        list of int
            The starts of the blocks that have no answer yet, as the product left more than ``most``
            rows a query in doubt.
        """
        crowded: list[int] = []
        todo = iter(starts)

        def work() -> None:
            # once a thread: fresh memory costs as much as filling it
            space = torch.empty((step, len(self.rows)), device=self.device)
            for start in todo:  # shared by the threads: each takes the next block
                block = np.array(
                    queries[start : start + step], dtype=float_type(queries), order="C", subok=False
                )
                values = space[: len(block)]
                error = product.multiply(block, values)
                if subsets and subsets[0].exclude_self:
                    values.diagonal(start).fill_(torch.inf)
                shortlist = None
                if len(subsets) >= SUBSETS_FOR_A_SHORTLIST:
                    shortlist = Shortlist(self.rows, block, values, error)
                if not all(
                    subset.answer(start, block, values, error, shortlist, most)
                    for subset in subsets
                ):
                    crowded.append(start)

        # A thread for each block, not all threads for each step: they would wait for each other,
        # long on a busy machine.
        threads = available_cores()
        with product.settings(), ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(work) for _ in range(threads)]:
                done.result()
        return sorted(crowded)
