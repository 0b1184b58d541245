"""KMeansDN2: DN2 with a few cluster centres in place of the training rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from dn2.detector import DN2, FalseAlarms, OutlierDetector, more_images, not_fitted, spread
from dn2.parameters import whole
from dn2.search import check_matrix


class KMeansDN2(OutlierDetector):
    """Score a row by the mean squared distance to its k nearest of C cluster centres.

    The centres are those that faiss's k-means finds among the training rows on one thread, so that
    they depend on the rows and the seed alone. Scoring costs C distances a row, whatever the number
    of training rows. Where k exceeds C it is cut to C, with a warning.

    Source: Reiss, Cohen, Bergman and Hoshen, "PANDA", arXiv 2010.05903; the rule for k is this
    project's.

    Parameters
    ----------
    k : int, default 2
    centres : int, default 10
        C, at most the number of training rows.
    seed : int, default 0
        Decides which training rows the centres start from.
    false_alarms : float, default 0.05
        As of `dn2.detector.DN2`, but rather more are called anomalous: 24 % where 20 % were asked
        for, with 200 random rows in 4 dimensions. Centres adapt to the rows in more ways than
        `training_scores_` takes back.

    Attributes
    ----------
    centres_ : ndarray of shape (C, d), float32
    training_scores_ : ndarray of shape (n,), float32
        The score that each training row would have if it did not count in its centre's mean; of
        5,000 evenly spread ones, where there are more.
    offset_, n_features_in_, feature_names_in_
        As of `dn2.detector.DN2`.

    Examples
    --------
    >>> train = np.array([[0.0, 0.0], [0.0, 2.0], [9.0, 0.0], [9.0, 2.0]])
    >>> detector = KMeansDN2(k=1, centres=2).fit(train)
    >>> sorted(detector.centres_.tolist())
    [[0.0, 1.0], [9.0, 1.0]]
    >>> detector.anomaly_score(np.array([[0.0, 0.0], [3.0, 1.0]]))
    array([1., 9.], dtype=float32)
    """

    def __init__(
        self,
        k: Annotated[int, whole(1), {"search": (1, 2, 3)}] = 2,
        centres: Annotated[int, whole(1), {"search": (1, 3, 5, 10, 30, 100)}] = 10,
        seed: Annotated[int, whole(0)] = 0,
        false_alarms: FalseAlarms = 0.05,
    ) -> None:
        self.k = k
        self.centres = centres
        self.seed = seed
        self.false_alarms = false_alarms

    def check_rows(self, n: int) -> None:
        """Raise ValueError if a parameter is out of range or n rows are fewer than the centres."""
        self.check_params()
        if n < self.centres:
            remedy = f"lower centres or {more_images(n)}"
            raise ValueError(
                f"KMeansDN2(centres={self.centres}) needs at least {self.centres} training rows, "
                f"got {n}: {remedy}"
            )

    def fit(
        self,
        X: np.ndarray,
        y: object = None,  # noqa: ARG002 - scikit-learn passes it
        *,
        monitor: Callable[..., None] | None = None,  # noqa: ARG002 - k-means is over too soon to report
        checkpoint: Path | None = None,  # noqa: ARG002 - and to be continued
    ) -> KMeansDN2:
        """Find the centres. What an earlier fit learned is forgotten.

        Parameters
        ----------
        X : ndarray of shape (n, d)
            Normal rows, finite.
        y
            Not looked at.
        monitor, checkpoint
            Every detector takes them; neither is used.

        Raises
        ------
        ValueError
            If a parameter is out of range, X is not a finite matrix or has fewer rows than
            ``centres``.
        """
        rows = self._matrix(X, fitting=True)
        self.check_rows(len(rows))
        check_matrix(rows, "training rows")
        if self.k > self.centres:
            cut = f"there are fewer centres than k, which is cut to {self.centres}"
            warnings.warn(f"KMeansDN2(k={self.k}, centres={self.centres}): {cut}", stacklevel=2)
        self.centres_ = k_means(rows, self.centres, self.seed)
        self._dn2 = DN2(min(self.k, self.centres)).fit(self.centres_)
        some, n = rows[spread(len(rows))], len(rows)
        self._left_out = left_out(some, self.centres_, self.k, n) if n > 1 else np.empty(0)
        return self

    def anomaly_score(self, X: np.ndarray) -> np.ndarray:
        """Score rows: higher is more anomalous.

        Parameters
        ----------
        X : ndarray of shape (n, d)

        Returns
        -------
        scores : ndarray of shape (n,), float32
            Squared distances, at least 0; no row's score depends on the others.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        ValueError
            If X is not a finite matrix as wide as the training rows.
        """
        return self._fitted().anomaly_score(self._matrix(X))

    @property
    def training_scores_(self) -> np.ndarray:
        """Return the training rows' scores, each without its share in its centre: see the class."""
        self._fitted()
        return self._left_out

    def kneighbors(
        self,
        X: np.ndarray | None = None,
        n_neighbors: int | None = None,
        return_distance: bool = True,
    ) -> Any:
        """Find the nearest centres: see `dn2.detector.DN2.kneighbors`.

        Rows are those of ``centres_``, which are asked about if X is None. By default there are as
        many neighbours as the score has.
        """
        dn2 = self._fitted()
        rows = None if X is None else self._matrix(X)
        return dn2.kneighbors(rows, n_neighbors, return_distance=return_distance)

    def _fitted(self) -> DN2:
        if not hasattr(self, "_dn2"):
            raise not_fitted(self, "centres")
        return self._dn2


