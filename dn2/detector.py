"""DN2: an image is as anomalous as its nearest normal images are far.

`OutlierDetector` is what scikit-learn asks of such a detector, on top of `anomaly_score`. It is no
child of scikit-learn's ``BaseEstimator``: importing that takes more than a second, which every
command and every worker would pay for. It has the same methods, and those that need scikit-learn
import it. ``check_estimator`` holds it to the contract.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np

from dn2.parameters import Parameters, Rule, one_of, whole
from dn2.search import APPROXIMATE, INDEXES, Bank, check_k, leave_out

if TYPE_CHECKING:
    from dn2.search import Join

Point = tuple[dict[str, Any], np.ndarray, np.ndarray]
"""Parameters, scores, and the nearest training rows."""

Neighbours = Annotated[int, whole(1), {"search": (1, 2, 3, 5, 10, 20, 50)}]
"""How many neighbours; arXiv 2002.10445, Fig. 3, goes from 1 up too."""

Index = Annotated[str, one_of(INDEXES)]
"""How neighbours are found."""

Clean = Annotated[
    float,
    Rule(
        "a fraction of the training rows in [0, 1)",
        lambda value: isinstance(value, Real) and not isinstance(value, bool) and 0 <= value < 1,
    ),
    {"search": (0.0,)},
]
"""The fraction of the training rows to drop."""

FalseAlarms = Annotated[
    float,
    Rule(
        "a fraction of the normal rows in [0, 1)",
        lambda value: isinstance(value, Real) and not isinstance(value, bool) and 0 <= value < 1,
    ),
    {"experiment": False},
]
"""The fraction of normal rows that `predict` may call anomalous.

No score depends on it, so it is no parameter of an experiment.
"""

MOST_LEFT_OUT = 5000
"""Training rows that are scored for the threshold, at most: they cost as much as a test row each.

