"""What scikit-learn asks of an outlier detector, on top of `anomaly_score`.

`OutlierDetector` is no child of scikit-learn's ``BaseEstimator``: importing that takes more than a
second, which every command and every worker would pay for. It has the same methods, and
scikit-learn is imported by those that need it. ``check_estimator`` holds it to the contract.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from numbers import Real
from typing import Annotated, Any, Self

import numpy as np

from dn2.parameters import Parameters, Rule

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


def count_of(n: int) -> str:
    """Say how many rows there are, in a message."""
    return "1 sample" if n == 1 else str(n)


def spread(n: int) -> np.ndarray:
    """Choose at most `MOST_LEFT_OUT` of n rows, evenly spread, ascending."""
    return np.linspace(0, n - 1, min(n, MOST_LEFT_OUT)).round().astype(np.int64)


def not_fitted(detector: object, lacking: str) -> Exception:
    """Make scikit-learn's error for a detector that is used before `fit`."""
    from sklearn.exceptions import NotFittedError  # late: it takes a second

    return NotFittedError(
        f"{type(detector).__name__} has no {lacking} yet: call fit before scoring"
    )
