"""Evaluate a batch: read its input, score its splits, and yield a Result for each cell and split.

Nothing is tracked or printed here. A `Worker` evaluates batches, or parts of them, one by one.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import numpy as np

from benchmarks.contracts import (
    CPU_SECONDS,
    Batch,
    Dataset,
    Experiment,
    PathPoint,
    Progress,
    Result,
    Workspace,
)
from benchmarks.datasets import load_dataset
from benchmarks.detectors import Method, selection_of
from benchmarks.inputs import Input, Rows, encoder_names, feature_store, load_input
from benchmarks.metrics import auroc, split_metrics
from benchmarks.scoring import (
    PIECE,
    GatheredRows,
    Scored,
    Watch,
    name_split,
    score_joined,
    score_split,
    score_together,
    share_rows,
)
from benchmarks.threads import one_ahead

KEPT_NEAREST = 10
"""Nearest training rows kept for each scored row: 50 would be most of a result's bytes."""


class Worker:
    """Evaluate batches, keeping what the next one probably needs: data sets and the last input.

    Parameters
    ----------
    workspace : Workspace
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._datasets: dict[str, Dataset] = {}
        self._input: tuple[tuple[str, str, str], Input] | None = None

    def dataset(self, name: str, progress: Progress | None = None) -> Dataset:
        """Open a data set as the workspace says, once.

        Raises
        ------
        UsageError, MissingDataError
        """
        if name not in self._datasets:
            if progress:
                progress(f"reading {name}", 0, 0)
            where = self.workspace
            self._datasets[name] = load_dataset(
                name,
                home=where.home,
                root=where.root,
                skip_corrupt=where.skip_corrupt,
                max_pixels=where.max_pixels,
                drop_duplicates=where.drop_duplicates,
                progress=progress,
            )
        return self._datasets[name]

    def input(self, batch: Batch, progress: Progress | None = None) -> Input:
        """Open a batch's input, computing first the features that the store does not hold yet."""
        cell = batch.cells[-1]
        wanted = cell.dataset, batch.input, cell.fit
        if self._input is None or self._input[0] != wanted:
            self._input = None  # freed first: two inputs may not fit into memory
            dataset = self.dataset(cell.dataset, progress)
            self._input = (
                wanted,
                load_input(dataset, batch.input, self.workspace, progress, cell.fit),
            )
        X = self._input[1]
        return X.normalized(cell.normalize) if isinstance(X, Rows) else X

    def shards_missing(self, batch: Batch, progress: Progress | None = None) -> int:
        """Count the shards of features that a batch needs and the store does not hold."""
        cell = batch.cells[-1]
        dataset = self.dataset(cell.dataset, progress)
        return sum(
            len(feature_store(dataset, name, self.workspace, cell.fit).missing())
            for name in encoder_names(batch.input)
        )

    def work(
        self, batch: Batch, watch: Watch | None = None, progress: Progress | None = None
    ) -> Generator[Result, None, None]:
        """Evaluate a batch, yielding each result as soon as it exists.

        Cells that differ only in the detector's path (every k of DN2) share a fit and a search. So
        do inputs joined from the same encoders, and splits that train on much the same rows (every
        ratio and draw of a contaminated class).

        Parameters
        ----------
        batch : Batch
            Results that it has already are left out.
        watch : Watch, optional
            Without one, a training that was killed starts from the beginning.
        progress : callable, optional

        Yields
        ------
        Result
            An oracle takes the point of the path with the best ROCAUC on the test labels.
            ``score_seconds`` is the time of the search that all cells of a path share. Splits
            searched together each get an equal part of it, and a ``fit_seconds`` of 0. A training
            that was continued counts only the time since then.

        Raises
        ------
        SplitError
            If a detector fails on a split, or gives all its test images one score.
        """
        X = self.input(batch, progress)
        scores = self._scores(batch, X, watch, progress)
        if len({cell.input for cell in batch.cells}) > 1:
            # Searches take seconds. A training, which takes longer, would delay Ctrl-C.
            scores = one_ahead(scores)
        for of_input in scores:
            for cell in batch.cells:
                scored = of_input.get(cell.input)
                if scored is not None and (cell.key, scored.split.name) not in batch.done:
                    own = X.only(cell.encoders) if isinstance(X, Rows) else X
                    rate = own.images_per_second if isinstance(own, Rows) else None
                    speed = {"throughput/images_per_second": rate} if rate else {}
                    cost = {
                        **speed,
                        "memory/peak_mb": peak_megabytes(),
                        CPU_SECONDS: scored.cpu_seconds,
                    }
                    with name_split(cell, scored.split):
                        result = _result(cell, scored, batch.provenance, cost)
                        if cell.partition == "test":
                            _check_scores(result, own)
                    yield result

    def _scores(
        self, batch: Batch, X: Input, watch: Watch | None, progress: Progress | None
    ) -> Iterator[dict[str, Scored]]:
        """Score what is left of a batch; yield a split's scores, for one input or for all."""
        left, cells = batch.left, batch.cells_left
        encoders = {cell.input: cell.encoders for cell in cells}
        inputs = {
            name: X.only(names) if isinstance(X, Rows) else X for name, names in encoders.items()
        }
        tests = {name: GatheredRows(rows.__getitem__) for name, rows in inputs.items()}
        joined = X if isinstance(X, Rows) and len(inputs) > 1 else None
        tests_apart = GatheredRows(joined.apart) if joined else None
        for group in share_rows(left):
            if joined is not None and tests_apart is not None and len(group) == 1:
                yield score_joined(cells[-1], group[0], joined, tests_apart, encoders)
                continue
            for name, rows in inputs.items():
                if len(group) > 1 and Method.of(cells[-1]).shares_rows:
                    for scored in score_together(cells[-1], group, rows, tests[name]):
                        yield {name: scored}
                    continue
                for split in group:
                    yield {name: score_split(cells[-1], split, rows, tests[name], watch, progress)}