A fraction of 5 % is then known to 0.3 %.
"""


class OutlierDetector(Parameters, ABC):
    """Give a detector the methods of scikit-learn's outlier detectors.

    A subclass stores ``false_alarms``, and says what it learned in attributes that end in ``_``.
    """

    false_alarms: float

    @abstractmethod
    def fit(self, X: np.ndarray, y: object = None) -> Self:
        """Learn from normal rows; ``y`` is not looked at."""

    @abstractmethod
    def anomaly_score(self, X: np.ndarray) -> np.ndarray:
        """Score rows, (n,): higher is more anomalous."""

    @property
    @abstractmethod
    def training_scores_(self) -> np.ndarray:
        """Score training rows as if each had not been trained on; some of them, if many."""

    @property
    def offset_(self) -> float:
        """The lowest score of a row that is called normal, as of `score_samples`.

        It is taken from the training rows, each scored without itself, such that a new normal row
        is called anomalous with a probability of ``false_alarms``: of n such scores the one of rank
        ``ceil((1 - false_alarms) (n + 1))``, or the largest where n is too small. Computed when it
        is first asked for, as it takes the time of scoring the training rows.

        Raises
        ------
        ValueError
            If there is one training row alone, or ``false_alarms`` is outside [0, 1).
        """
        self.check_params()
        scores = np.sort(self.training_scores_)
        if not len(scores):
            raise ValueError(
                "the threshold of predict needs at least 2 training rows, got 1 sample: compare "
                "anomaly_score with a threshold of your own, or train on more images"
            )
        rank = math.ceil(round((1 - self.false_alarms) * (len(scores) + 1), 6))
        return -float(scores[min(rank, len(scores)) - 1])

    def score_samples(self, X: np.ndarray) -> np.ndarray:
        """Compute ``-anomaly_score(X)``, in float64: higher is more normal, as in scikit-learn."""
        return -self.anomaly_score(X).astype(np.float64)

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Score rows from the threshold: ``score_samples(X) - offset_``, negative if anomalous."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Call rows normal, +1, or anomalous, -1: int64, (n,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def fit_predict(self, X: np.ndarray, y: object = None) -> np.ndarray:  # noqa: ARG002
        """Fit to rows, and call the same rows normal, +1, or anomalous, -1.

        Each finds itself among the training rows, as in ``fit(X).predict(X)``. Where the training
        rows may hold anomalies, compare `training_scores_` instead, or use ``clean``.
        """
        return self.fit(X).predict(X)

    def __sklearn_tags__(self) -> Any:
        return self._tags()

    def _tags(self, **inputs: bool) -> Any:
        """Say what kind of estimator this is, and what it takes."""
        from sklearn.utils import InputTags, Tags, TargetTags

        return Tags(
            estimator_type="outlier_detector",
            target_tags=TargetTags(required=False),
            input_tags=InputTags(**inputs),
        )

    def _matrix(self, X: Any, *, fitting: bool = False) -> np.ndarray:
        """Take rows as float32, and note their columns or compare them with those of the fit."""
        name = type(self).__name__
        rows = as_float32(X, name)
        if rows.ndim != 2:
            raise ValueError(
                f"{name} takes a matrix (rows, columns), got shape {rows.shape}. Reshape your data."
            )
        width = rows.shape[1]
        if width == 0:
            raise ValueError(
                f"{name} got 0 feature(s) (shape={rows.shape}) while a minimum of 1 is required."
            )
        if hasattr(X, "columns") or hasattr(self, "feature_names_in_"):
            from sklearn.utils.validation import validate_data  # late: it takes a second

            validate_data(self, X, reset=fitting, skip_check_array=True)
        if fitting:
            self.n_features_in_ = width
        elif width != self.n_features_in_:
            raise ValueError(
                f"X has {width} features, but {name} is expecting {self.n_features_in_} features "
                "as input: encode both alike"
            )
        return rows


class DN2(OutlierDetector):
    """Score a row by the mean squared distance to its k nearest training rows.

    ``score(x) = 1/k * sum over the k nearest training rows y of |x - y|^2``: higher is more
    anomalous. The rows are meant to be features of a pretrained network. The paper averages
    distances; its authors' code squares them, and so does this.

    Source: Bergman, Cohen and Hoshen, "Deep Nearest Neighbor Anomaly Detection", arXiv 2002.10445,
    section 3 (clean: Fig. 5).

    Parameters
    ----------
    k : int, default 2
        How many neighbours, at least 1 and at most the number of training rows that are kept.
        Checked by `fit`.
    index : {"exact", "flat", "hnsw", "ivf", "pq"}, default "exact"
        How they are found: see `dn2.search.nearest`. The last three are approximate.
    clean : float, default 0
        The fraction of the training rows, in [0, 1), to drop because they may be anomalies: see
        `normal_rows`. The paper drops 0.5.
    false_alarms : float, default 0.05
        The fraction of normal rows, in [0, 1), that `predict` may call anomalous. It decides on
        `offset_`, and on no score.

    Attributes
    ----------
    bank_ : ndarray of shape (n_kept, d), float32; or None
        The training rows that are kept, copied: changing the array that was given to `fit` changes
        no score. None where only codes are kept, by the index ``pq`` of 1,000 rows or more.
    kept_ : ndarray of shape (n_kept,), int64
        Which of the rows given to `fit` they are, ascending.
    training_scores_ : ndarray of shape (n_kept,), float32
        The score that each of them would have without itself among the training rows; of 5,000
        evenly spread ones, where there are more. Computed when it is first asked for.
    offset_ : float
        What `score_samples` gives to the most anomalous row that `predict` calls normal.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (d,)
        Only if `fit` was given a data frame with text for column names.

    Examples
    --------
    >>> train = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    >>> DN2(k=2).fit(train).anomaly_score(np.array([[0.0, 0.0], [3.0, 4.0]]))
    array([ 0.5, 19. ], dtype=float32)

    It is an outlier detector of scikit-learn: +1 is normal, -1 anomalous.

    >>> DN2(k=2).fit(train).predict(np.array([[0.0, 0.0], [3.0, 4.0]]))
    array([ 1, -1])
    """

    def __init__(
        self,
        k: Neighbours = 2,
        index: Index = "exact",
        clean: Clean = 0.0,
        false_alarms: FalseAlarms = 0.05,
    ) -> None:
        self.k = k
        self.index = index
        self.clean = clean
        self.false_alarms = false_alarms

    @property
    def path_parameters(self) -> tuple[str, ...]:
        """Name the parameters whose smaller values a fit covers too; cleaning depends on k."""
        return () if self.clean else ("k",)

    @property
    def joins(self) -> bool:
        """Tell whether `score_joined` serves this detector."""
        return self.index == "exact" and not self.clean

    def check_rows(self, n: int) -> None:
        """Raise ValueError if a parameter is out of range, or n rows leave fewer than k to keep."""
        self.check_params()
        left = n - n_dropped(n, self.clean)
        if left < self.k:
            after = (
                f" after clean={self.clean:g}, got {left} of {n}" if self.clean else f", got {n}"
            )
            raise ValueError(
                f"DN2(k={self.k}) needs at least {self.k} training rows{after}: lower k or "
                f"{more_images(n)}"
            )

    def fit(
        self,
        X: np.ndarray,
        y: object = None,  # noqa: ARG002 - scikit-learn passes it
        *,
        monitor: Callable[..., None] | None = None,  # noqa: ARG002 - there is no loss to report
        checkpoint: Path | None = None,  # noqa: ARG002 - and nothing to continue from
    ) -> DN2:
        """Keep the training rows, or with ``clean`` the most normal of them.

        What an earlier fit learned is forgotten.

        Parameters
        ----------
        X : ndarray of shape (n, d)
            Normal rows, finite. Taken as float32, and copied.
        y
            Not looked at.
        monitor, checkpoint
            Every detector takes them; DN2 trains nothing and uses neither.

        Raises
        ------
        ValueError
            If k is not a whole number of at least 1, ``clean`` is outside [0, 1), the index is
            unknown, X is no finite matrix, or fewer than k of its rows are kept.
        """
        rows = self._matrix(X, fitting=True)
        n = len(rows)
        self.check_rows(n)
        bank = Bank(rows, index=self.index)
        (self.kept_,) = self._keep(bank, rows, [np.arange(n)])
        self._neighbours = (
            bank if len(self.kept_) == n else Bank(rows[self.kept_], index=self.index)
        )
        self.bank_ = self._neighbours.rows
        self._left_out: dict[int, np.ndarray] = {}  # by k, as scores are for the k of the moment
        return self

    def reference(self) -> DN2 | None:
        """Return the same detector with the exact index, not fitted; None if this one is exact."""
        if self.index not in APPROXIMATE:
            return None
        return DN2(self.k, "exact", self.clean, self.false_alarms)

    def anomaly_score(self, X: np.ndarray) -> np.ndarray:
        """Score rows: higher is more anomalous.

        Parameters
        ----------
        X : ndarray of shape (n, d)

        Returns
        -------
        scores : ndarray of shape (n,), float32
            Squared distances, at least 0. With all indexes but ``flat`` no row's score depends on
            the others, to the last bit.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        ValueError
            If X is not a finite matrix as wide as the training rows.
        """
        distances, _ = self._fitted().nearest(self._matrix(X), self.k)
        return mean_of_nearest(distances)

    @property
    def training_scores_(self) -> np.ndarray:
        """Score the training rows, each without itself: see the class.

        Where there are no more than k of them, all others are a row's neighbours. One row alone has
        no such score.

        Raises
        ------
        ValueError
            If the index keeps codes in place of the rows.
        """
        bank = self._fitted()
        if self.k not in self._left_out:
            n = len(self.kept_)
            if bank.rows is None:
                raise ValueError(
                    f"the threshold of predict is taken from the training rows, and index="
                    f"{self.index!r} keeps codes of them alone: compare anomaly_score with a "
                    "threshold of your own, or use another index"
                )
            if n == 1:
                return np.empty(0, np.float32)
            k, chosen = min(self.k, n - 1), spread(n)
            others, _ = leave_out(*bank.nearest(bank.rows[chosen], k + 1), chosen)
            self._left_out[self.k] = mean_of_nearest(others)
        return self._left_out[self.k]

    def kneighbors(
        self,
        X: np.ndarray | None = None,
        n_neighbors: int | None = None,
        return_distance: bool = True,
    ) -> Any:
        """Find the nearest training rows, as scikit-learn's neighbours do.

        Parameters
        ----------
        X : ndarray of shape (n, d), optional
            By default the training rows that are kept; none is then its own neighbour.
        n_neighbors : int, optional
            By default k.
        return_distance : bool, default True

        Returns
        -------
        distances : ndarray of shape (n, n_neighbors), float32
            Euclidean, ascending; the mean of their squares is the score. Only with
            ``return_distance``.
        rows : ndarray of shape (n, n_neighbors), int64
            Rows of what was given to `fit`.

        Raises
        ------
        ValueError
            As for `anomaly_score`; or if there are fewer training rows.
        """
        bank = self._fitted()
        k = self.k if n_neighbors is None else n_neighbors
        check_k(k)
        if X is not None:
            distances, rows = bank.nearest(self._matrix(X), k)
        elif bank.rows is not None:
            distances, rows = bank.nearest(bank.rows, k, exclude_self=True)
        else:
            raise ValueError(f"index={self.index!r} keeps codes and no rows: give X")
        rows = self.kept_[rows]
        return (np.sqrt(distances), rows) if return_distance else rows

    def score_path(self, X: np.ndarray) -> Iterator[Point]:
        """Score rows for every number of neighbours from 1 to k with a single search.

        With ``clean`` it scores them for k alone: what is dropped depends on k, so each k would
        need a fit of its own. Parameters and errors are those of `anomaly_score`.

        Yields
        ------
        params : dict
            ``{"k": j}``.
        scores : ndarray of shape (n,), float32
            With the exact index equal to ``DN2(k=j)``'s, to the last bit.
        nearest : ndarray of shape (n, j), int64
            Which training rows are nearest, the nearest first. Read-only: all points show parts of
            one array.
        """
        distances, rows = self._fitted().nearest(self._matrix(X), self.k)
        yield from self._points(distances, self.kept_[rows])

    def score_subsets(
        self, bank: np.ndarray, subsets: Sequence[np.ndarray], X: np.ndarray
    ) -> Iterator[list[Point]]:
        """Fit to each of several training sets that share rows, and score the same rows each time.

        One block of distances serves all of them. The work is done when this returns; no fit is
        kept.

        Parameters
        ----------
        bank : ndarray of shape (m, d)
            All training rows.
        subsets : sequence of ndarray of int64
            For each training set its rows of the bank, ascending.
        X : ndarray of shape (n, d)

        Returns
        -------
        iterator of list of (params, scores, nearest)
            For each subset what ``fit(bank[subset]).score_path(X)`` yields, with the exact index to
            the last bit.

        Raises
        ------
        ValueError
            As for `fit` and `anomaly_score`.
        """
        for subset in subsets:
            self.check_rows(len(subset))
        if self.index in APPROXIMATE:  # which has to be built for each subset anyway
            paths = [
                list(DN2(self.k, self.index, self.clean).fit(bank[subset]).score_path(X))
                for subset in subsets
            ]
            return iter(paths)
        rows = as_float32(bank)
        neighbours = Bank(rows, index=self.index)
        kept = self._keep(neighbours, rows, subsets)
        found = neighbours.nearest_in(
            [subset[k] for subset, k in zip(subsets, kept, strict=True)], as_float32(X), self.k
        )
        return (
            list(self._points(distances, k[rows]))
            for k, (distances, rows) in zip(kept, found, strict=True)
        )

    def score_joined(
        self, banks: Sequence[np.ndarray], X: Sequence[np.ndarray], joins: Sequence[Join]
    ) -> list[list[Point]]:
        """Fit and score rows that are joined of the same parts, with one product for each part.

        It is for the exact index without cleaning. No fit is kept.

        Parameters
        ----------
        banks : sequence of ndarray of shape (m, d_p)
            The parts of the training rows.
        X : sequence of ndarray of shape (n, d_p)
        joins : sequence of tuple of int
            Which parts stand side by side.

        Returns
        -------
        list of list of (params, scores, nearest)
            For each join what ``fit(joined).score_path(joined X)`` yields, to the last bit.

        Raises
        ------
        ValueError
            As for `fit` and `anomaly_score`; also with another index, or with ``clean``.
        """
        self.check_rows(len(banks[0]))
        if self.index != "exact" or self.clean:
            raise ValueError(
                f"score_joined is for the exact index without cleaning, got index={self.index!r}, "
                f"clean={self.clean:g}: fit each join instead"
            )
        from dn2.search import nearest_joined  # late: it imports torch

        found = nearest_joined(
            [as_float32(part) for part in X], [as_float32(part) for part in banks], joins, self.k
        )
        return [list(self._points(distances, rows)) for distances, rows in found]

    def _keep(
        self, bank: Bank, rows: np.ndarray, subsets: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Choose the places to keep of each subset of the bank's rows."""
        kept = [np.arange(len(subset)) for subset in subsets]
        cleaned = [i for i, subset in enumerate(subsets) if n_dropped(len(subset), self.clean)]
        if cleaned:
            found = bank.nearest_in([subsets[i] for i in cleaned], rows, self.k, exclude_self=True)
            for i, (distances, _) in zip(cleaned, found, strict=True):
                kept[i] = normal_rows(mean_of_nearest(distances), self.clean)
        return kept

    def _fitted(self) -> Bank:
        """Return what `fit` made ready to search."""
        if not hasattr(self, "_neighbours"):
            raise not_fitted(self, "training rows")
        return self._neighbours

    def _points(self, distances: np.ndarray, rows: np.ndarray) -> Iterator[Point]:
        scores = _mean_path(distances)
        rows.flags.writeable = False  # every point shows a part of them
        for j in range(self.k if self.clean else 1, self.k + 1):
            yield {"k": j}, scores[:, j - 1], rows[:, :j]


