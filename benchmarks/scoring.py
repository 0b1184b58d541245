"""Score splits with one detector, and share what can be shared: between inputs joined of the same encoders, and between splits
that train on much the same rows.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from benchmarks.contracts import (
    Experiment,
    MissingDataError,
    OutsideError,
    Progress,
    Split,
    SplitError,
    UsageError,
)
from benchmarks.detectors import make_detector
from benchmarks.inputs import Input, Pixels, Rows

PIECE = 1000
"""Images are scored so many at a time: then progress can be seen, and large ones need not be in memory all at once."""

GATHERED_BYTES = 1 << 29
"""Test images of up to 512 MB are kept from one class to the next; of more, each piece is read again."""

Point = tuple[Mapping[str, Any], np.ndarray, np.ndarray | None]
"""Parameters, scores, and the nearest training rows."""


class Scored(NamedTuple):
    """A split, its scores for each point of the detector's path, the time they took, and metrics besides those of the scores.

    ``exact`` are the points of the detector's exact twin, whose time counts nowhere; none if it has no twin.
    """

    split: Split
    points: list[Point]
    fit_seconds: float
    score_seconds: float
    metrics: Mapping[str, float] = {}
    exact: Sequence[Point] = ()


class Watch(Protocol):
    """Who wants to know of a training while it goes on, and where it keeps its state: see `benchmarks.contracts.Detector`."""

    def monitor(self, experiment: Experiment, split: Split) -> Callable[..., None]:
        """What is called with the losses of a training on this split."""

    def checkpoint(self, experiment: Experiment, split: Split) -> Path:
        """The file of a training on this split."""


class Tests:
    """The test rows that were gathered last: all classes of one_vs_rest are scored on the same test images.

    Parameters
    ----------
    gather : callable
        ``gather(rows)``: of an input, `Rows.__getitem__` or `Rows.apart`.
    """

    def __init__(self, gather: Callable[[np.ndarray], Any]) -> None:
        self.gather = gather
        self.rows = np.empty(0, np.int64)
        self.gathered: Any = np.empty(0)

    def __getitem__(self, rows: np.ndarray) -> Any:
        if not np.array_equal(rows, self.rows):
            self.rows, self.gathered = rows, self.gather(rows)
        return self.gathered


def score_split(
    experiment: Experiment,
    split: Split,
    X: Input,
    tests: Tests,
    watch: Watch | None,
    progress: Progress | None,
) -> Scored:
    """Fit the experiment's detector to a split's training rows and score its test rows.

    Raises
    ------
    SplitError
        If the detector fails.
    """
    with named(experiment, split):
        return _score(experiment, split, X, tests, watch, progress)


def _score(
    experiment: Experiment,
    split: Split,
    X: Input,
    tests: Tests,
    watch: Watch | None,
    progress: Progress | None,
) -> Scored:
    detector: Any = make_detector(experiment)
    watched = (
        {
            "monitor": watch.monitor(experiment, split),
            "checkpoint": watch.checkpoint(experiment, split),
        }
        if watch
        else {}
    )
    started = time.perf_counter()
    detector.fit(X[split.train], **watched)
    fitted = time.perf_counter()
    points, accuracies = _score_pieces(
        detector, split, X, tests, f"scoring {called(experiment)}, {split.name}, images", progress
    )
    seconds = time.perf_counter() - fitted
    exact: Sequence[Point] = ()
    if (twin := exact_twin(detector)) is not None:
        what = f"exact search beside {called(experiment)}, {split.name}, images"
        exact, _ = _score_pieces(twin.fit(X[split.train]), split, X, tests, what, progress)
    return Scored(split, points, fitted - started, seconds, _accuracy(split, accuracies), exact)


def exact_twin(detector: Any) -> Any:
    """The detector, not fitted, of which this one is an approximation; None if it is none."""
    return detector.reference() if hasattr(detector, "reference") else None


def _score_pieces(
    detector: Any, split: Split, X: Input, tests: Tests, what: str, progress: Progress | None
) -> tuple[list[Point], list[np.ndarray | None]]:
    """Score a split's test rows piece by piece."""
    pieces, accuracies, done = [], [], 0
    for rows in _pieces(X, tests, split.test):
        points, accuracy = _points(detector, rows)
        pieces.append(points)
        accuracies.append(accuracy)
        done += len(rows)
        if progress and len(rows) < len(split.test):
            progress(what, done, len(split.test))
    return [_join(same_point) for same_point in zip(*pieces, strict=True)], accuracies


def _pieces(X: Input, tests: Tests, rows: np.ndarray) -> Iterator[np.ndarray]:
    """The rows to score: features all at once, images piece by piece."""
    if not isinstance(X, Pixels):
        yield tests[rows]
        return
    gather = (
        partial(tests.__getitem__, rows)
        if len(rows) * math.prod(X.shape[1:]) <= GATHERED_BYTES
        else None
    )
    for start in range(0, len(rows), PIECE):
        piece = slice(start, start + PIECE)
        yield gather()[piece] if gather else X[rows[piece]]


def _points(detector: Any, rows: np.ndarray) -> tuple[list[Point], np.ndarray | None]:
    """Scores for each point of the path, and the accuracy of each row, where the detector offers them."""
    if hasattr(detector, "score_path"):
        return list(detector.score_path(rows)), None
    if hasattr(detector, "scores_and_accuracy"):
        scores, accuracy = detector.scores_and_accuracy(rows)
        return [({}, scores, None)], accuracy
    return [({}, detector.anomaly_score(rows), None)], None


def _join(pieces: Sequence[Point]) -> Point:
    params, scores, nearest = zip(*pieces, strict=True)
    return (
        params[0],
        np.concatenate(scores),
        None if nearest[0] is None else np.concatenate(nearest),
    )


