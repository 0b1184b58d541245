"""Fit a method and score splits: one at a time, or together where they share rows or encoders."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from benchmarks.contracts import (
    Experiment,
    MissingDataError,
    OutsideError,
    PathPoint,
    Progress,
    Split,
    SplitError,
    UsageError,
)
from benchmarks.detectors import Method
from benchmarks.inputs import Input, Pixels, Rows

PIECE = 1000
"""Images scored at a time: it keeps progress moving, and large images out of memory."""

GATHERED_BYTES = 1 << 29
"""Test images of up to 512 MB are kept from one class to the next; more are read again."""

TOGETHER = 32
"""The most splits scored at once: at k = 50 their neighbours take 200 MB, and a killed run loses
no more than these."""


class Scored(NamedTuple):
    """Hold a split's scores at each point of the path, and what they cost.

    Attributes
    ----------
    split : Split
    points : list of PathPoint
    fit_seconds, score_seconds : float
        Wall time; that of the fit only since it was continued.
    cpu_seconds : float
        User and system time of all threads, for both, and also of the processes that were broken
        off within the fit.
    metrics : mapping
        Metrics that are not computed from the scores.
    exact : sequence of PathPoint
        The points of the method's exact twin, whose time is not counted; empty without a twin.
    """

    split: Split
    points: list[PathPoint]
    fit_seconds: float
    score_seconds: float
    cpu_seconds: float
    metrics: Mapping[str, float] = {}
    exact: Sequence[PathPoint] = ()


class Watch(Protocol):
    """Follow a training as it runs, and say where it keeps its state.

    See `benchmarks.contracts.Detector` for the arguments of a monitor.
    """

    def monitor(self, experiment: Experiment, split: Split) -> Callable[..., None]:
        """Return the callable that receives the losses of a training on this split."""

    def checkpoint(self, experiment: Experiment, split: Split) -> Path:
        """Return the checkpoint file of a training on this split."""


class GatheredRows:
    """Keep the test rows gathered last, because every class of one_vs_rest has the same ones.

    Parameters
    ----------
    gather : callable
        ``gather(rows)``: an input's `Rows.__getitem__` or `Rows.apart`.
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
    tests: GatheredRows,
    watch: Watch | None,
    progress: Progress | None,
) -> Scored:
    """Fit an experiment's method to a split's training rows, and score its test rows.

    Raises
    ------
    SplitError
        If the detector fails.
    """
    with name_split(experiment, split):
        method = Method.of(experiment)
        monitor = watch.monitor(experiment, split) if watch else None
        checkpoint = watch.checkpoint(experiment, split) if watch else None
        started, cpu = time.perf_counter(), time.process_time()
        method.fit(X[split.train], monitor, checkpoint)
        fitted = time.perf_counter()
        pieces, accuracies = [], []
        for rows in _pieces(X, tests, split.test, f"scoring {experiment.called}", split, progress):
            points, accuracy = method.score(rows)
            pieces.append(points)
            accuracies.append(accuracy)
        points = _concatenate(pieces)
        seconds = time.perf_counter() - fitted
        cpu_seconds = time.process_time() - cpu + method.earlier_cpu_seconds
        exact: Sequence[PathPoint] = ()
        if (twin := method.exact_twin()) is not None:
            twin.fit(X[split.train])
            what = f"exact search for {experiment.called}"
            rows_of_twin = _pieces(X, tests, split.test, what, split, progress)
            exact = _concatenate([twin.score(rows)[0] for rows in rows_of_twin])
    metrics = _accuracy(split, accuracies)
    return Scored(split, points, fitted - started, seconds, cpu_seconds, metrics, exact)


def score_together(
    experiment: Experiment, splits: Sequence[Split], X: Input, tests: GatheredRows
) -> Iterator[Scored]:
    """Score splits that share rows over one block of distances.

    Each is given an equal part of the time.

    Raises
    ------
    SplitError
        If the detector fails; it names the first of the splits.
    """
    rows = np.unique(np.concatenate([split.train for split in splits]))
    subsets = [np.searchsorted(rows, split.train) for split in splits]
    with name_split(experiment, splits[0]):
        method = Method.of(experiment)
        started, cpu = time.perf_counter(), time.process_time()
        found = method.score_subsets(X[rows], subsets, tests[splits[0].test])
        seconds = (time.perf_counter() - started) / len(splits)
        cpu_seconds = (time.process_time() - cpu) / len(splits)
        twin = method.exact_twin()
        exact: Any = repeat((), len(splits))
        if twin is not None:
            exact = twin.score_subsets(X[rows], subsets, tests[splits[0].test])
    for split, points, points_of_twin in zip(splits, found, exact, strict=True):
        yield Scored(split, points, 0.0, seconds, cpu_seconds, exact=points_of_twin)


