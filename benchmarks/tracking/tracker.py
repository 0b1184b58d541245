"""MLflow's runs: one top-level run a cell, one summary run an invocation, and the published numbers as runs.

Runs are never nested, since the page charts only top-level ones. Nothing is set globally in MLflow. A request that is repeated
changes nothing.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contracts import Cell, Experiment, Interval, Result
from benchmarks.result_store import ResultStore, read_finished, write_figures
from benchmarks.tracking.connection import (
    TrackingError,
    check_store,
    find_experiment,
    find_store,
    import_mlflow,
    is_dead,
    is_ours,
    owner_tags,
    told_in_one_line,
    without_password,
)
from benchmarks.tracking.records import (
    Point,
    cell_record,
    code_tags,
    dataset_input,
    log,
    measured_tags,
    metric_points,
    run_name,
    whole,
)


class Tracker:
    """One tracking store, and in it the experiment that the runs go to.

    Parameters
    ----------
    uri : str, optional
        Default: ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the working directory. `connect`, or the first request, opens
        it.

    Notes
    -----
    Every method raises `TrackingError` if the store cannot be reached or refuses.
    """

    def __init__(self, uri: str | None = None) -> None:
        self.uri = uri
        self._client: Any = None
        self._experiment_id = ""
        self._address = ""

    def connect(self) -> Tracker:
        """Reach the store, make its schema and the experiment, within seconds; do this before any work.

        If ``mlflow run`` started this process, the experiment is that run's, otherwise ``dn2-bench``.

        Raises
        ------
        UsageError
            If the store is a folder of files.
        TrackingError
        """
        if self._client is not None:
            return self
        self._address = find_store(self.uri)
        mlflow = import_mlflow()
        given = os.environ.get("MLFLOW_RUN_ID")
        with told_in_one_line(
            self._address, f"find the run MLFLOW_RUN_ID={given}" if given else "start"
        ):
            check_store(self._address)
            client = mlflow.MlflowClient(tracking_uri=self._address)
            self._experiment_id = (
                client.get_run(given).info.experiment_id if given else find_experiment(client)
            )
            self._client = client
        return self

    @property
    def address(self) -> str:
        """The store's address, as it can be shown."""
        return without_password(self.connect()._address)

    @property
    def experiment_id(self) -> str:
        """MLflow's id of the experiment that the runs go to."""
        return self.connect()._experiment_id

    def newest_experiment(self) -> str:
        """Return the id of the experiment with the newest summary run: the one to look at; without any, the tracker's own."""
        with self._asking("look for the newest runs") as client:
            experiments = [experiment.experiment_id for experiment in client.search_experiments()]
            newest = {"max_results": 1, "order_by": ["attributes.start_time DESC"]}
            found = client.search_runs(experiments, "tags.kind = 'summary'", **newest)
            return found[0].info.experiment_id if found else self._experiment_id

    def find_finished(self, key: str) -> str | None:
        """Return the newest finished run of the cell with this key, or None."""
        with self._asking(f"look for cell {key}") as client:
            where = f"tags.key = '{key}' and tags.source = 'measured' and attributes.status = 'FINISHED'"
            found = client.search_runs(
                [self._experiment_id], where, max_results=1, order_by=["attributes.start_time DESC"]
            )
            return found[0].info.run_id if found else None

    def mark_dead(self) -> list[str]:
        """Mark as KILLED the runs that a killed process of this host left behind, in all experiments; return their ids."""
        with self._asking("look for runs left behind") as client:
            host = owner_tags()["host"]
            where = f"attributes.status = 'RUNNING' and tags.source = 'measured' and tags.host = '{host}'"
            experiments = [experiment.experiment_id for experiment in client.search_experiments()]
            dead = [
                run.info.run_id
                for run in client.search_runs(experiments, where, max_results=1000)
                if is_dead(run.data.tags)
            ]
            for run_id in dead:
                client.set_terminated(run_id, "KILLED")
            return dead

    def start_cell(
        self,
        experiment: Experiment,
        *,
        suite: str,
        fingerprint: str,
        provenance: Mapping[str, Any],
        selection: str = "none",
        fresh: bool = False,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Open the cell's run, the one that was killed if there is one, and log what it is; return its id.

        Parameters
        ----------
        experiment : Experiment
        suite : str
        fingerprint : str
            The data set's.
        provenance : mapping
            With ``commit`` and ``dirty``.
        selection : {'none', 'oracle', 'validation'}
        fresh : bool, default=False
            Open a new run in any case (``--force``).
        tags : mapping, optional; further ones, or others in their place
        """
        with self._asking(f"open a run for cell {experiment.key}") as client:
            tags = {
                "key": experiment.key,
                "selection": selection,
                **measured_tags("cell", suite, provenance),
                **(tags or {}),
            }
            run_id = None if fresh else self._find_unfinished(client, experiment.key)
            if run_id is None:
                run_id = client.create_run(
                    self._experiment_id, tags=tags, run_name=run_name(experiment)
                ).info.run_id
            else:
                client.update_run(run_id, status="RUNNING")
            log(client, run_id, tags=tags, params=experiment.params)
            client.log_inputs(run_id, datasets=[dataset_input(experiment, fingerprint)])
            return run_id

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Put tags on a run."""
        with self._asking(f"tag run {run_id}") as client:
            log(client, run_id, tags=tags)

    def log_points(self, run_id: str, points: Sequence[Point]) -> None:
        """Log metrics besides those of the results, such as the loss of each epoch, as (name, value, step)."""
        with self._asking(f"log metrics of run {run_id}") as client:
            log(client, run_id, points=points)

    def finish_cell(
        self,
        run_id: str,
        results: Sequence[Result],
        *,
        disk: ResultStore,
        labels: np.ndarray,
        mean: Interval | None = None,
        selection: str = "none",
        metrics: Mapping[str, float] | None = None,
        curve_step: Callable[[float], int] = whole,
        figures: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Log a cell's results and end its run as FINISHED; return its record, as ``run --json`` prints it.

        Parameters
        ----------
        run_id : str
        results : sequence of Result
            All splits of the cell.
        disk : ResultStore
            Where the cell's files are written, from which they are logged.
        labels : ndarray of shape (n,), str
            The class of each of the data set's rows.
        mean : Interval, optional
            ROCAUC over the splits, with its bounds.
        selection, metrics, curve_step
            As in `cell_record` and `metric_points`.
        figures : mapping of file name to matplotlib figure, optional

        Raises
        ------
        ValueError
            If a metric is NaN or infinite, or a curve's value has no step of its own.
        ResultStoreError
            If the cell's files cannot be written.
        """
        points = metric_points(results, mean, metrics, curve_step)
        record = {"run_id": run_id, **cell_record(results, mean, selection)}
        folder = disk.write_finished(results, record, labels, figures)
        with self._asking(f"log the results of cell {record['key']}") as client:
            client.log_artifacts(run_id, str(folder))
            log(
                client,
                run_id,
                tags=code_tags([result.provenance for result in results]),
                points=points,
            )
            client.set_terminated(run_id, "FINISHED")
        return record

    def read_cell(self, experiment: Experiment, run_id: str) -> Cell:
        """Read a finished cell back from the files that `finish_cell` logged."""
        with (
            self._asking(f"read the results of run {run_id}") as client,
            tempfile.TemporaryDirectory() as folder,
        ):
            for name in ("results.json", "scores.parquet"):
                client.download_artifacts(run_id, name, folder)
            try:
                record, results = read_finished(Path(folder), experiment)
            except (ValueError, KeyError, TypeError, LookupError) as error:
                raise TrackingError(
                    f"the files of run {run_id} are not what was logged ({error})"
                ) from error
        mean = None
        if record["rocauc_low"] is not None:
            mean = Interval(record["rocauc"], record["rocauc_low"], record["rocauc_high"])
        return Cell(experiment, run_id, record["selection"], results, mean)

    def newest_metrics(self, experiment: Experiment) -> dict[str, float]:
        """Return the metrics of the newest finished run of the same kind (data, detector, preset, input), or nothing."""
        with self._asking("look for earlier runs") as client:
            names = ["dataset", "protocol", "detector", "variant", "input", "classes", "partition"]
            if experiment.preset != "none":
                names.append("preset")
            values = {name: str(experiment.params[name]) for name in names}
            if any('"' in value for value in values.values()):
                return {}  # a filter has no way to say it
            same = " and ".join(f'params.{name} = "{value}"' for name, value in values.items())
            where = f"{same} and tags.source = 'measured' and attributes.status = 'FINISHED'"
            found = client.search_runs(
                [self._experiment_id], where, max_results=1, order_by=["attributes.start_time DESC"]
            )
            return dict(found[0].data.metrics) if found else {}

    def start_summary(self, suite: str, provenance: Mapping[str, Any]) -> str:
        """Open this invocation's summary run, which is the one that ``mlflow run`` opened, if it did; return its id.

        It gets tags and no params: those of MLproject are on it already, as text, and MLflow refuses another spelling.
        """
        with self._asking("open the summary run") as client:
            tags = measured_tags("summary", suite, provenance)
            run_id = os.environ.get("MLFLOW_RUN_ID")
            name = f"summary {suite}".strip()
            if not run_id:
                return client.create_run(self._experiment_id, tags=tags, run_name=name).info.run_id
            log(
                client, run_id, tags={**tags, "mlflow.runName": name}
            )  # in place of the one that MLflow made up
            return run_id

    def finish_summary(
        self,
        run_id: str,
        *,
        texts: Mapping[str, str],
        figures: Mapping[str, Any] | None = None,
        points: Iterable[Point] = (),
        status: str = "FINISHED",
    ) -> None:
        """Log the invocation's table (``{"table.csv": ...}``), figures and curves (name, value, step), and end its run."""
        with self._asking("log the summary") as client, tempfile.TemporaryDirectory() as folder:
            for name, text in texts.items():
                Path(folder, name).write_text(text)
            write_figures(Path(folder), figures)
            client.log_artifacts(run_id, folder)
            log(client, run_id, points=points)
            client.set_terminated(run_id, status)

    def end(self, run_id: str, status: str, error: str = "") -> None:
        """End a run that has no results: FAILED, with the error as a tag, or KILLED."""
        with self._asking(f"end run {run_id}") as client:
            if error:
                client.set_tag(run_id, "error", error[:2000])
            client.set_terminated(run_id, status)

    def log_published(self, rows: Iterable[Row]) -> int:
        """Log published numbers as runs (tag source = paper), one a source, data set, protocol, detector and variant.

        Parameters
        ----------
        rows : iterable of mappings
            The lines of ``published.csv``.

        Returns
        -------
        int
            How many runs were made. What is there already is left, and made anew if its numbers have changed.
        """
        with self._asking("log the published numbers") as client:
            return log_published(client, self._experiment_id, rows)

    def _find_unfinished(self, client: Any, key: str) -> str | None:
        """Return the run of this host in which this cell was broken off, unless a living process is at it."""
        where = f"tags.key = '{key}' and tags.source = 'measured' and tags.host = '{owner_tags()['host']}'"
        for run in client.search_runs(
            [self._experiment_id], where, order_by=["attributes.start_time DESC"]
        ):
            left_running = run.info.status == "RUNNING" and (
                is_dead(run.data.tags) or is_ours(run.data.tags)
            )
            if run.info.status == "KILLED" or left_running:
                return run.info.run_id
        return None

    @contextmanager
    def _asking(self, doing: str) -> Iterator[Any]:
        self.connect()
        with told_in_one_line(self._address, doing):
            yield self._client


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
    logged = [
        _log_cell(client, experiment_id, cell, cells[cell], NEWEST - 1000 * rank)
        for rank, cell in enumerate(in_order)
    ]
    return sum(logged)


def _log_cell(
    client: Any, experiment_id: str, cell: tuple[str, ...], rows: Sequence[Row], started: int
) -> bool:
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
    tags = {
        "key": key,
        "kind": "cell",
        "source": "paper",
        "suite": "paper",
        "selection": "none",
        "published": source,
    }
    tags |= {
        name: text
        for name in ("where", "note")
        if (text := "; ".join(dict.fromkeys(row[name] for row in rows if row[name])))
    }
    name = " ".join(filter(None, [source, detector, variant, dataset]))
    run_id = client.create_run(
        experiment_id, start_time=started, tags=tags, run_name=name
    ).info.run_id
    params = {
        "dataset": dataset,
        "protocol": protocol,
        "detector": detector,
        "variant": variant or "none",
    }
    log(
        client,
        run_id,
        params=params,
        points=[(metric, value, 0) for metric, value in metrics.items()],
    )
    client.set_terminated(run_id, "FINISHED", end_time=started)
    return True
