"""The adapter: a detector with a default for everything that it may leave out.

Nothing else in the benchmarks asks what a detector can do. A detector needs `fit` and
`anomaly_score` (`benchmarks.contracts.Detector`). It may offer:

``check_rows(n)``
    Raise ValueError if a parameter is bad, or if it cannot train on n rows.
``score_path(X)``
    Yield ``(params, scores, nearest)`` for a whole grid at once; ``nearest`` are rows of the
    training array (n, k), or None. ``path_parameters`` names the parameters for which the largest
    value covers all smaller ones: cells that differ in these alone are fitted once.
``score_subsets(bank, subsets, X)``
    Return, for each subset of the bank's rows, what ``fit(bank[subset]).score_path(X)`` yields.
``score_joined(banks, X, joins)``
    Do so for each join of the parts whose training rows and X are given. The class's attribute
    ``joins`` is true where this can be called.
``scores_and_accuracy(X)``
    Return besides the scores the fraction of an image's transformations that were recognised, (n,).
``chance``
    The fraction of transformations that guessing recognises: a number.
``reference()``
    Make the exact detector, not fitted, that this one approximates; None if there is none. It is
    scored as well, and the result's metrics say how far the two differ.
``earlier_cpu_seconds_``
    After `fit`, the CPU seconds that earlier processes spent on it, if it continued from a
    checkpoint.
``arithmetic()``
    Say what this machine computes in, if scores depend on it: it is part of a cell's key.

A parameter is described in the constructor: its default, and in its annotation its rule and, as
``{"search": ...}``, what a sweep tries. One on which no score depends, such as a threshold, is
marked as ``{"experiment": False}``: cells know nothing of it. ``seed`` and ``device`` are the
experiment's. `fit` gets ``monitor`` and ``checkpoint`` if it has arguments of these names.

A class that is named as ``module:Class`` has no entry in the table. Its attributes say what an
entry would: ``input``, which is ``"features"`` (the default), ``"pixels"`` or ``"pixels:SIZE"``,
and ``groups``, true if it scores groups of images.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

import numpy as np

from benchmarks.contracts import Detector, Experiment, PathPoint, UsageError, check_name
from benchmarks.detectors.table import DETECTORS, DetectorEntry, Range, Values

NEEDED = ("fit", "anomaly_score")
"""The methods that every detector has."""

OF_THE_EXPERIMENT = ("seed", "device")
"""Arguments of a constructor that are no parameters of the method."""


class Parameter(NamedTuple):
    """A parameter's default, and what a sweep tries; None if sweeps leave it alone."""

    default: Any
    search: Values | None


class Method:
    """Offer all that any detector may offer, with a default where this one does not.

    Parameters
    ----------
    detector : Detector
        Not yet fitted.

    Attributes
    ----------
    path_parameters : tuple of str
        Parameters whose every value up to the detector's own one fit covers.
    joins : bool
        Whether one search serves every join of the same encoders (`score_joined`).
    chance : float or None
        The accuracy of guessing, for detectors that have an accuracy.
    shares_rows : bool
        Whether splits that train on much the same rows are scored together (`score_subsets`).
    """

    def __init__(self, detector: Detector) -> None:
        self.detector: Any = detector
        self.path_parameters: tuple[str, ...] = getattr(detector, "path_parameters", ())
        self.joins: bool = getattr(detector, "joins", False)
        self.chance: float | None = getattr(detector, "chance", None)
        self.shares_rows = hasattr(detector, "score_subsets")

    @staticmethod
    def of(experiment: Experiment) -> Method:
        """Make the method of an experiment."""
        return Method(make_detector(experiment))

    @property
    def earlier_cpu_seconds(self) -> float:
        """The CPU time that earlier processes spent on this fit; 0 if it began in this one."""
        return getattr(self.detector, "earlier_cpu_seconds_", 0.0)

    def check_rows(self, n: int) -> None:
        """Raise ValueError if a parameter is bad, or n training rows are too few."""
        if hasattr(self.detector, "check_rows"):
            self.detector.check_rows(n)

    def arithmetic(self) -> str | None:
        """Say what this machine computes in; None if scores do not depend on it."""
        return self.detector.arithmetic() if hasattr(self.detector, "arithmetic") else None

    def exact_twin(self) -> Method | None:
        """Make the exact method, not fitted, that this one approximates; None if there is none."""
        twin = self.detector.reference() if hasattr(self.detector, "reference") else None
        return None if twin is None else Method(twin)

    def fit(
        self,
        X: np.ndarray,
        monitor: Callable[..., None] | None = None,
        checkpoint: Path | None = None,
    ) -> Method:
        """Fit the detector to normal rows."""
        accepted = inspect.signature(self.detector.fit).parameters
        offered = {"monitor": monitor, "checkpoint": checkpoint}
        self.detector.fit(X, **{name: offered[name] for name in offered if name in accepted})
        return self

    def score(self, X: np.ndarray) -> tuple[list[PathPoint], np.ndarray | None]:
        """Score rows at each point of the path; also each row's accuracy, where there is one."""
        if hasattr(self.detector, "score_path"):
            return list(self.detector.score_path(X)), None
        if hasattr(self.detector, "scores_and_accuracy"):
            scores, accuracy = self.detector.scores_and_accuracy(X)
            return [({}, scores, None)], accuracy
        return [({}, self.detector.anomaly_score(X), None)], None

    def score_subsets(
        self, bank: np.ndarray, subsets: Sequence[np.ndarray], X: np.ndarray
    ) -> Iterator[list[PathPoint]]:
        """Fit to each subset of the bank's rows and score the same rows each time."""
        if self.shares_rows:
            found: Iterator[list[PathPoint]] = self.detector.score_subsets(bank, subsets, X)
            return found
        return (self.fit(bank[subset]).score(X)[0] for subset in subsets)

    def score_joined(
        self, banks: Sequence[np.ndarray], X: Sequence[np.ndarray], joins: Sequence[tuple[int, ...]]
    ) -> list[list[PathPoint]]:
        """Fit and score every join of some parts; to be called only where `joins` is true."""
        found: list[list[PathPoint]] = self.detector.score_joined(banks, X, joins)
        return found


