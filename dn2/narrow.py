"""From rough values of a block of queries to the k nearest rows: rough values choose the candidates, differences decide.

A rough value is a squared distance less the query's own |x|^2, off by a known error at most. So a row can only be among a query's
k nearest if its value is within twice that error of the k-th smallest.
"""

from __future__ import annotations

import numpy as np
import torch

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

    def __init__(self, rows: np.ndarray, subset: np.ndarray | None, n: int, k: int, exclude_self: bool) -> None:
        self.rows, self.k, self.exclude_self = rows, k, exclude_self
        self.subset = None if subset is None or len(subset) == len(rows) else subset
        self.place = np.arange(len(rows))  # of each row in the subset, or -1
        if self.subset is not None:
            self.place[:] = -1
            self.place[self.subset] = np.arange(len(self.subset))
            n = len(self.subset) if exclude_self else n
        self.distances, self.found = np.empty((n, k), np.float32), np.empty((n, k), np.int64)

    def see(
        self, start: int, block: np.ndarray, values: torch.Tensor, error: torch.Tensor, known: Shortlist | None, most: float
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
            marks = candidates(part, error[mine], self.k, answers[mine] if self.exclude_self else None)
            marked = np.flatnonzero(marks)
            if len(marked) > most * len(mine):
                return False
            query, place = np.divmod(marked, marks.shape[1])  # numpy takes ten times longer for two axes
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

    def __init__(self, rows: np.ndarray, block: np.ndarray, values: torch.Tensor, error: torch.Tensor) -> None:
        self.rows, self.queries, self.error = rows, block.astype(np.float64), error.cpu().numpy()
        limit = upper_kth(values, max(1, min(LISTED, values.shape[1] - 1)))
        listed = np.flatnonzero((values > limit.float()[:, None]).logical_not_().cpu().numpy())
        ceiling = limit.cpu().numpy()
        if len(listed) > 8 * LISTED * len(block):  # nearly all rows are alike: a list would only cost memory
            listed, ceiling[:] = listed[:0], -np.inf
        value = values.reshape(-1)[torch.from_numpy(listed).to(values.device)].cpu().numpy().astype(np.float64)
        query, row = np.divmod(listed, values.shape[1])
        order = np.lexsort((value, query))
        self.query, self.row, self.value = query[order], row[order], value[order]
        self.distance = np.full(len(listed), np.nan)  # measured when it is asked for
        ceiling[query[~np.isfinite(value)]] = -np.inf  # where a value overflowed nothing is known
        self.ceiling = ceiling  # rows with larger values are not on the list

    def nearest(self, place: np.ndarray, asking: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
        limit[enough] = self.value[inside[(np.cumsum(counts) - counts)[enough] + k - 1]] + 2 * self.error[enough]
        sure = limit <= self.ceiling
        limit[~sure] = -np.inf
        chosen = inside[self.value[inside] <= limit[self.query[inside]]]
        new = chosen[np.isnan(self.distance[chosen])]
        self.distance[new] = measure(self.queries, self.rows, self.query[new], self.row[new])
        return sure, *smallest(self.query[chosen], place[self.row[chosen]], self.distance[chosen], k)


def candidates(values: torch.Tensor, error: torch.Tensor, k: int, own: np.ndarray | None) -> np.ndarray:
    """Mark every column that may be among a row's k smallest, the values being off by ``error`` at most: bool.

    ``own`` is each row's column that is left out, where the queries are the bank; its value is infinite.
    """
    limit = upper_kth(values, k) + 2 * error
    marks = (values > limit.float()[:, None]).logical_not_().cpu().numpy()  # so written, an overflow to NaN marks the pair
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


def smallest(query: np.ndarray, place: np.ndarray, distance: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose each query's k smallest distances from pairs; of equal distances the lowest place comes first."""
    order = np.lexsort((place, distance, query))
    counts = np.bincount(query)
    counts = counts[counts > 0]
    chosen = order[(np.cumsum(counts) - counts)[:, None] + np.arange(k)]
    return distance[chosen], place[chosen]


def measure(queries: np.ndarray, rows: np.ndarray, query: np.ndarray, row: np.ndarray) -> np.ndarray:
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
