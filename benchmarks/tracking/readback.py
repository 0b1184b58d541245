"""A finished run's files back into results, so that a table looks the same whether it was computed now or a month ago."""

from __future__ import annotations

import json
from pathlib import Path

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
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    rows = columns["row"]
    arrays = {
        "scores": columns["score"].to_numpy(),
        "is_anomaly": columns["is_anomaly"].to_numpy(zero_copy_only=False),
        "rows": np.array(rows.to_pylist()) if str(rows.type).startswith("list") else rows.to_numpy(),
    }
    named = sorted((name for name in columns if name.startswith("nearest_")), key=lambda name: int(name.rpartition("_")[2]))
    if named:
        arrays["nearest"] = np.stack([columns[name].to_numpy(zero_copy_only=False) for name in named], axis=1)
    results, start = [], 0
    for split in record["splits"]:
        part = slice(start, start + split["n_test"])
        start += split["n_test"]
        results.append(
            Result(
                experiment=experiment,
                split=split["name"],
                class_name=split["class_name"],
                x=split["x"],
                draw=split["draw"],
                metrics={name: value for name, value in split.items() if name not in (*NAMES, *COUNTS)},
                scores=arrays["scores"][part],
                rows=arrays["rows"][part],
                is_anomaly=arrays["is_anomaly"][part],
                nearest=arrays["nearest"][part] if named else None,
                n_train=split["n_train"],
                n_test=split["n_test"],
                fit_seconds=split["fit_seconds"],
                score_seconds=split["score_seconds"],
                provenance=record["provenance"][0],
            )
        )
    mean = None if record["rocauc_low"] is None else Interval(record["rocauc"], record["rocauc_low"], record["rocauc_high"])
    return Cell(experiment, run_id, record["selection"], tuple(results), mean)
