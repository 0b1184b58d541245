"""Run cells that share a data set and an input: each split's result the moment it is there. No tracking, no printing."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.contracts import Dataset, Experiment, Progress, Result, Split
from benchmarks.detectors import make_detector, same_fit
from benchmarks.inputs import Rows
from benchmarks.metrics import split_metrics
from benchmarks.protocols import make_splits

KEPT_NEAREST = 10
"""So many nearest training rows are kept a scored row: enough to look at, and 50 would be most of a result's bytes."""

TOGETHER = 32
"""At most so many splits are scored at once: for k = 50 their neighbours are 200 MB, and a killed run loses no more of them."""

Point = tuple[Mapping[str, Any], np.ndarray, np.ndarray | None]
"""Parameters, scores, and the nearest training rows."""


class Scored(NamedTuple):
    """A split, its scores for each point of the detector's path, and the time they took."""

    split: Split
    points: list[Point]
    fit_seconds: float
    score_seconds: float


def run(
    experiments: Sequence[Experiment],
    dataset: Dataset,
    X: Rows,
    *,
    provenance: Mapping[str, Any],
    done: Collection[tuple[str, str]] = (),
    progress: Progress | None = None,
) -> Iterator[Result]:
    """Fit and score each split of each cell.

    Cells that differ only in their detector's path (every k of DN2) are fitted and searched once. Splits that train on much the
    same rows (every share and draw of a contaminated class) are searched together, if the detector can do that.

    Parameters
    ----------
    experiments : sequence of Experiment
        Sharing the data set and the input ``X``.
    dataset : Dataset
    X : Rows
        Indexed by the splits' rows.
    provenance : mapping
        Copied into each result.
    done : collection of (key, split name)
        What is left out because its result is there.
    progress : callable, optional

    Yields
    ------
    Result
        ``score_seconds`` is the time of the search that all cells of one path shared. Splits that were searched together have
        equal shares of their time in it, and their ``fit_seconds`` is 0.
    """
    tests = _Once(X)
    for group in same_fit(list(experiments)):
        splits = make_splits(group[-1], dataset)
        todo = [split for split in splits if any((experiment.key, split.name) not in done for experiment in group)]
        ready = len(splits) - len(todo)
        for split, points, fit_seconds, score_seconds in _score(group[-1], todo, X, tests):
            for params, scores, nearest in points:
                for experiment in group:
                    asked = all(experiment.detector_params[name] == value for name, value in params.items())
                    if asked and (experiment.key, split.name) not in done:
                        yield _result(experiment, split, scores, nearest, fit_seconds, score_seconds, provenance)
            ready += 1
            if progress:
                progress(f"{group[-1].detector} on {dataset.name}, {group[-1].normalize}", ready, len(splits))


class _Once:
    """The rows that were gathered last: all classes of one_vs_rest are scored on the same test images."""

    def __init__(self, X: Rows) -> None:
        self.X = X
        self.rows = np.empty(0, np.int64)
        self.gathered = np.empty(0)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        if not np.array_equal(rows, self.rows):
            self.rows, self.gathered = rows, self.X[rows]
        return self.gathered


def _score(experiment: Experiment, splits: Sequence[Split], X: Rows, tests: _Once) -> Iterator[Scored]:
    """Score splits with the detector of an experiment, those that share rows together."""
    for together in share_rows(splits):
        detector: Any = make_detector(experiment)
        if len(together) > 1 and hasattr(detector, "score_subsets"):
            rows = np.unique(np.concatenate([split.train for split in together]))
            started = time.perf_counter()
            subsets = [np.searchsorted(rows, split.train) for split in together]
            found = detector.score_subsets(X[rows], subsets, tests[together[0].test])
            seconds = (time.perf_counter() - started) / len(together)
            for split, points in zip(together, found, strict=True):
                yield Scored(split, points, 0.0, seconds)
        else:
            yield from (_score_alone(make_detector(experiment), split, X, tests) for split in together)


def _score_alone(detector: Any, split: Split, X: Rows, tests: _Once) -> Scored:
    started = time.perf_counter()
    detector.fit(X[split.train])
    fitted = time.perf_counter()
    has_path = hasattr(detector, "score_path")
    rows = tests[split.test]
    points: list[Point] = list(detector.score_path(rows)) if has_path else [({}, detector.anomaly_score(rows), None)]
    return Scored(split, points, fitted - started, time.perf_counter() - fitted)


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


def _result(
    experiment: Experiment,
    split: Split,
    scores: np.ndarray,
    nearest: np.ndarray | None,
    fit_seconds: float,
    score_seconds: float,
    provenance: Mapping[str, Any],
) -> Result:
    return Result(
        experiment=experiment,
        split=split.name,
        class_name=split.class_name,
        x=split.x,
        draw=split.draw,
        metrics=split_metrics(split.is_anomaly, scores),
        scores=np.asarray(scores, dtype=np.float32),
        rows=split.test,
        is_anomaly=split.is_anomaly,
        nearest=None if nearest is None else split.train[nearest[:, :KEPT_NEAREST]],
        n_train=len(split.train),
        n_test=len(split.test),
        fit_seconds=fit_seconds,
        score_seconds=score_seconds,
        provenance=provenance,
    )