def score_joined(
    experiment: Experiment,
    split: Split,
    X: Rows,
    tests: GatheredRows,
    inputs: Mapping[str, Sequence[str]],
) -> dict[str, Scored]:
    """Score a split for several joins of the same encoders, with one product for each encoder.

    Parameters
    ----------
    experiment : Experiment
    split : Split
    X : Rows
        The features of all encoders.
    tests : GatheredRows
        Of ``X.apart``.
    inputs : mapping
        Name of each input -> its encoders.

    Returns
    -------
    dict
        Name of each input -> `Scored`; each is given an equal part of the time.

    Raises
    ------
    SplitError
        If the detector fails.
    """
    joins = {name: tuple(map(X.names.index, encoders)) for name, encoders in inputs.items()}
    with name_split(experiment, split):
        method = Method.of(experiment)
        started, cpu = time.perf_counter(), time.process_time()
        banks, rows = X.apart(split.train), tests[split.test]
        found = method.score_joined(banks, rows, list(joins.values()))
        seconds = (time.perf_counter() - started) / len(joins)
        cpu_seconds = (time.process_time() - cpu) / len(joins)
    return {
        name: Scored(split, points, 0.0, seconds, cpu_seconds)
        for name, points in zip(joins, found, strict=True)
    }


def share_rows(splits: Sequence[Split]) -> list[list[Split]]:
    """Collect consecutive splits that score the same rows and train on much the same rows.

    Their class is the same, or the group holds at least half of the training rows already. They
    are then searched faster together than apart. Splits with groups of images are left apart.
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


def _pieces(
    X: Input,
    tests: GatheredRows,
    rows: np.ndarray,
    what: str,
    split: Split,
    progress: Progress | None,
) -> Iterator[np.ndarray]:
    """Yield the rows to score: features all at once, images piece by piece."""
    if not isinstance(X, Pixels):
        yield tests[rows]
        return
    whole = len(rows) * math.prod(X.shape[1:]) <= GATHERED_BYTES
    for start in range(0, len(rows), PIECE):
        piece = slice(start, start + PIECE)
        yield tests[rows][piece] if whole else X[rows[piece]]
        if progress and len(rows) > PIECE:
            progress(f"{what}, {split.name}, images", min(start + PIECE, len(rows)), len(rows))


def _concatenate(pieces: Sequence[Sequence[PathPoint]]) -> list[PathPoint]:
    """Join the pieces of each point of the path."""
    points: list[PathPoint] = []
    for of_point in zip(*pieces, strict=True):
        params, scores, nearest = zip(*of_point, strict=True)
        rows = None if nearest[0] is None else np.concatenate(nearest)
        points.append((params[0], np.concatenate(scores), rows))
    return points


def _accuracy(split: Split, accuracies: Sequence[np.ndarray | None]) -> dict[str, float]:
    """Average the accuracy over the normal and over the anomalous test images.

    The paper explains GEOM's failures with the second number.
    """
    found = [accuracy for accuracy in accuracies if accuracy is not None]
    if not found:
        return {}
    accuracy = np.concatenate(found)
    return {
        "accuracy_normal": float(accuracy[~split.is_anomaly].mean()),
        "accuracy_anomaly": float(accuracy[split.is_anomaly].mean()),
    }


@contextmanager
def name_split(experiment: Experiment, split: Split) -> Iterator[None]:
    """Turn a detector's error into a `SplitError` that names the split."""
    try:
        yield
    except (UsageError, MissingDataError, OutsideError):
        raise
    except Exception as error:
        kind, where = "", ""
        if type(error) is not ValueError:  # a plain one is a message, others need their place
            last = traceback.extract_tb(error.__traceback__)[-1]
            kind, where = f"{type(error).__name__}: ", f" ({last.filename}, line {last.lineno})"
        raise SplitError(f"{experiment.called}, {split.name}: {kind}{error}{where}") from error
