"""Equal rows, counted once: an index holds one of each, and what it finds is unfolded into all of them."""

from __future__ import annotations

import hashlib

import numpy as np


def digest_rows(rows: np.ndarray) -> np.ndarray:
    """16 bytes for each row (n, d), equal for equal rows alone."""
    return np.array([hashlib.blake2b(row.data, digest_size=16).digest() for row in rows], "S16")


class Copies:
    """Which rows are equal.

    Parameters
    ----------
    digests : ndarray of shape (m,)

    Attributes
    ----------
    first : ndarray of int64
        The first row of each kind, ascending: an index's node number i stands for row ``first[i]`` and all its equals.
    """

    def __init__(self, digests: np.ndarray) -> None:
        _, first, kind = np.unique(digests, return_index=True, return_inverse=True)
        node = np.argsort(np.argsort(first))[kind]
        self.first = np.sort(first)
        self._counts = np.bincount(node)
        self._rows, self._start = np.argsort(node, kind="stable"), np.cumsum(self._counts) - self._counts

    def unfold(self, nodes: np.ndarray) -> np.ndarray:
        """Replace nodes (n, k) by their rows, each node's ascending, and keep the first k of each query; -1 stays.

        Examples
        --------
        >>> Copies(np.array([b"a", b"b", b"a", b"c"])).unfold(np.array([[0, 2, 1], [1, 2, -1]]))
        array([[ 0,  2,  3],
               [ 1,  3, -1]])
        """
        k = nodes.shape[1]
        counts = np.where(nodes < 0, 1, np.minimum(self._counts[nodes], k)).ravel()
        flat, ends = np.repeat(nodes.ravel(), counts), np.cumsum(counts)
        begins = ends - counts
        rows = self._rows[self._start[flat] + np.arange(len(flat)) - np.repeat(begins, counts)]
        rows[flat < 0] = -1
        return rows[begins[::k, None] + np.arange(k)]
