"""Score splits with one detector, and share what can be shared: between inputs joined of the same encoders, and between splits
that train on much the same rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

import numpy as np

from benchmarks.contracts import Experiment, Progress, Split
from benchmarks.detectors import make_detector
from benchmarks.inputs import Input, Rows
from benchmarks.scoring import Scored, Tests, Watch, exact_twin, named, score_split

TOGETHER = 32
"""At most so many splits are scored at once: for k = 50 their neighbours are 200 MB, and a killed run loses no more of them."""


def score_group(
    group: Sequence[Experiment], splits: Sequence[Split], X: Input, watch: Watch | None, progress: Progress | None
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
        As for `benchmarks.run.run`.

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
    inputs = {name: X.only(of_input) if isinstance(X, Rows) else X for name, of_input in encoders.items()}
    tests = {name: Tests(of_input.__getitem__) for name, of_input in inputs.items()}
    parts_of_tests = Tests(X.apart) if isinstance(X, Rows) and len(inputs) > 1 else None
    for together in share_rows(splits):
        if parts_of_tests is not None and isinstance(X, Rows) and len(together) == 1:
            joins = {name: tuple(map(X.names.index, of_input)) for name, of_input in encoders.items()}
            yield _score_joined(group[-1], together[0], X, parts_of_tests, joins)
            continue
        for name in inputs:
            for scored in _score_together(group[-1], together, inputs[name], tests[name], watch, progress):
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
    return {name: Scored(split, points, 0.0, seconds) for name, points in zip(joins, found, strict=True)}


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
        exact = twin.score_subsets(X[rows], subsets, tests[splits[0].test]) if twin else repeat((), len(splits))
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