def _result(
    cell: Experiment, scored: Scored, made_with: Mapping[str, Any], cost: Mapping[str, float]
) -> Result:
    split = scored.split
    point, chosen = _choose_point(cell, scored)
    _, scores, nearest = point
    metrics = {
        **split_metrics(split.is_anomaly, scores),
        **scored.metrics,
        **_compare_with_exact(scored, point),
        **chosen,
    }
    if cell.partition == "validation":
        nearest = None  # nothing reads them, and those of a sweep would fill the disk
    return Result(
        experiment=cell,
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
        provenance=made_with,
        cost=cost,
    )


def _check_scores(result: Result, X: Input) -> None:
    """Refuse one score for all test images: a ROCAUC of 50 % would look like a measurement.

    A sweep's validation is not refused: there 50 % tells the sampler to look elsewhere, and what it
    chooses in the end is scored on the test images.

    Raises
    ------
    ValueError
        Saying whether it is the images that are all the same.
    """
    scores = result.scores
    if (scores != scores[0]).any():
        return
    first, rest = result.rows[:1], np.split(result.rows[1:], range(PIECE, len(scores) - 1, PIECE))
    equal = X[first]
    if all(bool((X[rows] == equal).all()) for rows in rest):
        raise ValueError(
            f"all {len(scores)} test images are the same to it, so that no score can tell them "
            "apart: look at the data set"
        )
    raise ValueError(
        f"all {len(scores)} test images got the same score, {scores[0]:g}, though they differ: it "
        "has learnt nothing; change its parameters, or look at its training images"
    )


def _choose_point(cell: Experiment, scored: Scored) -> tuple[PathPoint, dict[str, float]]:
    """Choose a cell's point of the path; an oracle takes the first of the best.

    The second value returned holds an oracle's chosen parameters as metrics.
    """
    if selection_of(cell) == "oracle":
        best = max(scored.points, key=lambda point: auroc(scored.split.is_anomaly, point[1]))
        numbers = {name: value for name, value in best[0].items() if not isinstance(value, str)}
        return best, {f"chosen_{name}": float(value) for name, value in numbers.items()}
    at = {name: cell.detector_params[name] for name in scored.points[0][0]}
    return next(point for point in scored.points if point[0] == at), {}


def _compare_with_exact(scored: Scored, point: PathPoint) -> dict[str, float]:
    """Measure what an approximate search missed; empty for an exact search.

    ``recall`` is the fraction of the exact nearest rows that it found, averaged over the test rows;
    ``rocauc_change`` is its ROCAUC minus that of the exact search.
    """
    if not scored.exact:
        return {}
    params, scores, nearest = point
    _, expected, rows = next(exact for exact in scored.exact if exact[0] == params)
    is_anomaly = scored.split.is_anomaly
    found = {} if nearest is None or rows is None else {"recall": recall(nearest, rows)}
    change = auroc(is_anomaly, scores) - auroc(is_anomaly, expected)
    return {**found, "rocauc_change": change}


def recall(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the fraction of the expected numbers (n, k) that are among the found (n, k).

    Each row's numbers are distinct.
    """
    both = np.sort(np.concatenate([found, expected], axis=1), axis=1)
    return float((both[:, 1:] == both[:, :-1]).sum() / expected.size)


def peak_megabytes() -> float:
    """Return the most memory that this process has held, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3  # macOS counts in bytes
