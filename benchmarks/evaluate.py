"""Run cells that share a data set and an input: each split's result the moment it is there. No tracking, no printing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.contracts import Dataset, Experiment, Progress, Result
from benchmarks.detectors import same_fit, selection_of
from benchmarks.inputs import Input
from benchmarks.metrics import auroc, split_metrics
from benchmarks.protocols import make_splits
from benchmarks.scoring import Point, Scored, Watch, score_group
from benchmarks.threads import one_ahead

KEPT_NEAREST = 10
"""So many nearest training rows are kept a scored row: enough to look at, and 50 would be most of a result's bytes."""


def run(
    experiments: Sequence[Experiment],
    dataset: Dataset,
    X: Input,
    *,
    provenance: Mapping[str, Any],
    done: Collection[tuple[str, str]] = (),
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Iterator[Result]:
    """Fit and score each split of each cell.

    Cells that differ only in their detector's path (every k of DN2) are fitted and searched once, and so are inputs that are
    joined of the same encoders, if the detector can do that. Splits that train on much the same rows (every share and draw of a
    contaminated class) are searched together, likewise.

    Parameters
    ----------
    experiments : sequence of Experiment
        Sharing the data set and the normalisation.
    dataset : Dataset
    X : Rows or Pixels
        Indexed by the splits' rows; the input of each experiment, or joined of more encoders.
    provenance : mapping
        Copied into each result.
    done : collection of (key, split name)
        What is left out because its result is there.
    progress : callable, optional
    watch : Watch, optional
        Without one, a killed training starts anew.

    Yields
    ------
    Result
        Of an oracle, the point of the path with the best ROCAUC on the test labels. ``score_seconds`` is the time of the search
        that all cells of one path shared. Splits that were searched together have equal shares of their time in it, and their
        ``fit_seconds`` is 0. A training that was continued counts from there.

    Raises
    ------
    SplitError
        If a detector fails on a split.
    """
    for group in same_fit(list(experiments)):
        splits = make_splits(group[-1], dataset)
        todo = [
            split
            for split in splits
            if any((experiment.key, split.name) not in done for experiment in group)
        ]
        scores = score_group(group, todo, X, watch, progress)
        if (
            len({experiment.input for experiment in group}) > 1
        ):  # searches of seconds: a training would keep Ctrl-C waiting
            scores = one_ahead(scores)
        for of_input in scores:
            for experiment in group:
                scored = of_input.get(experiment.input)
                if scored is not None and (experiment.key, scored.split.name) not in done:
                    yield _result(experiment, scored, provenance)


def _point_of(experiment: Experiment, scored: Scored) -> tuple[Point, dict[str, float]]:
    """The point of the path that an experiment is about; an oracle's is the first of the best, and says its numbers."""
    if selection_of(experiment) == "oracle":
        best = max(scored.points, key=lambda point: auroc(scored.split.is_anomaly, point[1]))
        return best, {
            f"chosen_{name}": float(value)
            for name, value in best[0].items()
            if not isinstance(value, str)
        }
    params = experiment.detector_params
    return next(
        point
        for point in scored.points
        if all(params[name] == value for name, value in point[0].items())
    ), {}


def _beside_exact(scored: Scored, point: Point) -> dict[str, float]:
    """What an approximate search missed: ``recall``, the share of the exact nearest rows that it found, averaged over the test
    rows; ``rocauc_change``, its ROCAUC less the exact one's. Nothing of an exact search.
    """
    if not scored.exact:
        return {}
    params, scores, nearest = point
    _, expected, rows = next(exact for exact in scored.exact if exact[0] == params)
    is_anomaly = scored.split.is_anomaly
    found = {} if nearest is None or rows is None else {"recall": recall(nearest, rows)}
    return {**found, "rocauc_change": auroc(is_anomaly, scores) - auroc(is_anomaly, expected)}


def recall(found: np.ndarray, expected: np.ndarray) -> float:
    """Share of the expected numbers (n, k) that are among the found (n, k), each row's numbers being distinct."""
    both = np.sort(np.concatenate([found, expected], axis=1), axis=1)
    return float((both[:, 1:] == both[:, :-1]).sum() / expected.size)


def _result(experiment: Experiment, scored: Scored, provenance: Mapping[str, Any]) -> Result:
    split = scored.split
    point, chosen = _point_of(experiment, scored)
    metrics = {
        **split_metrics(split.is_anomaly, point[1]),
        **scored.metrics,
        **_beside_exact(scored, point),
        **chosen,
    }
    _, scores, nearest = point
    if experiment.partition == "validation":
        nearest = None  # nobody looks at them, and those of a sweep would fill the disk
    return Result(
        experiment=experiment,
        split=split.name,
        class_name=split.class_name,
        x=split.x,
        draw=split.draw,
        metrics=metrics,
        scores=np.asarray(scores),
        rows=split.test,
        is_anomaly=split.is_anomaly,
        nearest=None if nearest is None else split.train[nearest[:, :KEPT_NEAREST]],
        n_train=len(split.train),
        n_test=len(split.test),
        fit_seconds=scored.fit_seconds,
        score_seconds=scored.score_seconds,
        provenance=provenance,
    )
