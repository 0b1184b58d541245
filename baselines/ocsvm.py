"""OC-SVM: a one-class support vector machine with an RBF kernel on the images' own pixels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.exceptions import NotFittedError
from sklearn.svm import OneClassSVM

NUS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
GAMMAS = tuple(2.0**power for power in range(-7, 3))
"""The grid of GEOM's RAW-OC-SVM (Golan and El-Yaniv 2018, released code)."""

BLOCK = 1000
"""Rows are scored so many at a time: their kernel with 6,000 training rows is 48 MB."""


class Machines(NamedTuple):
    """The solutions for one gamma: as it was asked for, its value, and for each nu a column of alphas (n, m) and a rho (m,)."""

    asked: float | str
    gamma: float
    nus: tuple[float, ...]
    alphas: np.ndarray
    rhos: np.ndarray


class OCSVM:
    """Score an image by how far it is outside of the support of the training images, in the space of an RBF kernel.

    ``score(x) = rho - sum over training rows y of alpha_y * exp(-gamma * |x - y|^2)``: higher is more anomalous. This is
    scikit-learn's `OneClassSVM.decision_function` with the sign turned, and in float64 as there: with a large gamma the sums are
    so small beside rho that many scores are equal, and a best-of-grid must not find an order where there was none.

    Pixels are scaled to [-1, 1] and keep their native channels: three copies of a grey image would triple every distance against
    a fixed gamma.

    Source: Schölkopf et al., "Estimating the Support of a High-Dimensional Distribution", Neural Computation 13 (2001); as a
    baseline on pixels, RAW-OC-SVM in Golan and El-Yaniv, arXiv 1805.10917, whose numbers the DN2 paper quotes: those take, for
    each class, the pair of nu and gamma with the best ROCAUC on the test labels. `score_path` makes that possible, and whoever
    uses it so must say that it is hindsight.

    Parameters
    ----------
    nu : float in (0, 1] or "grid", default 0.1
        Upper bound of the share of training rows left outside. "grid": each of 0.1, 0.2 .. 0.9, for `score_path`.
    gamma : float above 0, "scale" or "grid", default "scale"
        Of the kernel. "scale" is scikit-learn's ``1 / (d * variance of all training pixels)``; "grid": each of 2^-7 .. 2^2.
    max_images : int, default 6000
        Of more training images so many are drawn, always the same ones; 0 means all. Time and memory grow with the square. One
        class of CIFAR-10 or FashionMNIST is used whole, as in the paper.

    Attributes
    ----------
    rows_ : ndarray of shape (n, d), float64
        The training images that are used, flattened and scaled.
    machines_ : list of `Machines`
        One a gamma.

    Examples
    --------
    >>> images = np.random.default_rng(0).integers(90, 110, (20, 4, 4, 1), dtype=np.uint8)
    >>> dark, usual = OCSVM().fit(images).anomaly_score(np.stack([images[0] // 4, images[1]]))
    >>> bool(dark > usual)
    True
    """

    def __init__(
        self, nu: float | str = 0.1, gamma: float | str = "scale", max_images: int = 6000
    ) -> None:
        self.nu = nu
        self.gamma = gamma
        self.max_images = max_images

    def check_rows(self, n: int) -> None:
        """Raise ValueError if a parameter is out of range, or there is no training row."""
        if self.nu != "grid" and not (_is_number(self.nu) and 0 < self.nu <= 1):  # type: ignore[operator]
            raise ValueError(f"nu must be a number in (0, 1] or 'grid', got {self.nu!r}")
        if self.gamma not in ("scale", "grid") and not (
            _is_number(self.gamma) and 0 < self.gamma < np.inf  # type: ignore[operator]
        ):
            raise ValueError(
                f"gamma must be a number above 0, 'scale' or 'grid', got {self.gamma!r}"
            )
        if not isinstance(self.max_images, int) or self.max_images < 0:
            raise ValueError(
                f"max_images must be a whole number of at least 0, which means all, got {self.max_images!r}"
            )
        if n < 1:
            raise ValueError(
                f"OCSVM needs at least 1 training image, got {n}: train on more images."
            )

    def fit(
        self,
        X: np.ndarray,
        *,
        monitor: Callable[..., None] | None = None,  # noqa: ARG002 - there is no loss to report
        checkpoint: Path | None = None,  # noqa: ARG002 - a whole grid takes a minute or two
    ) -> OCSVM:
        """Solve for every nu and gamma. The kernel matrix depends on gamma alone and is made once for all nu.

        Parameters
        ----------
        X : ndarray of shape (n, h, w, c), uint8
            Normal images, c = 1 or 3.
        monitor, checkpoint
            Every detector takes them; this one uses neither.

        Raises
        ------
        ValueError
            If a parameter is out of range, X is of another type or shape or empty, or all its pixels are equal.
        """
        _check_images(X)
        self.check_rows(len(X))
        if 0 < self.max_images < len(X):
            # Not the experiment's seed: which rows is a matter of the method's cost, and one data set keeps one score.
            X = X[np.sort(np.random.default_rng(0).choice(len(X), self.max_images, replace=False))]
        rows = _flatten(X)
        if np.ptp(X) == 0:
            raise ValueError(
                f"all pixels of the {len(X)} training images are {X.flat[0]}: give images that differ."
            )
        variance = rows.var()
        nus: Any = NUS if self.nu == "grid" else (self.nu,)
        gammas = GAMMAS if self.gamma == "grid" else (self.gamma,)
        distances = _squared_distances(rows, rows)
        self.machines_ = []
        for gamma in gammas:
            value = 1 / (rows.shape[1] * variance) if gamma == "scale" else float(gamma)
            self.machines_.append(
                Machines(gamma, value, nus, *_solve(np.exp(-value * distances), nus))
            )
        self.rows_, self._shape = rows, X.shape[1:]
        return self

    def anomaly_score(self, X: np.ndarray) -> np.ndarray:
        """Score images: higher is more anomalous.

        Parameters
        ----------
        X : ndarray of shape (n, h, w, c), uint8

        Returns
        -------
        scores : ndarray of shape (n,), float64
            Above 0 outside of the training images' support.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        ValueError
            If X is not of the training images' type and size, or nu or gamma is a grid, which has many scores.
        """
        if "grid" in (self.nu, self.gamma):
            raise ValueError(
                f"OCSVM(nu={self.nu!r}, gamma={self.gamma!r}) has a score for each point: call score_path."
            )
        ((_, scores, _),) = self.score_path(X)
        return scores

    def score_path(self, X: np.ndarray) -> Iterator[tuple[dict[str, Any], np.ndarray, None]]:
        """Score images for each gamma and nu, over one block of distances for all. Parameters and errors: as `anomaly_score`.

        Yields
        ------
        params : dict
            ``{"nu": nu, "gamma": gamma}``.
        scores : ndarray of shape (n,), float64
        nearest : None
            Nothing is nearest.
        """
        if not hasattr(self, "rows_"):
            raise NotFittedError("OCSVM has no support vectors yet: call fit before scoring")
        _check_images(X)
        if X.shape[1:] != self._shape:
            raise ValueError(
                f"images must be {self._shape} as in training, got {X.shape[1:]}: resize them."
            )
        decisions = [np.empty((len(of_gamma.nus), len(X))) for of_gamma in self.machines_]
        for start in range(0, len(X), BLOCK):
            distances = _squared_distances(_flatten(X[start : start + BLOCK]), self.rows_)
            for found, of_gamma in zip(decisions, self.machines_, strict=True):
                sums = np.exp(-of_gamma.gamma * distances) @ of_gamma.alphas
                found[:, start : start + BLOCK] = (sums - of_gamma.rhos).T
        for found, of_gamma in zip(decisions, self.machines_, strict=True):
            for decision, nu in zip(found, of_gamma.nus, strict=True):
                yield (
                    {"nu": nu, "gamma": of_gamma.asked},
                    -decision,
                    None,
                )  # a decision is higher for normal rows


