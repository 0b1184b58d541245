"""Search rows that are joined of the same parts with one product for each part.

Rows of several parts side by side lie |x - y|^2 = sum over the parts p of |x_p - y_p|^2 apart, so
one product a part serves every join. It is made in float64, whose error leaves hardly a pair in
doubt; those few are measured from differences. So the answers are those of a search in the joined
rows, to the last bit (see `dn2.search.exact`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from dn2.engines import available_cores
from dn2.search.exact import torch_settings
from dn2.search.terms import check_k, check_matrix, measure, smallest

BLOCK_DISTANCES = 2**21  # of one part, that a thread holds at once: 16 MB of float64
ROUNDING = 2.0**-53  # largest relative error of one float64 operation

Join = tuple[int, ...]
"""Which parts are joined, by their places."""


def nearest_joined(
    queries: Sequence[np.ndarray],
    banks: Sequence[np.ndarray],
    joins: Sequence[Join],
    k: int,
    *,
    device: str | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Find each query's k nearest bank rows in several joins of parts.

    Parameters
    ----------
    queries : sequence of ndarray of shape (n, d_p), float32
        The parts; finite.
    banks : sequence of ndarray of shape (m, d_p), float32
    joins : sequence of tuple of int
    k : int
        At least 1, at most m.
    device : str, optional
        Where torch computes; by default CUDA where there is one.

    Returns
    -------
    list of (distances, rows)
        For each join what `dn2.search.nearest` answers for its parts side by side, to the last bit.

    Raises
    ------
    ValueError
        If k is out of range, a part is no finite matrix, its width differs, or a distance exceeds
        float32.

    Examples
    --------
    >>> parts = [np.float32([[0], [4]]), np.float32([[9], [0]])]
    >>> ((distances, rows),) = nearest_joined([part[:1] for part in parts], parts, [(0, 1)], 2)
    >>> distances, rows
    (array([[ 0., 97.]], dtype=float32), array([[0, 1]]))
    """
    check_k(k)
    for query, bank in zip(queries, banks, strict=True):
        check_matrix(query, "queries")
        check_matrix(bank, "bank")
        if query.shape != (len(queries[0]), bank.shape[1]) or len(bank) != len(banks[0]):
            raise ValueError(
                f"parts must agree in rows and widths, got queries {query.shape} and a bank "
                f"{bank.shape}: encode both alike"
            )
    n, m = len(queries[0]), len(banks[0])
    if k > m:
        raise ValueError(
            f"nearest(k={k}) needs at least {k} bank rows, got {m}: lower k or give more rows"
        )
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    answers = [(np.empty((n, k), np.float32), np.empty((n, k), np.int64)) for _ in joins]
    step = min(512, max(16, BLOCK_DISTANCES // m), -(-n // available_cores()))
    todo = iter(range(0, n, step))

    def work() -> None:
        space = [
            torch.empty((step, m), dtype=torch.float64, device=where) for _ in range(len(parts) + 1)
        ]
        for start in todo:  # shared by the threads: each takes the next block
            block = slice(start, min(start + step, n))
            asked = [query[block] for query in queries]
            near = [
                part.compare(query, out[: len(query)])
                for part, query, out in zip(parts, asked, space[1:], strict=True)
            ]
            for join, (distances, rows) in zip(joins, answers, strict=True):
                distances[block], rows[block] = _nearest(
                    asked, banks, near, join, k, space[0][: len(asked[0])]
                )

    # A thread for each block, as in dn2.search.exact.
    threads = available_cores()
    with torch_settings("highest"), ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(lambda bank: _Part(bank, where), banks))
        for done in [pool.submit(work) for _ in range(threads)]:
            done.result()
    if not all(np.isfinite(distances).all() for distances, _ in answers):
        raise ValueError(
            "squared distances must fit in float32, got one above 3.4e38: divide all rows by a "
            "constant"
        )
    return answers


class _Part:
    """Hold the bank's rows of one part, ready for products."""

    def __init__(self, rows: np.ndarray, device: torch.device) -> None:
        raw = _in_float64(rows, device)
        self.mean = raw.mean(0)  # subtracted, as an offset costs digits
        self.rows = raw.sub_(self.mean)
        self.squares = torch.linalg.vecdot(self.rows, self.rows)

    def compare(self, queries: np.ndarray, out: torch.Tensor) -> _Compared:
        """Compare queries (b, d) with the part's rows; the values are written into ``out``."""
        block = _in_float64(queries, out.device).sub_(self.mean)
        squares = torch.linalg.vecdot(block, block)
        torch.addmm(self.squares, block, self.rows.T, alpha=-2, out=out)
        return _Compared(out, squares, (squares.sqrt() + self.squares.max().sqrt()).square())


class _Compared(NamedTuple):
    """Hold squared distances of a block of queries in one part, and the scale of their errors.

    Attributes
    ----------
    values : Tensor of shape (b, m)
        Less the query's own |x|^2, which makes no row nearer than another.
    own : Tensor of shape (b,)
        |x|^2.
    scale : Tensor of shape (b,)
        (|x| + |y|)^2 for the longest row y, both less the mean.
    """

    values: torch.Tensor
    own: torch.Tensor
    scale: torch.Tensor


def _in_float64(rows: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy rows; the copy may be written to."""
    return torch.from_numpy(np.array(rows, dtype=np.float64, order="C", subok=False)).to(device)


def _nearest(
    queries: Sequence[np.ndarray],
    banks: Sequence[np.ndarray],
    near: Sequence[_Compared],
    join: Join,
    k: int,
    space: torch.Tensor,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose each query's k nearest rows of one join.

    A sum of |y|^2 and d products is off by d + 1 rounding units of |y|^2 + 2|x||y| at most, in
    whatever order it is summed, and |x|^2 and |y|^2 themselves by d (Higham, Accuracy and Stability
    of Numerical Algorithms, section 3.1): together little more than 2d units of (|x| + |y|)^2 in
    each part. The sums from differences that `dn2.search.exact` answers are off by one unit a
    column of the join. Twenty more are for the mean, the other operations and the joining of a few
    parts.
    """
    values, own, scale = near[join[0]]
    for part in join[1:]:
        values = torch.add(values, near[part].values, out=space)
        own, scale = own + near[part].own, scale + near[part].scale
    widths = [queries[part].shape[1] for part in join]
    error = (2 * max(widths) + sum(widths) + 20) * ROUNDING * scale
    lowest, columns = _lowest(values, min(k + 1, values.shape[1]))
    ranked, rows, off = (
        lowest + own.cpu().numpy()[:, None],
        columns[:, :k],
        error.cpu().numpy()[:, None],
    )
    with np.errstate(over="ignore"):  # the caller refuses infinity
        low, high = ((ranked[:, :k] + sign * off).astype(np.float32) for sign in (-1, 1))
    unsure = np.flatnonzero((low != high).any(1) | (np.diff(ranked, axis=1) <= 2 * off).any(1))
    if len(unsure):
        limit = torch.from_numpy(lowest[unsure, k - 1] + 2 * off[unsure, 0]).to(values.device)
        query, row = (
            index.cpu().numpy()
            for index in torch.nonzero(values[unsure] <= limit[:, None], as_tuple=True)
        )
        needed, place = np.unique(row, return_inverse=True)
        ours = np.concatenate([queries[part][unsure] for part in join], axis=1)
        theirs = np.concatenate([banks[part][needed] for part in join], axis=1)
        with np.errstate(over="ignore"):
            high[unsure], rows[unsure] = smallest(
                query, row, measure(ours.astype(np.float64), theirs, query, place), k
            )
    return high, rows


def _lowest(values: torch.Tensor, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Find each row's smallest values (b, count), ascending, and their columns.

    They are in the groups of columns with the smallest minima, as many groups as values. Minima are
    found at the speed of memory, sorting is not; and numpy sorts small rows faster than torch.
    """
    n = values.shape[1]
    # of a group: then as many minima are looked through as values of the groups chosen
    size = math.isqrt(n // count)
    groups = n // size
    minima = values[:, : groups * size].unflatten(1, (size, groups)).amin(1).cpu().numpy()
    best = np.argpartition(minima, count - 1, axis=1)[:, :count]
    columns = (best[:, :, None] + groups * np.arange(size)).reshape(len(best), count * size)
    left_over = np.broadcast_to(np.arange(groups * size, n), (len(best), n - groups * size))
    columns = np.concatenate([columns, left_over], axis=1)
    near = values.gather(1, torch.from_numpy(columns).to(values.device)).cpu().numpy()
    chosen = np.argpartition(near, count - 1, axis=1)[:, :count]
    near = np.take_along_axis(near, chosen, axis=1)
    order = np.argsort(near, axis=1)
    places = np.take_along_axis(chosen, order, axis=1)
    return np.take_along_axis(near, order, axis=1), np.take_along_axis(columns, places, axis=1)
