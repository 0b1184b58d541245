"""The runs in MLflow: one a cell, one summary an invocation, and one a published result.

`Tracker` has all requests, in the order of an invocation: connect, look up what is finished, log
each cell, log the summary. The published results come last, as functions of their own.

Runs are never nested, since the page charts only top-level ones. Nothing is set globally in
MLflow. A request that is repeated changes nothing.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.contracts import Cell, Experiment, Interval, Result
from benchmarks.result_store import (
    NeighbourRows,
    ResultStore,
    SplitScores,
    read_finished,
    read_neighbours,
    read_record,
    read_scores,
    write_figures,
)
from benchmarks.tracking.connection import (
    TrackingError,
    check_store,
    errors_in_one_line,
    experiment_of_run,
    find_experiment,
    find_store,
    import_mlflow,
    is_dead,
    is_ours,
    owner_tags,
    settle_store,
    wait_until_free,
    without_password,
)
from benchmarks.tracking.records import (
    MetricPoint,
    cell_record,
    code_tags,
    dataset_input,
    log,
    measured_tags,
    metric_points,
    page_params,
    whole,
)
from benchmarks.tracking.views import (
    LONGEST,
    LONGEST_OF_RUN,
    NOTE,
    View,
    describe,
    equals,
    may_describe,
    names_of_views,
    view_tags,
)

VIEW = "view"
"""The tag of a summary run that names the view of its results."""

RATE = "throughput/images_per_second"

if TYPE_CHECKING:
    from benchmarks.tracking.finding import StoredRun

MEASURED = "tags.source = 'measured'"
"""What MLflow searches for to find our own runs, not the published ones."""


class Tracker:
    """A tracking store, and the experiment in it that the runs go to.

    Parameters
    ----------
    uri : str, optional
        By default ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the working directory. `connect`
        or the first request opens it.
    say : callable, optional
        Called with a line when another process has locked the store, which is then waited for.

    Notes
    -----
    Every method raises `TrackingError` if the store cannot be reached or refuses.
    """

    def __init__(self, uri: str | None = None, say: Callable[[str], None] = lambda _: None) -> None:
        self.uri = uri
        self.say = say
        self._client: Any = None
        self._experiment_id = ""
        self._address = ""

    def connect(self) -> Tracker:
        """Reach the store within seconds, and make its schema and the experiment.

        Do this before any work. If ``mlflow run`` started this process, the experiment is that
        run's, otherwise the one of `find_experiment`.

        Raises
        ------
        UsageError
            If the store is a folder of files.
        TrackingError
            If it cannot be reached.
        """
        if self._client is not None:
            return self
        self._address = find_store(self.uri)
        mlflow = import_mlflow()
        given = os.environ.get("MLFLOW_RUN_ID")
        with errors_in_one_line(self._address, "start"):
            wait_until_free(self._address, self.say)
            check_store(self._address)
            client = mlflow.MlflowClient(tracking_uri=self._address)
            if given:
                self._experiment_id = experiment_of_run(client, given)
            else:
                self._experiment_id = find_experiment(client)
                settle_store(self._address)  # the files of a new experiment go beside the database
            self._client = client
        return self

    def answers(self) -> bool:
        """Tell within seconds whether the store answers, after it did not."""
        try:
            check_store(self._address)
        except Exception:  # of a database, whatever its driver raises
            return False
        return True

    @property
    def address(self) -> str:
        """The store's address, without its password."""
        return without_password(self.connect()._address)

    @property
    def experiment_id(self) -> str:
        """MLflow's id of the experiment that the runs go to."""
        return self.connect()._experiment_id

    def newest_view(self) -> tuple[str, str]:
        """Return the experiment with the newest summary run, and the key of that run's view.

        That is what to look at. Without a summary run, it is the tracker's own experiment. The key
        is empty if there is no such view.
        """
        with self._asking("look for the newest runs") as client:
            found = self._newest_summary(client)
            if found is None:
                return self._experiment_id, ""
            experiment = client.get_experiment(found.info.experiment_id)
            key = found.data.tags.get(VIEW, "")
            known = key in names_of_views(experiment.tags)
            return experiment.experiment_id, key if known else ""

    def find_finished(self, key: str) -> str | None:
        """Return the newest finished run of the cell with this key, or None."""
        with self._asking(f"look for cell {key}") as client:
            where = f"tags.key = '{key}' and {MEASURED} and attributes.status = 'FINISHED'"
            found = client.search_runs(
                [self._experiment_id], where, max_results=1, order_by=["attributes.start_time DESC"]
            )
            return found[0].info.run_id if found else None

    def mark_dead(self) -> list[str]:
        """Mark as KILLED the runs that dead processes of this host left, and return their ids.

        It looks in all experiments.
        """
        with self._asking("look for runs left behind") as client:
            host = owner_tags()["host"]
            where = f"attributes.status = 'RUNNING' and {MEASURED} and tags.host = '{host}'"
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
        name: str = "",
        selection: str = "none",
        fresh: bool = False,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Open the cell's run, log what the cell is, and return the run's id.

        If the cell was broken off, that is the run in which it was.

        Parameters
        ----------
        experiment : Experiment
        suite : str
        fingerprint : str
            Of the data set.
        provenance : mapping
            With ``commit`` and ``dirty``.
        name : str
            What the page calls the run; see `records.run_name`.
        selection : {'none', 'oracle', 'validation'}
        fresh : bool, default=False
            Open a new run in any case (``--force``).
        tags : mapping, optional
            Further tags. They replace others of the same name.
        """
        with self._asking(f"open a run for cell {experiment.key}") as client:
            tags = {
                "selection": selection,
                "input": experiment.input,
                **measured_tags("cell", suite, provenance),
                "key": experiment.key,
                **(tags or {}),
            }
            params = page_params(experiment)
            unfinished = None if fresh else self._find_unfinished(client, experiment.key)
            if unfinished is None:
                run_id = client.create_run(
                    self._experiment_id, tags=tags, run_name=name or experiment.called
                ).info.run_id
            else:
                run_id = unfinished.info.run_id
                client.update_run(run_id, status="RUNNING")
                # An earlier version may have spelled them otherwise, and MLflow refuses changes.
                for known in unfinished.data.params:
                    params.pop(known, None)
            log(client, run_id, tags=tags, params=params)
            client.log_inputs(run_id, datasets=[dataset_input(experiment, fingerprint)])
            return run_id

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Put tags on a run."""
        with self._asking(f"tag run {run_id}") as client:
            log(client, run_id, tags=tags)

    def log_points(self, run_id: str, points: Sequence[MetricPoint]) -> None:
        """Log metrics besides those of the results, such as the loss of each epoch."""
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
        files: Sequence[Path] | None = None,
    ) -> dict[str, Any]:
        """Log a cell's results, end its run as FINISHED, and return the cell's record.

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
        files : sequence of n Path, optional
            The file of each of the data set's images.

        Returns
        -------
        dict
            The record with the run's id, as ``run --json`` prints it.

        Raises
        ------
        ValueError
            If a metric is NaN or infinite, or a curve's value has no step of its own.
        ResultStoreError
            If the cell's files cannot be written.
        """
        points = metric_points(results, mean, metrics, curve_step)
        record = {"run_id": run_id, **cell_record(results, mean, selection)}
        folder = disk.write_finished(results, record, labels, figures, files)
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
        """Read a finished cell back from the files that `finish_cell` logged.

        Raises
        ------
        TrackingError
            If a file is missing, damaged or of another cell.
        """
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

    def find_runs(self, asked: str) -> list[StoredRun]:
        """Find the finished runs that a user names: see `benchmarks.tracking.finding`.

        Raises
        ------
        UsageError
            If there is none.
        """
        from benchmarks.tracking.finding import find_runs

        with self._asking(f"look for run {asked}") as client:
            return find_runs(client, asked)

    def all_cells(self) -> tuple[list[StoredRun], list[StoredRun]]:
        """Find all finished cells, and the runs of cells that have not finished.

        See `benchmarks.tracking.finding.all_cells`.
        """
        from benchmarks.tracking.finding import all_cells

        with self._asking("list the runs") as client:
            return all_cells(client)

    def read_record(self, run: StoredRun) -> dict[str, Any]:
        """Read the record of a finished run, directly if it is on this machine.

        Raises
        ------
        TrackingError
            If the file is missing or damaged.
        """
        with self._files(run, "results", "results.json") as folder:
            return read_record(folder)

    def read_neighbours(self, run: StoredRun) -> tuple[NeighbourRows, ...]:
        """Read which training rows are nearest to the test rows of a finished run.

        Splits without neighbours, and those of groups, are left out.

        Raises
        ------
        TrackingError
            If a file is missing or damaged.
        """
        with self._files(run, "scores", "results.json", "scores.parquet") as folder:
            return read_neighbours(folder)

    @contextmanager
    def _files(self, run: StoredRun, what: str, *names: str) -> Iterator[Path]:
        """Yield a folder with files of a run; what is wrong with them is a `TrackingError`."""
        with (
            self._asking(f"read the {what} of run {run.run_id}") as client,
            tempfile.TemporaryDirectory() as folder,
        ):
            if run.folder is None:
                for name in names:
                    client.download_artifacts(run.run_id, name, folder)
            try:
                yield run.folder or Path(folder)
            except (OSError, ValueError, KeyError, TypeError, LookupError) as error:
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                raise TrackingError(
                    f"the {what} of run '{run.name}' ({run.run_id}) cannot be read ({reason}): "
                    "delete that run and compute it again"
                ) from error

    def attach_report(self, files: Mapping[str, Path]) -> str | None:
        """Log a report with the newest summary run, or with the run that ``mlflow run`` opened.

        Parameters
        ----------
        files : mapping
            Place below the artifact folder ``report`` -> file.

        Returns
        -------
        str or None
            The run's id; None if there is no summary run.
        """
        _, view = self.newest_view() if os.environ.get("MLFLOW_RUN_ID") else ("", "")
        with self._asking("log the report") as client:
            opened = os.environ.get("MLFLOW_RUN_ID")
            newest = None if opened else self._newest_summary(client)
            run_id = opened or (newest and newest.info.run_id)
            if run_id is None:
                return None
            for place, path in files.items():
                folder = str(Path("report", place).parent)
                client.log_artifact(run_id, str(path), folder)
            if opened:
                # It is the newest summary from now on, and `ui` opens the view that it names.
                tags = {"kind": "summary", "source": "measured", "suite": "none", VIEW: view}
                log(client, run_id, tags=tags)
                client.set_terminated(run_id, "FINISHED")
            return str(run_id)

    def _newest_summary(self, client: Any) -> Any:
        """Find the newest summary run; None if there is none."""
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        newest = {"max_results": 1, "order_by": ["attributes.start_time DESC"]}
        found = client.search_runs(experiments, "tags.kind = 'summary'", **newest)
        return found[0] if found else None

    def read_scores(self, run: StoredRun) -> tuple[dict[str, Any], tuple[SplitScores, ...]]:
        """Read the record and the scores of a finished run, directly if they are on this machine.

        Raises
        ------
        TrackingError
            If a file is missing or damaged.
        """
        with self._files(run, "scores", "results.json", "scores.parquet") as folder:
            return read_scores(folder)

    def newest_metrics(self, experiment: Experiment) -> dict[str, float]:
        """Return the metrics of the newest finished run of the same kind, or nothing.

        It has the same data, detector, preset and input.
        """
        names = ["protocol", "detector", "variant", "classes", "partition"]
        if experiment.preset != "none":
            names.append("preset")
        return self._newest_metrics(experiment, names)

    def newest_rate(self, experiment: Experiment) -> float | None:
        """Return how many images a second the newest run of the same data and input encoded.

        Most runs find their features stored, so that is another run than the newest one.
        """
        encoded = f"metrics.`{RATE}` > 0"
        return self._newest_metrics(experiment, [], encoded).get(RATE)

    def _newest_metrics(
        self, experiment: Experiment, names: Sequence[str], condition: str = ""
    ) -> dict[str, float]:
        """Return the metrics of the newest finished run of these data, this input and params."""
        with self._asking("look for earlier runs") as client:
            conditions = [
                equals("tags.input", experiment.input),
                *(
                    equals(f"params.{name}", str(experiment.params[name]))
                    for name in ("dataset", *names)
                ),
                condition,
                MEASURED,
                "attributes.status = 'FINISHED'",
            ]
            found = client.search_runs(
                [self._experiment_id],
                " and ".join(filter(None, conditions)),
                max_results=1,
                order_by=["attributes.start_time DESC"],
            )
            return dict(found[0].data.metrics) if found else {}

    def start_summary(self, suite: str, provenance: Mapping[str, Any]) -> str:
        """Open this invocation's summary run, and return its id.

        If ``mlflow run`` opened a run, it is that one. It gets tags and no params: the parameters
        of MLproject are on it already, as text, and MLflow refuses another spelling.
        """
        with self._asking("open the summary run") as client:
            tags = measured_tags("summary", suite, provenance)
            run_id = os.environ.get("MLFLOW_RUN_ID")
            name = f"summary {suite}".strip()
            if not run_id:
                return client.create_run(self._experiment_id, tags=tags, run_name=name).info.run_id
            # `mlflow run` has said who started it, and what.
            ours = {tag: text for tag, text in tags.items() if not tag.startswith("mlflow.")}
            # The name replaces the one that MLflow made up.
            log(client, run_id, tags={**ours, "mlflow.runName": name})
            return run_id

    def finish_summary(
        self,
        run_id: str,
        *,
        texts: Mapping[str, str],
        figures: Mapping[str, Any] | None = None,
        points: Iterable[MetricPoint] = (),
        status: str = "FINISHED",
    ) -> None:
        """Log an invocation's tables, figures and curves, and end its run.

        Parameters
        ----------
        run_id : str
        texts : mapping
            Name of a file -> its text: ``{"table.csv": ...}``.
        figures : mapping of file name to matplotlib figure, optional
        points : iterable of (name, value, step)
        status : {'FINISHED', 'FAILED'}
        """
        with self._asking("log the summary") as client, tempfile.TemporaryDirectory() as folder:
            for name, text in texts.items():
                Path(folder, name).write_text(text)
            write_figures(Path(folder), figures)
            client.log_artifacts(run_id, folder)
            log(client, run_id, points=points)
            client.set_terminated(run_id, status)

    def save_views(self, views: Sequence[View], *, replace: bool = True) -> tuple[View, ...]:
        """Store views of the page, and return those that the experiment has now.

        Parameters
        ----------
        views : sequence of View
        replace : bool, default=True
            Write those that have changed. Otherwise, only those that are missing.
        """
        with self._asking("save the views of the MLflow page") as client:
            tags = dict(client.get_experiment(self._experiment_id).tags)
            for name, text in view_tags(views, tags, int(time.time() * 1000)).items():
                if replace or name not in tags:
                    client.set_experiment_tag(self._experiment_id, name, text)
                    tags[name] = text
            known = names_of_views(tags)
            return tuple(view for view in views if view.key in known)

    def describe(self, run_id: str, title: str, text: str, views: Sequence[View]) -> None:
        """Write the description of a summary run, and that of the experiment.

        The experiment's links lead to all its views, those of this invocation first. A description
        that we did not write stays.

        Parameters
        ----------
        run_id : str
        title, text : str
        views : sequence of View
            That the experiment has.
        """
        with self._asking("write the description") as client:
            tags = client.get_experiment(self._experiment_id).tags
            own = {view.key: view.name for view in views}
            every = {**own, **dict(sorted(names_of_views(tags).items(), key=lambda one: one[1]))}
            of_run = describe(title, text, own, self._experiment_id, LONGEST_OF_RUN)
            log(client, run_id, tags={NOTE: of_run, VIEW: views[0].key if views else ""})
            note = describe(title, text, every, self._experiment_id, LONGEST)
            if may_describe(tags.get(NOTE, "")) and note != tags.get(NOTE):
                client.set_experiment_tag(self._experiment_id, NOTE, note)

    def end(self, run_id: str, status: str, error: str = "") -> None:
        """End a run that has no results: FAILED, with the error as a tag, or KILLED."""
        with self._asking(f"end run {run_id}") as client:
            if error:
                client.set_tag(run_id, "error", error[:2000])
            client.set_terminated(run_id, status)

    def log_published(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Log published numbers as runs, with the tag source = paper.

        There is one run for each source, data set, protocol, detector and variant.

        Parameters
        ----------
        rows : iterable of mappings
            The lines of ``published.csv``.

        Returns
        -------
        int
            How many runs were made. A run that is there already is kept if its numbers are the
            same, and replaced if they have changed.
        """
        with self._asking("log the published numbers") as client:
            return log_published(client, self._experiment_id, rows)

    def _find_unfinished(self, client: Any, key: str) -> Any:
        """Return the run of this host in which a cell was broken off, or None.

        A run that another living process has open is left alone.
        """
        where = f"tags.key = '{key}' and {MEASURED} and tags.host = '{owner_tags()['host']}'"
        for run in client.search_runs(
            [self._experiment_id], where, order_by=["attributes.start_time DESC"]
        ):
            left_running = run.info.status == "RUNNING" and (
                is_dead(run.data.tags) or is_ours(run.data.tags)
            )
            if run.info.status == "KILLED" or left_running:
                return run
        return None

    @contextmanager
    def _asking(self, doing: str) -> Iterator[Any]:
        """Yield MLflow's client, and turn its errors into a `TrackingError`."""
        self.connect()
        with errors_in_one_line(self._address, doing):
            wait_until_free(self._address, self.say)
            yield self._client


CELL = ("source", "dataset", "protocol", "detector", "variant")
"""The columns of ``published.csv`` that name a run. Its lines are the classes and the mean."""

NEWEST = int(datetime(2020, 1, 1, tzinfo=UTC).timestamp() * 1000)
"""The date of the first published run, in milliseconds since 1970; each next one is 1 s older.

The page charts the ten newest runs. So our own come first, then the published ones of DN2, then
those of the baselines.
"""


def log_published(client: Any, experiment_id: str, rows: Iterable[Mapping[str, Any]]) -> int:
    """Log each published cell that is missing or has other numbers, and return how many."""
    cells: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        cells.setdefault(tuple(row[name] or "" for name in CELL), []).append(row)
    in_order = sorted(cells, key=lambda cell: cell[CELL.index("detector")] != "dn2")
    logged = [
        _log_cell(client, experiment_id, cell, cells[cell], NEWEST - 1000 * rank)
        for rank, cell in enumerate(in_order)
    ]
    return sum(logged)


def _log_cell(
    client: Any,
    experiment_id: str,
    cell: tuple[str, ...],
    rows: Sequence[Mapping[str, Any]],
    started: int,
) -> bool:
    """Log the lines of one published cell, and return whether that was necessary."""
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