def entry_of(name: str) -> DetectorEntry:
    """Return a detector's entry in the table, or the one that a class of the user's stands for.

    Raises
    ------
    UsageError
        If there is no such detector.
    """
    if ":" in name:
        return _outside_entry(name)
    try:
        return DETECTORS[check_name(name, DETECTORS, "detector")]
    except UsageError as error:
        raise UsageError(f"{error} Or MODULE:CLASS, a class of your own.") from None


@cache
def _outside_entry(name: str) -> DetectorEntry:
    """Describe a class that is named as ``module:Class``.

    Its version is the digest of its source file, so that a changed file gives other cells.
    """
    from dn2.outside import import_outside

    try:
        outside = import_outside(name)
    except ValueError as error:
        raise UsageError(f"unknown detector '{name}': {error}.") from None
    made = outside.value
    if not inspect.isclass(made):
        raise UsageError(
            f"detector '{name}' is no class but a {type(made).__name__}: name a class with the "
            "methods fit and anomaly_score."
        )
    lacking = [word for word in NEEDED if not callable(getattr(made, word, None))]
    if lacking:
        raise UsageError(
            f"detector '{name}' has no method {' and no '.join(lacking)}: "
            "define fit(X) and anomaly_score(X), as docs/extend.md shows."
        )
    for parameter, argument in inspect.signature(made).parameters.items():
        if parameter in OF_THE_EXPERIMENT:
            continue
        if not isinstance(argument.default, int | float | str | None):  # bool is an int
            raise UsageError(
                f"detector '{name}' needs a default for its parameter '{parameter}' that is a "
                "number, text, true, false or None: give it one in the constructor."
            )
    source = getattr(made, "input", "features")
    kind, colon, size = source.partition(":") if isinstance(source, str) else ("", "", "")
    if source != "features" and (
        kind != "pixels" or (colon and not (size.isdecimal() and int(size) > 0))
    ):
        raise UsageError(
            f"detector '{name}' has the attribute input = {source!r}: set it to 'features', "
            "'pixels' or 'pixels:SIZE'."
        )
    return DetectorEntry(
        target=name,
        input=source,
        summary=(inspect.getdoc(made) or "").partition("\n")[0],
        groups=bool(getattr(made, "groups", False)),
        version=outside.digest,
    )


@cache
def load_class(name: str) -> Any:
    """Import the class of a detector.

    Raises
    ------
    UsageError
        If it cannot be imported.
    """
    target = entry_of(name).target
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"DETECTORS['{name}'] names '{target}', which cannot be imported: {error}."
        ) from error


@cache
def _parameters(made: Any) -> Mapping[str, Parameter]:
    hints = get_type_hints(made.__init__, include_extras=True)
    found = {}
    for name, argument in inspect.signature(made).parameters.items():
        if name not in OF_THE_EXPERIMENT:
            about: dict[str, Any] = {}
            for extra in get_args(hints.get(name)):
                about |= extra if isinstance(extra, dict) else {}
            search = about.get("search")
            tried = Range(**search) if isinstance(search, dict) else search
            if about.get("experiment", True):
                found[name] = Parameter(argument.default, tried)
    return found


def parameters(name: str) -> Mapping[str, Parameter]:
    """Read the parameters of a detector off its constructor, in their order."""
    return _parameters(load_class(name))


def defaults(name: str) -> dict[str, Any]:
    """Return a detector's parameters with their defaults: the published values."""
    return {parameter: about.default for parameter, about in parameters(name).items()}


def search_space(name: str) -> dict[str, Values]:
    """Return what a sweep tries of each of a detector's parameters."""
    tried = {parameter: about.search for parameter, about in parameters(name).items()}
    return {parameter: search for parameter, search in tried.items() if search is not None}


def draws(name: str) -> bool:
    """Tell whether a detector draws at random, so that its scores depend on the seed."""
    return "seed" in inspect.signature(load_class(name)).parameters


def make_detector(experiment: Experiment) -> Detector:
    """Make an experiment's detector, not yet fitted, with the experiment's seed and device.

    Raises
    ------
    UsageError
        If the constructor fails.
    """
    made = load_class(experiment.detector)
    accepted = inspect.signature(made).parameters
    given = {name: getattr(experiment, name) for name in OF_THE_EXPERIMENT if name in accepted}
    try:
        detector: Detector = made(**given, **experiment.detector_params)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(
            f"detector '{experiment.detector}' cannot be made ({reason}): "
            "its constructor should only store its arguments."
        ) from error
    return detector