def normal_rows(distances: np.ndarray, clean: float) -> np.ndarray:
    """Choose the training rows to keep, where some may be anomalies: those with near neighbours.

    Parameters
    ----------
    distances : ndarray of shape (n,)
        Each row's mean squared distance to its k nearest others in the training set.
    clean : float
        The fraction to drop, in [0, 1): the ``floor(clean * n)`` rows with the largest distances.
        Of equally distant rows the last are dropped first.

    Returns
    -------
    ndarray of int64
        Ascending.

    Examples
    --------
    >>> normal_rows(np.array([1.0, 9.0, 4.0, 4.0]), 0.5)
    array([0, 2])
    """
    order = np.argsort(distances, kind="stable")
    return np.sort(order[: len(order) - n_dropped(len(order), clean)])


def n_dropped(n: int, clean: float) -> int:
    """Compute ``floor(clean * n)`` as the decimals mean it.

    0.29 of 100 rows are 29, though 0.29 * 100 is 28.999999999999996.
    """
    return math.floor(round(clean * n, 6))


def _mean_path(distances: np.ndarray) -> np.ndarray:
    """Compute the means over the first 1 to k columns: (n, k) float32.

    One sum follows the other, so that the mean over j does not depend on how many more neighbours
    were asked for.
    """
    sums = np.cumsum(distances, axis=1, dtype=np.float64)
    return (sums / np.arange(1, distances.shape[1] + 1)).astype(np.float32)


