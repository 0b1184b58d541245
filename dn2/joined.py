"""One search for all rows that are joined of the same parts: their squared distances add.

Rows of several parts side by side lie |x - y|^2 = sum over the parts of |x_p - y_p|^2 apart. So one product a part serves every
join. It is made in float64, whose error leaves hardly a pair in doubt; those few are measured from differences. So the answers
are those of a search in the joined rows, to the last bit (see `dn2.exact`).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from dn2.engines import available_cores
from dn2.narrow import measure, smallest
from dn2.neighbors import check_k, check_matrix
from dn2.products import torch_settings

VALUES = 2**21  # distances of one part that a thread holds at once: 16 MB of float64
ROUNDING = 2.0**-53  # largest relative error of one float64 operation

Join = tuple[int, ...]
"""Which parts are joined, by their places."""


def nearest_joined(
    queries: Sequence[np.ndarray], banks: Sequence[np.ndarray], joins: Sequence[Join], k: int, *, device: str | None = None
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
        For each join what `dn2.neighbors.nearest` answers for its parts side by side, to the last bit.

    Raises
    ------
    ValueError
        If k is out of range, a part is no finite matrix or its width differs, or a distance exceeds float32.

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
            raise ValueError(f"parts must agree in rows and widths, got queries {query.shape} and a bank {bank.shape}")
    n, m = len(queries[0]), len(banks[0])
    if k > m:
        raise ValueError(f"nearest(k={k}) needs at least {k} bank rows, got {m}: lower k or give more rows")
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    answers = [(np.empty((n, k), np.float32), np.empty((n, k), np.int64)) for _ in joins]
    step = min(512, max(16, VALUES // m), -(-n // available_cores()))
    todo = iter(range(0, n, step))

    def work() -> None:
        space = [torch.empty((step, m), dtype=torch.float64, device=where) for _ in parts]
        for start in todo:  # shared by the threads: each takes the next block
            block = slice(start, min(start + step, n))
            asked = [query[block] for query in queries]
            near = [part.distances(query, out[: len(query)]) for part, query, out in zip(parts, asked, space, strict=True)]
            for join, (distances, rows) in zip(joins, answers, strict=True):
                distances[block], rows[block] = _nearest(asked, banks, near, join, k)

    # A thread for each block, as in dn2.exact.
    threads = available_cores()
    with torch_settings("highest"), ThreadPoolExecutor(threads) as pool:
        parts = [_Part(bank, where) for bank in banks]
        for done in [pool.submit(work) for _ in range(threads)]:
            done.result()
    if not all(np.isfinite(distances).all() for distances, _ in answers):
        raise ValueError("squared distances must fit in float32, got one above 3.4e38: divide all rows by a constant")
    return answers


class _Part:
    """The bank's rows of one part, made ready for products."""

    def __init__(self, rows: np.ndarray, device: torch.device) -> None:
        raw = _in_float64(rows, device)
        self.mean = raw.mean(0)  # subtracted, as an offset costs digits
        self.rows = raw.sub_(self.mean)
        self.squares = torch.linalg.vecdot(self.rows, self.rows)

    def distances(self, queries: np.ndarray, out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write squared distances (b, m) into ``out``; return them, and what their errors are measured in (b,).

        That is (|x| + |y|)^2 for the longest row y, both less the mean.
        """
        block = _in_float64(queries, out.device).sub_(self.mean)
        squares = torch.linalg.vecdot(block, block)
        torch.mm(block, self.rows.T, out=out)
        out.mul_(-2).add_(self.squares).add_(squares[:, None])
        return out, (squares.sqrt() + self.squares.max().sqrt()).square()


def _in_float64(rows: np.ndarray, device: torch.device) -> torch.Tensor:
    """A copy, which may be written to."""
    return torch.from_numpy(np.array(rows, dtype=np.float64, order="C", subok=False)).to(device)


def _nearest(
    queries: Sequence[np.ndarray],
    banks: Sequence[np.ndarray],
    near: Sequence[tuple[torch.Tensor, torch.Tensor]],
    join: Join,
    k: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose each query's k nearest rows of one join.

    A sum of d products is off by d rounding units of |x||y| at most (Higham, Accuracy and Stability of Numerical Algorithms,
    section 3.1), and so are, in the same units, the sums from differences that `dn2.exact` answers. So the two differ by 2d units
    at most; twenty more are for the mean, the other operations and the joining of a few parts.
    """
    values, scale = near[join[0]]
    for part in join[1:]:
        values, scale = values + near[part][0], scale + near[part][1]
    error = (2 * sum(queries[part].shape[1] for part in join) + 20) * ROUNDING * scale
    found = values.topk(min(k + 1, values.shape[1]), dim=1, largest=False, sorted=True)
    ranked, off = found.values.cpu().numpy(), error.cpu().numpy()[:, None]
    rows = found.indices[:, :k].cpu().numpy()
    with np.errstate(over="ignore"):  # the caller refuses infinity
        low, high = ((ranked[:, :k] + sign * off).astype(np.float32) for sign in (-1, 1))
    unsure = np.flatnonzero((low != high).any(1) | (np.diff(ranked, axis=1) <= 2 * off).any(1))
    if len(unsure):
        limit = torch.from_numpy(ranked[unsure, k - 1] + 2 * off[unsure, 0]).to(values.device)
        query, row = (index.cpu().numpy() for index in torch.nonzero(values[unsure] <= limit[:, None], as_tuple=True))
        needed, place = np.unique(row, return_inverse=True)
        ours = np.concatenate([queries[part][unsure] for part in join], axis=1)
        theirs = np.concatenate([banks[part][needed] for part in join], axis=1)
        with np.errstate(over="ignore"):
            high[unsure], rows[unsure] = smallest(query, row, measure(ours.astype(np.float64), theirs, query, place), k)
    return high, rows
