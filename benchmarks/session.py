"""From cells to logged results: what is finished is looked up, what was broken off continues, what fails stands alone."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from benchmarks.cells import Cells
from benchmarks.contracts import (
    Cell,
    Dataset,
    Experiment,
    MissingDataError,
    OutsideError,
    Progress,
    Result,
    UsageError,
    Workspace,
)
from benchmarks.datasets import load_dataset
from benchmarks.detectors import DETECTORS, same_fit
from benchmarks.experiments import check, resolve
from benchmarks.inputs import Rows, load_input
from benchmarks.metrics import mean_rocauc
from benchmarks.protocols import make_splits
from benchmarks.provenance import provenance
from benchmarks.report import result_table, result_tables
from benchmarks.run import run
from benchmarks.tracking import Tracker, TrackingError

Say = Callable[[str], None]
KNOWN = (UsageError, MissingDataError, OutsideError)
"""Errors that say all there is to say."""


@dataclass(frozen=True)
class Outcome:
    """What came of a session.

    Attributes
    ----------
    cells : list of Cell
        Finished, in the order they were asked for; ``run_id`` is empty where the tracking server could not be told.
    failures : dict
        What a cell is called -> why it failed.
    summary_run_id, experiment_id : str
        Where the MLflow page shows it.
    tracking_error : TrackingError or None
        Why not everything is logged: the results are on disk, and the same command logs them.
    """

    cells: list[Cell]
    failures: dict[str, Exception]
    summary_run_id: str
    experiment_id: str
    tracking_error: TrackingError | None


def run_session(
    experiments: Sequence[Experiment],
    workspace: Workspace,
    tracker: Tracker,
    *,
    suite: str = "",
    force: bool = False,
    progress: Progress | None = None,
    say: Say = lambda _: None,
) -> Outcome:
    """Run cells and log them.

    Everything that can be checked is checked before anything is computed or logged. Cells that share data set and input are run
    together, and the features are computed at most once.

    Parameters
    ----------
    experiments : sequence of Experiment
        As `make_experiments` gives them.
    workspace : Workspace
    tracker : Tracker
    suite : str
        A name that ties the runs together.
    force : bool
        Compute again, in new runs, what is finished.
    progress : callable, optional
    say : callable
        Told in a line what a reader of a log wants to know: that another process is waited for, that a cell failed.

    Raises
    ------
    UsageError, MissingDataError, MissingWeightsError
        Before any work.
    TrackingError
        If the store cannot be reached at the start.
    """
    datasets = {name: load_dataset(name, home=workspace.home, root=workspace.root) for name in {e.dataset for e in experiments}}
    cells = [resolve(experiment, datasets[experiment.dataset], workspace) for experiment in experiments]
    for cell in cells:
        check(cell, datasets[cell.dataset])
    tracker.connect()
    tracker.mark_dead()
    session = _Session(workspace, tracker, suite, force, progress, say, provenance())
    summary_run_id = tracker.start_summary(suite, session.provenance)
    try:
        for group in _share_input(cells):
            session.run_group(group, datasets[group[0].dataset])
        session.log_pending()
    except BaseException as error:
        status, reason = "FAILED" if isinstance(error, Exception) else "KILLED", str(error)
        broken_off = [run_id for key, run_id in session.run_ids.items() if key not in session.finished]
        for run_id in (summary_run_id, *broken_off):
            session.try_to_log(partial(tracker.end, run_id, status, reason))
        raise
    finished = [session.finished[cell.key] for cell in cells if cell.key in session.finished]
    session.try_to_log(lambda: _finish_summary(tracker, summary_run_id, finished, bool(session.failures)))
    return Outcome(finished, session.failures, summary_run_id, tracker.experiment_id, session.tracking_error)


def _share_input(cells: Sequence[Experiment]) -> list[list[Experiment]]:
    """Group cells by data set, input and normalisation, in order of first appearance."""
    groups: dict[tuple[str, str, str], list[Experiment]] = {}
    for cell in cells:
        groups.setdefault((cell.dataset, cell.input, cell.normalize), []).append(cell)
    return list(groups.values())


@dataclass
class _Session:
    """One invocation: what every step needs, and what has come out so far."""

    workspace: Workspace
    tracker: Tracker
    suite: str
    force: bool
    progress: Progress | None
    say: Say
    provenance: Mapping[str, Any]
    finished: dict[str, Cell] = field(default_factory=dict)
    failures: dict[str, Exception] = field(default_factory=dict)
    pending: list[tuple[Cell, Dataset, dict[str, float]]] = field(default_factory=list)
    run_ids: dict[str, str] = field(default_factory=dict)
    tracking_error: TrackingError | None = None

    def __post_init__(self) -> None:
        self.disk = Cells(self.workspace.home)

    def run_group(self, cells: Sequence[Experiment], dataset: Dataset) -> None:
        """Run cells that share an input; one that another process is at is waited for and then looked up."""
        todo = [cell for cell in cells if not self._look_up(cell)]
        with self.disk.lock(todo, lambda folder: self.say(f"waiting for another process that runs the cell {folder.name}")):
            todo = [cell for cell in todo if not self._look_up(cell)]
            X: Rows | None = None
            for path in same_fit(todo):
                try:
                    X = self._run_path(path, dataset, X)
                except Exception as error:
                    self._fail(path, error)

    def _look_up(self, cell: Experiment) -> bool:
        """Take a finished cell from the tracking store, if it is there."""
        if self.force or self.tracking_error:
            return False
        run_id = self.tracker.find_finished(cell.key)
        if run_id is not None:
            self.finished[cell.key] = self.tracker.read_cell(cell, run_id)
        return run_id is not None

    def _run_path(self, path: list[Experiment], dataset: Dataset, X: Rows | None) -> Rows | None:
        """Run the cells that one fit serves, each split of which is on disk before the next begins; return the input."""
        names = [split.name for split in make_splits(path[-1], dataset)]
        results: dict[str, dict[str, Result]] = {}
        for cell in path:
            if self.force:
                self.disk.discard(cell)
            results[cell.key] = self.disk.load(cell)
            self.try_to_log(partial(self._start, cell, dataset))
        done = {(key, name) for key, of_cell in results.items() for name in of_cell}
        if not done.issuperset((cell.key, name) for cell in path for name in names):
            if X is None:
                X = load_input(dataset, path[0].input, path[0].normalize, self.workspace, self.progress)
            for result in run(path, dataset, X, provenance=self.provenance, done=done, progress=self.progress):
                self.disk.save(result)
                results[result.experiment.key][result.split] = result
        for cell in path:
            self._finish(cell, [results[cell.key][name] for name in names], dataset, X)
        return X

    def _start(self, cell: Experiment, dataset: Dataset) -> None:
        self.run_ids[cell.key] = self.tracker.start_cell(
            cell,
            suite=self.suite,
            fingerprint=dataset.fingerprint,
            provenance=self.provenance,
            selection=DETECTORS[cell.detector].selection,
            fresh=self.force,
        )

    def _finish(self, cell: Experiment, results: list[Result], dataset: Dataset, X: Rows | None) -> None:
        """Log a cell of which every split is there, or put it by until the server answers."""
        mean = None
        if len({result.x for result in results}) == 1:
            mean = mean_rocauc([(result.rows, result.is_anomaly, result.scores) for result in results])
        finished = Cell(cell, self.run_ids.get(cell.key, ""), DETECTORS[cell.detector].selection, tuple(results), mean)
        extra = {"memory/peak_mb": _peak_megabytes()}
        if X is not None and X.images_per_second:
            extra["throughput/images_per_second"] = X.images_per_second
        self.finished[cell.key] = finished
        self.pending.append((finished, dataset, extra))
        self.log_pending()

    def log_pending(self) -> None:
        """Log what is finished and not yet logged; called again at the end, a server may have come back."""
        for finished, dataset, extra in list(self.pending):
            if self.try_to_log(partial(self._log, finished, dataset, extra)):
                self.pending.remove((finished, dataset, extra))
                self.disk.discard(finished.experiment)

    def _log(self, finished: Cell, dataset: Dataset, extra: Mapping[str, float]) -> None:
        key = finished.experiment.key
        if key not in self.run_ids:
            self._start(finished.experiment, dataset)
        logged = Cell(finished.experiment, self.run_ids[key], finished.selection, finished.results, finished.mean)
        labels = np.asarray(dataset.class_names)[dataset.labels]
        self.tracker.finish_cell(
            logged.run_id,
            logged.results,
            labels=labels,
            mean=logged.mean,
            selection=logged.selection,
            metrics=extra,
            figures={"rocauc.png": result_table([logged]).figure()},
        )
        self.finished[key] = logged

    def try_to_log(self, logging: Callable[[], None]) -> bool:
        """Tell the server; if it does not answer, remember why and go on: what is computed is on disk."""
        try:
            logging()
        except TrackingError as error:
            if self.tracking_error is None:
                self.say(f"not logged for now: {error}")
            self.tracking_error = error
            return False
        return True

    def _fail(self, path: Iterable[Experiment], error: Exception) -> None:
        """End the runs of cells that failed; the others go on."""
        reason = str(error) if isinstance(error, KNOWN) else f"{type(error).__name__}: {error}"
        for cell in path:
            if cell.key in self.finished:
                continue
            name = " ".join(f"{key}={value}" for key, value in cell.params.items())
            self.failures[name] = error
            self.say(f"failed: {name}: {reason}")
            if cell.key in self.run_ids:
                self.try_to_log(partial(self.tracker.end, self.run_ids[cell.key], "FAILED", reason))


def _finish_summary(tracker: Tracker, run_id: str, cells: Sequence[Cell], failed: bool) -> None:
    """Log the tables of this invocation, one a data set and protocol, and end its summary run."""
    texts, figures = {}, {}
    for name, of_table in result_tables(cells).items():
        texts[f"{name}.csv"] = of_table.to_csv()
        figures[f"{name}.png"] = of_table.figure()
    tracker.finish_summary(run_id, texts=texts, figures=figures, status="FAILED" if failed else "FINISHED")


def _peak_megabytes() -> float:
    """The most memory this process has held, in MB; macOS counts in bytes, Linux in kB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
