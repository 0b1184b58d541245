"""The published numbers as runs, so that the comparison page shows them beside ours."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from benchmarks.tracking.entries import log

CELL = ("source", "dataset", "protocol", "detector", "variant")
"""The columns of ``published.csv`` that make one run; its lines are the classes and the mean."""

Row = Mapping[str, Any]


def log_published(client: Any, experiment_id: str, rows: Iterable[Row]) -> int:
    """Log each published cell that is not there yet, or is there with other numbers; return how many were logged."""
    cells: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        cells.setdefault(tuple(row[name] or "" for name in CELL), []).append(row)
    return sum(_log_cell(client, experiment_id, cell, lines) for cell, lines in cells.items())


def _log_cell(client: Any, experiment_id: str, cell: tuple[str, ...], rows: Sequence[Row]) -> bool:
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
    published = _start_of_year(source)
    run_id = client.create_run(experiment_id, start_time=published, tags=tags, run_name=name).info.run_id
    params = {"dataset": dataset, "protocol": protocol, "detector": detector, "variant": variant or "none"}
    log(client, run_id, params=params, points=[(metric, value, 0) for metric, value in metrics.items()])
    client.set_terminated(run_id, "FINISHED", end_time=published)
    return True


def _start_of_year(source: str) -> int:
    """Return when a source such as ``DN2 2020`` came out, in milliseconds since 1970: the page charts the newest runs, ours."""
    return int(datetime(int(source[-4:]), 1, 1, tzinfo=UTC).timestamp() * 1000)
