"""GroupDN2: a set of images is as anomalous as its pooled features are far from normal sets'."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from dn2.detector import DN2, FalseAlarms, Neighbours, OutlierDetector, not_fitted
from dn2.parameters import one_of


def mean(X: np.ndarray) -> np.ndarray:
    """Average the members, (n, size, d) -> (n, d): what the paper proposes."""
    return X.mean(axis=1, dtype=np.float64)


def largest(X: np.ndarray) -> np.ndarray:
    """Take each coordinate's largest value, (n, size, d) -> (n, d)."""
    return X.max(axis=1)


def concat(X: np.ndarray) -> np.ndarray:
    """Put the members side by side, (n, size, d) -> (n, size * d): only here their order counts."""
    return X.reshape(len(X), -1)


POOLS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": mean,
    "max": largest,
    "concat": concat,
}


class GroupDN2(OutlierDetector):
    """Pool each set's features into one vector, then score by `DN2`.

    Source: arXiv 2002.10445, Fig. 4 (groups of images).

    Parameters
    ----------
    k : int, default 2
        How many nearest training sets.
    pool : {"mean", "max", "concat"}, default "mean"
    false_alarms : float, default 0.05
        As of `dn2.detector.DN2`.

    Attributes
    ----------
    training_scores_, offset_
        As of `dn2.detector.DN2`, for sets.

    Examples
    --------
    >>> train = np.array([[[0.0], [4.0]], [[4.0], [0.0]], [[1.0], [3.0]]])
    >>> GroupDN2(k=1).fit(train).anomaly_score(np.array([[[2.0], [2.0]], [[4.0], [4.0]]]))
    array([0., 4.], dtype=float32)
    """

    path_parameters = ("k",)
    """Parameters whose smaller values a fit covers too."""

    def __init__(
        self,
        k: Neighbours = 2,
        pool: Annotated[str, one_of(POOLS)] = "mean",
        false_alarms: FalseAlarms = 0.05,
    ) -> None:
        self.k = k
        self.pool = pool
        self.false_alarms = false_alarms

    def check_rows(self, n: int) -> None:
        """Raise ValueError if a parameter is out of range or there are fewer than k sets."""
        self.check_params()
        DN2(self.k).check_rows(n)

    def fit(
        self,
        X: np.ndarray,
        y: object = None,  # noqa: ARG002 - scikit-learn passes it
        *,
        monitor: Callable[..., None] | None = None,  # noqa: ARG002 - there is no loss to report
        checkpoint: Path | None = None,  # noqa: ARG002 - and nothing to continue from
    ) -> GroupDN2:
        """Keep the pooled training sets. What an earlier fit learned is forgotten.

        Parameters
        ----------
        X : ndarray of shape (n, size, d)
            Normal sets, finite.
        y
            Not looked at.
        monitor, checkpoint
            Every detector takes them; nothing is trained.

        Raises
        ------
        ValueError
            If the pool is unknown, k is not a whole number from 1 to n, or X is no finite array of
            sets.
        """
        sets = np.asarray(X)
        self.check_rows(len(sets) if sets.ndim else 0)
        self._dn2 = DN2(self.k).fit(self._pooled(sets))
        return self

    def anomaly_score(self, X: np.ndarray) -> np.ndarray:
        """Score sets: higher is more anomalous.

        Parameters
        ----------
        X : ndarray of shape (n, size, d)

        Returns
        -------
        scores : ndarray of shape (n,), float32
            Squared distances of pooled features; no set's score depends on the others.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        ValueError
            If X is no finite array of sets, or their pooled features are not as wide as those of
            the training sets.
        """
        return self._fitted().anomaly_score(self._pooled(X))

    @property
    def training_scores_(self) -> np.ndarray:
        """Score the training sets, each without itself: see the class."""
        return self._fitted().training_scores_

    def kneighbors(
        self,
        X: np.ndarray | None = None,
        n_neighbors: int | None = None,
        return_distance: bool = True,
    ) -> Any:
        """Find the nearest training sets: see `dn2.detector.DN2.kneighbors`."""
        pooled = None if X is None else self._pooled(X)
        return self._fitted().kneighbors(pooled, n_neighbors, return_distance=return_distance)

    def score_path(self, X: np.ndarray) -> Iterator[tuple[dict[str, Any], np.ndarray, None]]:
        """Score sets for every number of neighbours from 1 to k with a single search.

        Yields
        ------
        params : dict
            ``{"k": j}``.
        scores : ndarray of shape (n,), float32
        nearest : None
            The nearest training sets are not named.
        """
        for params, scores, _ in self._fitted().score_path(self._pooled(X)):
            yield params, scores, None

    def __sklearn_tags__(self) -> Any:
        return self._tags(two_d_array=False, three_d_array=True)

    def _fitted(self) -> DN2:
        if not hasattr(self, "_dn2"):
            raise not_fitted(self, "training sets")
        return self._dn2

    def _pooled(self, X: np.ndarray) -> np.ndarray:
        X = np.asarray(X)
        if X.ndim != 3 or 0 in X.shape:
            raise ValueError(
                f"GroupDN2 takes sets (n, size, d), none of them 0, got shape {X.shape}: use DN2 "
                "for single images"
            )
        return POOLS[self.pool](X)
