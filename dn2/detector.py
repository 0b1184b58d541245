"""DN2: an image is as anomalous as its nearest normal images are far."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import NotFittedError

from dn2.neighbors import Bank, check_k

NAMED = 10  # nearest training rows that `DN2.score_path` names


class DN2:
    """Score a row by the mean squared distance to its k nearest training rows.

    ``score(x) = 1/k * sum over the k nearest training rows y of |x - y|^2``: higher is more anomalous. The rows are meant to be
    features of a pretrained network. The paper averages distances; its authors' code squares them, and so does this.

    Source: Bergman, Cohen and Hoshen, "Deep Nearest Neighbor Anomaly Detection", arXiv 2002.10445, section 3.

    Parameters
    ----------
    k : int, default 2
        How many neighbours, at least 1 and at most the number of training rows. Checked by `fit`.
    index : {"exact", "flat"}, default "exact"
        How they are found: see `dn2.neighbors.nearest`.

    Attributes
    ----------
    bank_ : ndarray of shape (n, d), float32
        The training rows, copied: changing the array that was given to `fit` changes no score.

    Examples
    --------
    >>> train = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    >>> DN2(k=2).fit(train).anomaly_score(np.array([[0.0, 0.0], [3.0, 4.0]]))
    array([ 0.5, 19. ], dtype=float32)
    """

    def __init__(self, k: int = 2, index: str = "exact") -> None:
        self.k = k
        self.index = index

    def check_rows(self, n: int) -> None:
        """Raise ValueError if k is no whole number of at least 1 or n training rows are too few for it."""
        check_k(self.k)
        if n < self.k:
            remedy = "lower k or train on more images."
            raise ValueError(f"DN2(k={self.k}) needs at least {self.k} training rows, got {n}: {remedy}")

    def fit(
        self,
        X: np.ndarray,
        *,
        monitor: Callable[..., None] | None = None,  # noqa: ARG002 - there is no loss to report
        checkpoint: Path | None = None,  # noqa: ARG002 - and nothing to continue from
    ) -> DN2:
        """Keep the training rows. What an earlier fit learned is forgotten.

        Parameters
        ----------
        X : ndarray of shape (n, d)
            Normal rows, finite. Taken as float32, and copied.
        monitor, checkpoint
            Every detector takes them; DN2 trains nothing and uses neither.

        Raises
        ------
        ValueError
            If k is not a whole number of at least 1, X is not a finite matrix or has fewer rows than k, or the index is unknown.
        """
        rows = _float32(X)
        self.check_rows(len(rows) if rows.ndim else 0)
        self._neighbours = Bank(rows, index=self.index)
        self.bank_ = self._neighbours.rows
        return self

    def anomaly_score(self, X: np.ndarray) -> np.ndarray:
        """Score rows: higher is more anomalous.

        Parameters
        ----------
        X : ndarray of shape (n, d)

        Returns
        -------
        scores : ndarray of shape (n,), float32
            Squared distances, at least 0. With the exact index no row's score depends on the others, to the last bit.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        ValueError
            If X is not a finite matrix as wide as the training rows.
        """
        return self._search(X)[0][:, -1].copy()

    def score_path(self, X: np.ndarray) -> Iterator[tuple[dict[str, Any], np.ndarray, np.ndarray]]:
        """Score rows for every number of neighbours from 1 to k with a single search.

        Parameters and errors are those of `anomaly_score`.

        Yields
        ------
        params : dict
            ``{"k": j}``.
        scores : ndarray of shape (n,), float32
            With the exact index equal to ``DN2(k=j)``'s, to the last bit.
        nearest : ndarray of shape (n, min(j, 10)), int64
            Which training rows are nearest, the nearest first.
        """
        scores, rows = self._search(X)
        for j in range(1, self.k + 1):
            yield {"k": j}, scores[:, j - 1].copy(), rows[:, : min(j, NAMED)].copy()

    def _search(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores for 1 to k neighbours, and the neighbours: two arrays of shape (n, k)."""
        if not hasattr(self, "_neighbours"):
            raise NotFittedError("DN2 has no training rows yet: call fit before scoring")
        distances, rows = self._neighbours.nearest(_float32(X), self.k)
        # one sum after the other, so that the mean over j does not depend on how many more neighbours were asked for
        sums = np.cumsum(distances, axis=1, dtype=np.float64)
        return (sums / np.arange(1, self.k + 1)).astype(np.float32), rows


def _float32(X: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and the search refuses it
        return np.asarray(X).astype(np.float32, copy=False)