def mean_of_nearest(distances: np.ndarray) -> np.ndarray:
    """Compute the score of each row of squared distances (n, k): float32, (n,)."""
    return _mean_path(distances)[:, -1].copy()


def as_float32(X: Any, name: str = "a detector") -> np.ndarray:
    """Take numbers as float32, without a copy where they are.

    Raises
    ------
    ValueError, TypeError
        If X is sparse, or does not hold real numbers; ``name`` is who says so.
    """
    if hasattr(X, "tocsr"):
        raise TypeError(f"{name} takes a dense array, got a sparse one: call X.toarray() first")
    array = np.asarray(X)
    if array.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} takes real numbers")
    if array.dtype.kind not in "biufO":
        raise ValueError(f"{name} takes real numbers, got dtype {array.dtype}: convert it first")
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and the search refuses it
        return array.astype(np.float32, copy=False)


def more_images(n: int) -> str:
    """Say the remedy for too few rows; of a single one in the words that scikit-learn looks for."""
    return "train on more images" + (": 1 sample is too few." if n == 1 else ".")


def spread(n: int) -> np.ndarray:
    """Choose at most `MOST_LEFT_OUT` of n rows, evenly spread, ascending."""
    return np.linspace(0, n - 1, min(n, MOST_LEFT_OUT)).round().astype(np.int64)


