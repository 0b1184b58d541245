"""The published numbers as runs, so that the comparison page shows them beside ours."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from benchmarks.tracking.entries import log

CELL = ("source", "dataset", "protocol", "detector", "variant")
"""The columns of ``published.csv`` that make one run; its lines are the classes and the mean."""

NEWEST = int(datetime(2020, 1, 1, tzinfo=UTC).timestamp() * 1000)
"""When the first of them is dated, in milliseconds since 1970; the others come a second before each other.

The page charts the ten newest runs: so they are ours, then DN2's published ones, then those of the rivals.
"""

Row = Mapping[str, Any]


def log_published(client: Any, experiment_id: str, rows: Iterable[Row]) -> int:
    """Log each published cell that is not there yet, or is there with other numbers; return how many were logged."""
    cells: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        cells.setdefault(tuple(row[name] or "" for name in CELL), []).append(row)
    in_order = sorted(cells, key=lambda cell: cell[CELL.index("detector")] != "dn2")
    logged = [_log_cell(client, experiment_id, cell, cells[cell], NEWEST - 1000 * rank) for rank, cell in enumerate(in_order)]
    return sum(logged)


def _log_cell(client: Any, experiment_id: str, cell: tuple[str, ...], rows: Sequence[Row], started: int) -> bool:
    source, dataset, protocol, detector, variant = cell
    key = "paper-" + hashlib.sha256("\n".join(cell).encode()).hexdigest()[:14]
    metrics = {}
    for row in rows:
        ending = "" if row["class_name"] == "mean" else f"/{row['class_name']}"
        metrics[f"rocauc{ending}"] = float(row["rocauc"])
        if row["spread"]:
            metrics[f"rocauc_spread{ending}"] = float(row["spread"])
    for run in client.search_runs([experiment_id], f"tags.key = '{key}'"):
        if run.info.status == "FINISHED" and run.data.metrics == metrics:
            return False
        client.delete_run(run.info.run_id)
    tags = {"key": key, "kind": "cell", "source": "paper", "suite": "paper", "selection": "none", "published": source}
    tags |= {
        name: text for name in ("where", "note") if (text := "; ".join(dict.fromkeys(row[name] for row in rows if row[name])))
    }
    name = " ".join(filter(None, [source, detector, variant, dataset]))
    run_id = client.create_run(experiment_id, start_time=started, tags=tags, run_name=name).info.run_id
    params = {"dataset": dataset, "protocol": protocol, "detector": detector, "variant": variant or "none"}
    log(client, run_id, params=params, points=[(metric, value, 0) for metric, value in metrics.items()])
    client.set_terminated(run_id, "FINISHED", end_time=started)
    return True
