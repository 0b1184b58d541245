"""Run cells that share a data set and an input: each split's result the moment it is there. No tracking, no printing."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.contracts import Dataset, Experiment, Progress, Result, Split
from benchmarks.detectors import make_detector, same_fit
from benchmarks.inputs import Rows
from benchmarks.metrics import split_metrics
from benchmarks.protocols import make_splits

KEPT_NEAREST = 10
"""So many nearest training rows are kept a scored row: enough to look at, and 50 would be most of a result's bytes."""

Point = tuple[Experiment, np.ndarray, np.ndarray | None]
"""A cell, its scores, and the nearest training rows."""


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

    Cells that differ only in their detector's path (every k of DN2) are fitted and searched once.

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
        ``score_seconds`` is the time of the search that all cells of one path shared.
    """
    for group in same_fit(list(experiments)):
        splits = make_splits(group[-1], dataset)
        for number, split in enumerate(splits):
            todo = [experiment for experiment in group if (experiment.key, split.name) not in done]
            if todo:
                yield from _run_split(todo, split, X, provenance)
            if progress:
                progress(f"{group[-1].detector} on {dataset.name}, {group[-1].normalize}", number + 1, len(splits))


def _run_split(experiments: Sequence[Experiment], split: Split, X: Rows, provenance: Mapping[str, Any]) -> Iterator[Result]:
    """Score one split for all cells of one path, with one fit of the last, which has the largest values."""
    detector = make_detector(experiments[-1])
    started = time.perf_counter()
    detector.fit(X[split.train])
    fitted = time.perf_counter()
    points = _points(detector, experiments, X[split.test])
    scored = time.perf_counter()
    for experiment, scores, nearest in points:
        yield Result(
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
            fit_seconds=fitted - started,
            score_seconds=scored - fitted,
            provenance=provenance,
        )


def _points(detector: Any, experiments: Sequence[Experiment], X: np.ndarray) -> list[Point]:
    """Each cell's scores: from the detector's path where it has one, else from its only point."""
    if not hasattr(detector, "score_path"):
        return [(experiment, detector.anomaly_score(X), None) for experiment in experiments]
    points = []
    for params, scores, nearest in detector.score_path(X):
        for experiment in experiments:
            if all(experiment.detector_params[name] == value for name, value in params.items()):
                points.append((experiment, scores, nearest))
    return points
