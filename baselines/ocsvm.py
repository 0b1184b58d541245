"""OC-SVM: a one-class support vector machine with an RBF kernel on the images' pixels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from sklearn.exceptions import NotFittedError
from sklearn.svm import OneClassSVM

from baselines._parameters import Rule, check_parameters

NUS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
GAMMAS = tuple(2.0**power for power in range(-7, 3))
"""The grid of GEOM's RAW-OC-SVM (Golan and El-Yaniv 2018, released code)."""

BLOCK = 1000
"""The number of rows scored at a time. With 6,000 training rows, their kernel takes 48 MB."""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


NU = Rule(
    lambda value: (
        value == "grid" if isinstance(value, str) else _is_number(value) and 0 < value <= 1
    ),
    "a number in (0, 1] or 'grid'",
)
GAMMA = Rule(
    lambda value: (
        value in ("scale", "grid")
        if isinstance(value, str)
        else _is_number(value) and 0 < value < np.inf
    ),
    "a number above 0, 'scale' or 'grid'",
)
MOST_IMAGES = Rule(
    lambda value: isinstance(value, int) and value >= 0,
    "a whole number of at least 0, which means all",
)


class OCSVM:
    """Score an image by how far it lies outside the support of the training images.

    ``score(x) = rho - sum over training rows y of alpha_y * exp(-gamma * |x - y|^2)``: higher is
    more anomalous. This is scikit-learn's `OneClassSVM.decision_function` with the sign turned. It
    is computed in float64, as there: with a large gamma the sums are so small compared with rho
    that many scores are equal, and the best of a grid must not rest on an order that rounding made.

    Pixels are scaled to [-1, 1] and keep their native channels. Three copies of a grey image would
    triple every squared distance, while gamma stays the same.

    Source: Schölkopf et al., "Estimating the Support of a High-Dimensional Distribution", Neural
    Computation 13 (2001). As a baseline on pixels it is RAW-OC-SVM in Golan and El-Yaniv (arXiv
    1805.10917), whose numbers the DN2 paper quotes. They take, for each class, the pair of nu and
    gamma with the best ROCAUC on the test labels. `score_path` makes that possible; results chosen
    in this way must be labelled as hindsight.

    Parameters
    ----------
    nu : float in (0, 1] or "grid", default 0.1
        Upper bound of the fraction of training rows left outside. "grid": each of 0.1, 0.2 .. 0.9,
        for `score_path`.
    gamma : float above 0, "scale" or "grid", default "scale"
        Of the kernel. "scale" is scikit-learn's ``1 / (d * variance of all training pixels)``;
        "grid": each of 2^-7 .. 2^2.
    max_images : int, default 6000
        The most training images to use; 0 means all. Of more images, this many are drawn, always
        the same ones. Time and memory grow with the square. One class of CIFAR-10 or FashionMNIST
        is used whole, as in the paper.

    Attributes
    ----------
    rows_ : ndarray of shape (n, d), float64
        The training images that are used, flattened and scaled.
    machines_ : list of `Machines`
        One per gamma.

    Examples
    --------
    >>> images = np.random.default_rng(0).integers(90, 110, (20, 4, 4, 1), dtype=np.uint8)
    >>> dark, usual = OCSVM().fit(images).anomaly_score(np.stack([images[0] // 4, images[1]]))
    >>> bool(dark > usual)
    True
    """

    def __init__(
        self,
        nu: Annotated[float | str, NU, {"search": NUS}] = 0.1,
        gamma: Annotated[float | str, GAMMA, {"search": GAMMAS}] = "scale",
        max_images: Annotated[int, MOST_IMAGES] = 6000,
    ) -> None:
        self.nu = nu
        self.gamma = gamma
        self.max_images = max_images

    def check_rows(self, n: int) -> None:
        """Refuse parameters that are out of range, and an empty training set.

        Raises
        ------
        ValueError
            Naming the parameter or the number of images, and the remedy.
        """
        check_parameters(self, "OCSVM")
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
        """Solve for every nu and gamma.

        The kernel matrix depends on gamma alone, so it is computed once for all nu.

        Parameters
        ----------
        X : ndarray of shape (n, h, w, c), uint8
            Normal images, c = 1 or 3.
        monitor, checkpoint
            Every detector takes them; this one uses neither.

        Raises
        ------
        ValueError
            If a parameter is out of range, X is of another type or shape or empty, or all its
            pixels are equal.
        """
        _check_images(X)
        self.check_rows(len(X))
        if 0 < self.max_images < len(X):
            # The seed is fixed: the subset only saves time, and one data set keeps one score.
            X = X[np.sort(np.random.default_rng(0).choice(len(X), self.max_images, replace=False))]
        rows = _flatten(X)
        if np.ptp(X) == 0:
            raise ValueError(
                f"all pixels of the {len(X)} training images are {X.flat[0]}:"
                " give images that differ."
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
            Above 0 outside the training images' support.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        ValueError
            If X is not of the training images' type and size, or nu or gamma is a grid, which
            has many scores.
        """
        if "grid" in (self.nu, self.gamma):
            raise ValueError(
                f"OCSVM(nu={self.nu!r}, gamma={self.gamma!r}) has a score for each point:"
                " call score_path."
            )
        ((_, scores, _),) = self.score_path(X)
        return scores

    def score_path(self, X: np.ndarray) -> Iterator[tuple[dict[str, Any], np.ndarray, None]]:
        """Score images for each gamma and nu, over one block of distances for all.

        Parameters
        ----------
        X : ndarray of shape (n, h, w, c), uint8

        Yields
        ------
        params : dict
            ``{"nu": nu, "gamma": gamma}``.
        scores : ndarray of shape (n,), float64
        nearest : None
            OC-SVM has no nearest training rows.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        ValueError
            If X is not of the training images' type and size.
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
                # A decision is higher for normal rows; our score is higher for anomalies.
                yield {"nu": nu, "gamma": of_gamma.asked}, -decision, None


class Machines(NamedTuple):
    """The solutions for one gamma.

    Attributes
    ----------
    asked : float or str
        Gamma as it was given to the constructor.
    gamma : float
        Its value.
    nus : tuple of float
        The m values of nu.
    alphas : ndarray of shape (n, m)
        The weights of the training rows, one column per nu.
    rhos : ndarray of shape (m,)
        The offsets.
    """

    asked: float | str
    gamma: float
    nus: tuple[float, ...]
    alphas: np.ndarray
    rhos: np.ndarray


def _solve(kernel: np.ndarray, nus: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return alphas (n, m) and rhos (m,) for m nus.

    libsvm runs without the interpreter's lock, so each machine is solved on a core of its own.
    """

    def solve(nu: float) -> tuple[np.ndarray, float]:
        machine = OneClassSVM(kernel="precomputed", nu=nu)
        # libsvm needs no seed here. Without one, scikit-learn draws it from the global generator.
        machine.random_state = 0
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
    """Return squared distances (n, m), float64.

    They come from a matrix product. For scaled pixels it loses no digit that would show in a kernel
    with gamma 4, the greatest of the grid.
    """
    distances = queries @ rows.T
    distances *= -2
    distances += np.einsum("ij,ij->i", queries, queries)[:, None]
    distances += np.einsum("ij,ij->i", rows, rows)
    return np.maximum(distances, 0, out=distances)


def _flatten(images: np.ndarray) -> np.ndarray:
    """Scale pixels to [-1, 1], and return (n, h * w * c) float64."""
    return images.reshape(len(images), -1) / 127.5 - 1


def _check_images(X: np.ndarray) -> None:
    if X.dtype != np.uint8 or X.ndim != 4 or X.shape[3] not in (1, 3) or 0 in X.shape[1:]:
        raise ValueError(
            "images must be uint8 of shape (n, h, w, 1 or 3), finite by that,"
            f" got {X.dtype} {X.shape}."
        )
