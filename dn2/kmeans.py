"""KMeansDN2: DN2 with a few cluster centres in place of the training rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np

from dn2.detector import DN2, as_float32
from dn2.parameters import Parameters, whole
from dn2.search import check_matrix


class KMeansDN2(Parameters):
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

    Attributes
    ----------
    centres_ : ndarray of shape (C, d), float32

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
    ) -> None:
        self.k = k
        self.centres = centres
        self.seed = seed

    def check_rows(self, n: int) -> None:
        """Raise ValueError if a parameter is out of range or n rows are fewer than the centres."""
        self.check_params()
        if n < self.centres:
            remedy = "lower centres or train on more images."
            raise ValueError(
                f"KMeansDN2(centres={self.centres}) needs at least {self.centres} training rows, "
                f"got {n}: {remedy}"
            )

    def fit(
        self,
        X: np.ndarray,
        *,
        monitor: Callable[..., None] | None = None,  # noqa: ARG002 - k-means is over too soon to report
        checkpoint: Path | None = None,  # noqa: ARG002 - and to be continued
    ) -> KMeansDN2:
        """Find the centres. What an earlier fit learned is forgotten.

        Parameters
        ----------
        X : ndarray of shape (n, d)
            Normal rows, finite.
        monitor, checkpoint
            Every detector takes them; neither is used.

        Raises
        ------
        ValueError
            If a parameter is out of range, X is not a finite matrix or has fewer rows than
            ``centres``.
        """
        self.check_rows(len(X))
        rows = check_matrix(as_float32(X), "training rows")
        if self.k > self.centres:
            cut = f"there are fewer centres than k, which is cut to {self.centres}"
            warnings.warn(f"KMeansDN2(k={self.k}, centres={self.centres}): {cut}", stacklevel=2)
        self.centres_ = k_means(rows, self.centres, self.seed)
        self._dn2 = DN2(min(self.k, self.centres)).fit(self.centres_)
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
        if not hasattr(self, "_dn2"):
            from sklearn.exceptions import NotFittedError  # late: it takes a second

            raise NotFittedError("KMeansDN2 has no centres yet: call fit before scoring")
        return self._dn2.anomaly_score(X)


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