def _accuracy(split: Split, accuracies: Sequence[np.ndarray | None]) -> dict[str, float]:
    """Mean accuracy on normal and on anomalous test images: the paper explains GEOM's failures by the latter."""
    found = [accuracy for accuracy in accuracies if accuracy is not None]
    if not found:
        return {}
    accuracy = np.concatenate(found)
    return {
        "accuracy_normal": float(accuracy[~split.is_anomaly].mean()),
        "accuracy_anomaly": float(accuracy[split.is_anomaly].mean()),
    }


@contextmanager
def named(experiment: Experiment, split: Split) -> Iterator[None]:
    """Say on which split a detector failed."""
    try:
        yield
    except (UsageError, MissingDataError, OutsideError):
        raise
    except Exception as error:
        kind, where = "", ""
        if not isinstance(error, ValueError):
            last = traceback.extract_tb(error.__traceback__)[-1]
            kind, where = f"{type(error).__name__}: ", f" ({last.filename}, line {last.lineno})"
        raise SplitError(f"{called(experiment)}, {split.name}: {kind}{error}{where}") from error


def called(experiment: Experiment) -> str:
    """What progress and errors call it: ``geom rotation on cifar10``."""
    return f"{experiment.method} on {experiment.dataset}"


TOGETHER = 32
"""At most so many splits are scored at once: for k = 50 their neighbours are 200 MB, and a killed run loses no more of them."""


def score_group(
    group: Sequence[Experiment],
    splits: Sequence[Split],
    X: Input,
    watch: Watch | None,
    progress: Progress | None,
) -> Iterator[dict[str, Scored]]:
    """Score splits for experiments that one fit serves (`benchmarks.detectors.same_fit`).

    Parameters
    ----------
    group : sequence of Experiment
        The last has the largest values of the detector's path.
    splits : sequence of Split
    X : Rows or Pixels
        The input of the group's widest experiment.
    watch, progress
        As for `benchmarks.evaluate.run`.

    Yields
    ------
    dict
        Input -> `Scored`, of one split: all of the group's inputs at once, or one of them.

    Raises
    ------
    SplitError
        If the detector fails on a split.
    """
    encoders = {experiment.input: experiment.encoders for experiment in group}
    inputs = {
        name: X.only(of_input) if isinstance(X, Rows) else X for name, of_input in encoders.items()
    }
    tests = {name: Tests(of_input.__getitem__) for name, of_input in inputs.items()}
    parts_of_tests = Tests(X.apart) if isinstance(X, Rows) and len(inputs) > 1 else None
    for together in share_rows(splits):
        if parts_of_tests is not None and isinstance(X, Rows) and len(together) == 1:
            joins = {
                name: tuple(map(X.names.index, of_input)) for name, of_input in encoders.items()
            }
            yield _score_joined(group[-1], together[0], X, parts_of_tests, joins)
            continue
        for name in inputs:
            for scored in _score_together(
                group[-1], together, inputs[name], tests[name], watch, progress
            ):
                yield {name: scored}


def _score_joined(
    experiment: Experiment, split: Split, X: Rows, tests: Tests, joins: dict[str, tuple[int, ...]]
) -> dict[str, Scored]:
    """Score one split for all inputs, each of which has an equal share of the time."""
    with named(experiment, split):
        detector: Any = make_detector(experiment)
        started = time.perf_counter()
        banks, rows = X.apart(split.train), tests[split.test]
        found = detector.score_joined(banks, rows, list(joins.values()))
        seconds = (time.perf_counter() - started) / len(joins)
    return {
        name: Scored(split, points, 0.0, seconds) for name, points in zip(joins, found, strict=True)
    }


def _score_together(
    experiment: Experiment,
    splits: Sequence[Split],
    X: Input,
    tests: Tests,
    watch: Watch | None,
    progress: Progress | None,
) -> Iterator[Scored]:
    """Score splits that share rows, together if the detector can."""
    detector: Any = make_detector(experiment)
    if len(splits) == 1 or not hasattr(detector, "score_subsets"):
        for split in splits:
            yield score_split(experiment, split, X, tests, watch, progress)
        return
    rows = np.unique(np.concatenate([split.train for split in splits]))
    subsets = [np.searchsorted(rows, split.train) for split in splits]
    with named(experiment, splits[0]):
        started = time.perf_counter()
        found = detector.score_subsets(X[rows], subsets, tests[splits[0].test])
        seconds = (time.perf_counter() - started) / len(splits)
        twin = exact_twin(detector)
        exact = (
            twin.score_subsets(X[rows], subsets, tests[splits[0].test])
            if twin
            else repeat((), len(splits))
        )
    for split, points, beside in zip(splits, found, exact, strict=True):
        yield Scored(split, points, 0.0, seconds, exact=beside)


def share_rows(splits: Sequence[Split]) -> list[list[Split]]:
    """Group neighbouring splits that score the same rows and train on much the same.

    Much the same is: of the same class, or with at least half of the training rows in the group already. Together they are then
    searched in less time than apart. Groups of images share nothing.
    """
    groups: list[list[Split]] = []
    rows = np.empty(0, np.int64)
    for split in splits:
        last = groups[-1][-1] if groups and len(groups[-1]) < TOGETHER else None
        if (
            last is not None
            and last.train.ndim == split.train.ndim == 1
            and np.array_equal(last.test, split.test)
            and (last.class_name == split.class_name or np.isin(split.train, rows).mean() >= 0.5)
        ):
            groups[-1].append(split)
            rows = np.union1d(rows, split.train)
        else:
            groups.append([split])
            rows = split.train
    return groups