def not_fitted(detector: object, lacking: str) -> Exception:
    """Make scikit-learn's error for a detector that is used before `fit`."""
    from sklearn.exceptions import NotFittedError  # late: it takes a second

    return NotFittedError(
        f"{type(detector).__name__} has no {lacking} yet: call fit before scoring"
    )


class DN2Plus(DN2):
    """Score like DN2, with the recipe that won in validation on CIFAR-10.

    It won among 147, on training images alone, and reaches 96.8 % on CIFAR-10's test images. On
    FashionMNIST, where the first two networks won with the same ``power`` and k (96.01 in
    validation, the recipe 95.96), it reaches 95.9 % on the test images.

    1. Features of EfficientNet-Lite0, -Lite1 and -Lite2: 224-pixel crops, global average pooling.
    2. For each network's features apart the signed square root of every coordinate, divided by the
       vector's length (``power``, see `dn2.features`); then the three side by side: squared
       distances add.
    3. The mean squared distance to the k = 5 nearest normal training images.

    The first two steps are the detector's own input,
    ``features:efficientnet_lite0+efficientnet_lite1+efficientnet_lite2`` with ``normalize=power``:
    `fit` and `anomaly_score` take rows that went through them.

    Parameters
    ----------
    k : int, default 5
        How many neighbours.
    index, clean, false_alarms
        As of `dn2.detector.DN2`.
    """

    def __init__(
        self,
        k: Neighbours = 5,
        index: Index = "exact",
        clean: Clean = 0.0,
        false_alarms: FalseAlarms = 0.05,
    ) -> None:
        super().__init__(k, index, clean, false_alarms)
