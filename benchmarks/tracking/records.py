"""Results as MLflow and the command line show them: metrics, one record a split, and a file with every score."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contracts import Interval, Result

Point = tuple[str, float, int]
"""A metric's name, value and step. A step is a Python int: MLflow stores another type silently, and then cannot list the runs."""


ALWAYS = {"rocauc", "rocauc_low", "rocauc_high", "average_precision", "prevalence"}
"""Metrics that every result has."""

CHOSEN = "chosen_"
"""What an oracle chose for a split is named so: a parameter's value, no quality."""


def whole(x: float) -> int:
    """Turn a curve's value into a step: number of images, members of a group.

    Raises
    ------
    ValueError
        If it is a fraction, for which the caller must give its own rule, such as permille.
    """
    if int(x) != x:
        raise ValueError(f"the curve's value {x} is not a whole number, and a step must be: give curve_step, such as permille")
    return int(x)


def metric_points(
    results: Sequence[Result],
    mean: Interval | None = None,
    extra: Mapping[str, float] | None = None,
    curve_step: Callable[[float], int] = whole,
) -> list[Point]:
    """Return a cell's metrics: means over its splits, each class, times in seconds, and the curve if its splits lie on one.

    Parameters
    ----------
    results : sequence of Result
        All splits of one cell.
    mean : Interval, optional
        ROCAUC over the splits, with its bounds.
    extra : mapping, optional
        Further metrics under the names MLflow shows: ``throughput/images_per_second``, ``memory/peak_mb``.
    curve_step : callable
        From a curve's value to its step; different values need different steps.

    Returns
    -------
    list of (name, value, step)
        On the validation partition every quality is named ``rocauc_validation`` and so on, so that it cannot be taken for a
        result. A curve of several values has no single ``rocauc``.

    Raises
    ------
    ValueError
        If a value is NaN or infinite, or two values of the curve have the same step.
    """
    suffix = "_validation" if results[0].experiment.partition == "validation" else ""
    rocauc, precision = f"rocauc{suffix}", f"average_precision{suffix}"
    values: dict[tuple[str, int], float] = {}
    if len({result.x for result in results}) == 1:
        values[rocauc, 0] = _mean(results, "rocauc")
        values[precision, 0] = _mean(results, "average_precision")
        for class_name, of_class in _grouped(results, lambda result: result.class_name):
            values[f"{rocauc}/{class_name}", 0] = _mean(of_class, "rocauc")
            for name in of_class[0].metrics.keys() - ALWAYS:
                values[f"{name}{suffix}/{class_name}", 0] = _mean(of_class, name)
        for name in results[0].metrics.keys() - ALWAYS:
            if not name.startswith(CHOSEN):  # the mean of what was chosen for each class means nothing
                values[f"{name}{suffix}", 0] = _mean(results, name)
        if mean is not None:
            values[f"{rocauc}_low", 0], values[f"{rocauc}_high", 0] = mean.low, mean.high
    for x, at_x in _grouped([result for result in results if result.x is not None], lambda result: result.x):
        step = int(curve_step(x))
        if (f"{rocauc}_curve", step) in values:
            raise ValueError(f"two values of the curve have the step {step}, the second is {x}: give a finer curve_step")
        values[f"{rocauc}_curve", step] = _mean(at_x, "rocauc")
        for name in at_x[0].metrics.keys() - ALWAYS:
            if not name.startswith(CHOSEN):
                values[f"{name}{suffix}_curve", step] = _mean(at_x, name)
        for class_name, of_class in _grouped(at_x, lambda result: result.class_name):
            values[f"{rocauc}_curve/{class_name}", step] = _mean(of_class, "rocauc")
    values["time/fit_seconds", 0] = sum(result.fit_seconds for result in results)
    values["time/score_seconds", 0] = sum(result.score_seconds for result in results)
    values |= {(name, 0): value for name, value in (extra or {}).items()}
    for (name, _), value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"the metric {name} of cell {results[0].experiment.key} is {value}: it cannot be logged")
    return [(name, float(value), step) for (name, step), value in values.items()]


def split_records(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return one record a split: its metrics as fractions in [0, 1], counts and seconds; plain numbers."""
    return [
        {
            "name": result.split,
            "class_name": result.class_name,
            "x": result.x,
            "draw": result.draw,
            **{name: float(value) for name, value in result.metrics.items()},
            "n_train": result.n_train,
            "n_test": result.n_test,
            "fit_seconds": result.fit_seconds,
            "score_seconds": result.score_seconds,
        }
        for result in results
    ]


def cell_record(results: Sequence[Result], mean: Interval | None = None, selection: str = "none") -> dict[str, Any]:
    """Return a cell as ``run --json`` prints it and ``results.json`` keeps it; ``rocauc`` is None of a curve's several values."""
    experiment = results[0].experiment
    one_value = len({result.x for result in results}) == 1
    low, high = (mean.low, mean.high) if mean is not None and one_value else (None, None)
    return {
        "key": experiment.key,
        "dataset": experiment.dataset,
        "protocol": experiment.protocol,
        "detector": experiment.detector,
        "input": experiment.input,
        "params": experiment.params,
        "selection": selection,
        "rocauc": _mean(results, "rocauc") if one_value else None,
        "rocauc_low": low,
        "rocauc_high": high,
        "splits": split_records(results),
        "seconds": sum(result.fit_seconds + result.score_seconds for result in results),
        "resolved": dict(experiment.resolved),
        "provenance": _distinct(dict(result.provenance) for result in results),
    }


def write_files(folder: Path, results: Sequence[Result], record: Mapping[str, Any], labels: np.ndarray) -> None:
    """Write ``table.csv`` (one line a split), ``results.json`` (the cell's record) and ``scores.parquet`` (every score).

    Parameters
    ----------
    folder : Path
    results : sequence of Result
    record : mapping
        From `cell_record`.
    labels : ndarray of shape (n,), str
        The class of each of the data set's rows.
    """
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(record["splits"][0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(record["splits"])
    (folder / "results.json").write_text(json.dumps(record, indent=1, allow_nan=False))
    _write_scores(folder / "scores.parquet", results, labels)


def _write_scores(path: Path, results: Sequence[Result], labels: np.ndarray) -> None:
    """One line a score: split, row, label, is_anomaly, score, nearest_0 ...; of a group, ``row`` and ``label`` are lists."""
    import pyarrow as pa
    from pyarrow import parquet

    tables = []
    for result in results:
        rows, names = result.rows, np.asarray(labels)[result.rows]
        columns = {
            "split": pa.array(np.full(result.n_test, result.split)).dictionary_encode(),
            "row": pa.array(rows if rows.ndim == 1 else list(rows)),
            "label": pa.array(names).dictionary_encode() if rows.ndim == 1 else pa.array(names.tolist()),
            "is_anomaly": pa.array(result.is_anomaly),
            "score": pa.array(result.scores),
        }
        nearest = np.empty((result.n_test, 0)) if result.nearest is None else result.nearest
        columns |= {f"nearest_{rank}": pa.array(nearest[:, rank]) for rank in range(nearest.shape[1])}
        tables.append(pa.table(columns))
    parquet.write_table(pa.concat_tables(tables, promote_options="default"), path, compression="zstd")


def _mean(results: Sequence[Result], metric: str) -> float:
    return float(np.mean([result.metrics[metric] for result in results]))


def _grouped(results: Iterable[Result], key: Callable[[Result], Any]) -> Iterable[tuple[Any, list[Result]]]:
    """Group in order of first appearance."""
    groups: dict[Any, list[Result]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return groups.items()


def _distinct(items: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for item in items:
        if item not in found:
            found.append(item)
    return found