def k_means(rows: np.ndarray, centres: int, seed: int) -> np.ndarray:
    """Find centres by faiss's k-means, 25 iterations, on all rows and one thread: (centres, d)."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        found = faiss.Kmeans(
            rows.shape[1],
            centres,
            niter=25,
            seed=seed,
            min_points_per_centroid=1,  # faiss prints a warning otherwise
            max_points_per_centroid=len(rows),  # and takes only some of the rows
        )
        found.train(np.ascontiguousarray(rows))
    finally:
        faiss.omp_set_num_threads(before)
    return np.array(found.centroids, dtype=np.float32).reshape(centres, rows.shape[1])


ROWS_AT_ONCE = 64
"""Rows that are measured in one step: they stay in a core's cache."""


def left_out(rows: np.ndarray, centres: np.ndarray, k: int, n: int) -> np.ndarray:
    """Score training rows as if none of them counted in its own centre's mean.

    A centre of n rows moves away from one that is taken out of them: its distance grows by
    n / (n - 1). A centre of one row vanishes with it.

    Parameters
    ----------
    rows : ndarray of shape (m, d)
        All training rows, or some that stand for all.
    centres : ndarray of shape (C, d)
        The means of the rows that are nearest to them.
    k : int
    n : int
        How many training rows there are, at least 2.

    Returns
    -------
    ndarray of shape (m,), float32
        Mean squared distances to the k nearest centres.

    Examples
    --------
    >>> left_out(np.array([[0.0], [2.0], [9.0]]), np.array([[1.0], [9.0]]), 1, 3)
    array([ 4.,  4., 64.], dtype=float32)
    """
    middle = centres.mean(axis=0, dtype=np.float64)  # subtracted, as an offset costs digits
    C = centres - middle
    squared = np.empty((len(rows), len(C)))
    for start in range(0, len(rows), ROWS_AT_ONCE):
        X = rows[start : start + ROWS_AT_ONCE] - middle
        squared[start : start + ROWS_AT_ONCE] = np.vecdot(X, X)[:, None] - 2 * X @ C.T
    squared += np.vecdot(C, C)
    own = squared.argmin(axis=1)
    count = np.bincount(own, minlength=len(centres))[own] * (n / len(rows))
    alone = count == 1
    squared[np.arange(len(rows)), own] *= (count / np.where(alone, 1, count - 1)) ** 2
    squared[alone, own[alone]] = np.inf
    nearest = np.sort(np.maximum(squared, 0), axis=1)[:, :k]
    left = np.isfinite(nearest)
    return (np.where(left, nearest, 0).sum(axis=1) / left.sum(axis=1)).astype(np.float32)
