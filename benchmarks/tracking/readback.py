"""A finished run's files back into results, so that a table looks the same whether it was computed now or a month ago."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contracts import Cell, Experiment, Interval, Result

COUNTS = ("n_train", "n_test", "fit_seconds", "score_seconds")
NAMES = ("name", "class_name", "x", "draw")


def read_cell(folder: Path, experiment: Experiment, run_id: str) -> Cell:
    """Read ``results.json`` and ``scores.parquet``, as `records.write_files` wrote them.

    Parameters
    ----------
    folder : Path
    experiment : Experiment
        Whose key the run has.
    run_id : str

    Raises
    ------
    ValueError
        If the files are of another cell.
    """
    from pyarrow import parquet

    record = json.loads((folder / "results.json").read_text())
    if record["key"] != experiment.key:
        raise ValueError(f"run {run_id} has the results of cell {record['key']}, not of {experiment.key}: delete the run")
    table = parquet.read_table(folder / "scores.parquet")
    results, start = [], 0
    for split in record["splits"]:
        columns = _columns(table.slice(start, split["n_test"]))
        start += split["n_test"]
        nearest = [column for name, column in columns.items() if name.startswith("nearest_")]
        results.append(
            Result(
                experiment=experiment,
                split=split["name"],
                class_name=split["class_name"],
                x=split["x"],
                draw=split["draw"],
                metrics={name: value for name, value in split.items() if name not in (*NAMES, *COUNTS)},
                scores=columns["score"],
                rows=columns["row"],
                is_anomaly=columns["is_anomaly"],
                nearest=np.stack(nearest, axis=1) if nearest else None,
                n_train=split["n_train"],
                n_test=split["n_test"],
                fit_seconds=split["fit_seconds"],
                score_seconds=split["score_seconds"],
                provenance=record["provenance"][0],
            )
        )
    mean = None if record["rocauc_low"] is None else Interval(record["rocauc"], record["rocauc_low"], record["rocauc_high"])
    return Cell(experiment, run_id, record["selection"], tuple(results), mean)


def _columns(table: Any) -> dict[str, np.ndarray]:
    """Turn one split's lines into arrays; a group's members become columns, neighbours it has none of are left out."""
    columns = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if column.null_count < len(column):
            is_list = str(column.type).startswith("list")
            columns[name] = np.array(column.to_pylist()) if is_list else column.to_numpy(zero_copy_only=False)
    return columns