def _solve(kernel: np.ndarray, nus: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Alphas (n, m) and rhos (m,) of m nus. libsvm works without the interpreter's lock, each machine on one core."""

    def solve(nu: float) -> tuple[np.ndarray, float]:
        machine = OneClassSVM(kernel="precomputed", nu=nu)
        machine.random_state = (
            0  # otherwise libsvm, which needs none here, is given a seed from the global generator
        )
        machine.fit(kernel)
        alphas = np.zeros(len(kernel))
        alphas[machine.support_] = machine.dual_coef_[0]
        return alphas, machine.offset_.item()

    with ThreadPoolExecutor(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    ) as pool:
        alphas, rhos = zip(*pool.map(solve, nus), strict=True)
    return np.stack(alphas, axis=1), np.array(rhos)


def _squared_distances(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(n, m) float64, in which the product of 0 to 255 scaled loses nothing that a kernel of gamma 4 could show."""
    distances = queries @ rows.T
    distances *= -2
    distances += np.einsum("ij,ij->i", queries, queries)[:, None]
    distances += np.einsum("ij,ij->i", rows, rows)
    return np.maximum(distances, 0, out=distances)


def _flatten(images: np.ndarray) -> np.ndarray:
    """Pixels scaled to [-1, 1], (n, h * w * c) float64."""
    return images.reshape(len(images), -1) / 127.5 - 1


def _check_images(X: np.ndarray) -> None:
    if X.dtype != np.uint8 or X.ndim != 4 or X.shape[3] not in (1, 3) or 0 in X.shape[1:]:
        raise ValueError(
            f"images must be uint8 of shape (n, h, w, 1 or 3), finite by that, got {X.dtype} {X.shape}."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
