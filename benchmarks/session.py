"""From cells to logged results: what is finished is looked up, what was broken off continues, what fails stands alone."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    SplitError,
    UsageError,
    Workspace,
)
from benchmarks.datasets import load_dataset
from benchmarks.detectors import same_fit, selection_of
from benchmarks.experiments import check, resolve
from benchmarks.inputs import Input, input_identity, load_input
from benchmarks.ledger import DEFINITIONS, Ledger
from benchmarks.metrics import mean_rocauc
from benchmarks.protocols import make_splits
from benchmarks.provenance import provenance
from benchmarks.report import Table, result_tables
from benchmarks.run import run
from benchmarks.tracking import Tracker, TrackingError
from benchmarks.watch import TrainingWatch

Say = Callable[[str], None]
KNOWN = (UsageError, MissingDataError, OutsideError, SplitError)
"""Errors that say all there is to say."""


@dataclass(frozen=True)
class Outcome:
    """What came of a session.

    Attributes
    ----------
    cells : list of Cell
        Finished, in the order they were asked for; ``run_id`` is empty where the tracking server could not be told.
    tables : dict
        Those cells beside the published numbers, by what they have in common.
    failures : dict
        What a cell is called -> why it failed.
    summary_run_id, experiment_id : str
        Where the MLflow page shows it.
    tracking_error : TrackingError or None
        Why not everything is logged: the results are on disk, and the same command logs them.
    """

    cells: list[Cell]
    tables: dict[str, Table]
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
    datasets = {name: open_dataset(name, workspace, progress) for name in dict.fromkeys(e.dataset for e in experiments)}
    identities = {name: input_identity(name, workspace) for name in dict.fromkeys(e.input for e in experiments)}
    cells = [resolve(experiment, datasets[experiment.dataset], identities[experiment.input]) for experiment in experiments]
    for cell in cells:
        check(cell, datasets[cell.dataset])
    for dataset in datasets.values():
        if dataset.skipped:
            where = "skipped_images.txt of the summary run lists them"
            say(f"{dataset.name}: {len(dataset.skipped)} corrupt images are left out, {where}")
    tracker.connect()
    tracker.mark_dead()
    made_with, disk = provenance(), Cells(workspace.home)
    ledger = Ledger(tracker, disk, suite, force, made_with, say)
    session = _Session(workspace, ledger, disk, force, progress, say, made_with)
    try:
        for group in _share_input(cells):
            session.run_group(group, datasets[group[0].dataset])
        finished = [session.finished[cell.key] for cell in cells if cell.key in session.finished]
        tables = result_tables(finished, DEFINITIONS)
        skipped = [line for dataset in datasets.values() for line in dataset.skipped]
        summary_run_id = ledger.close(tables, skipped, bool(session.failures))
    except BaseException as error:
        ledger.break_off("FAILED" if isinstance(error, Exception) else "KILLED", str(error))
        raise
    logged = [replace(cell, run_id=ledger.run_ids.get(cell.experiment.key, cell.run_id)) for cell in finished]
    return Outcome(logged, tables, session.failures, summary_run_id, tracker.experiment_id, ledger.error)


def open_dataset(name: str, workspace: Workspace, progress: Progress | None = None) -> Dataset:
    """Open a data set where and how the workspace says."""
    return load_dataset(name, home=workspace.home, root=workspace.root, skip_corrupt=workspace.skip_corrupt, progress=progress)


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
    ledger: Ledger
    disk: Cells
    force: bool
    progress: Progress | None
    say: Say
    provenance: Mapping[str, Any]
    finished: dict[str, Cell] = field(default_factory=dict)
    failures: dict[str, Exception] = field(default_factory=dict)

    def run_group(self, cells: Sequence[Experiment], dataset: Dataset) -> None:
        """Run cells that share an input; one that another process is at is waited for and then looked up."""
        todo = [cell for cell in cells if not self._look_up(cell)]
        with self.disk.lock(todo, lambda folder: self.say(f"waiting for another process that runs the cell {folder.name}")):
            todo = [cell for cell in todo if not self._look_up(cell)]
            X: Input | None = None
            for path in same_fit(todo):
                try:
                    X = self._run_path(path, dataset, X)
                except Exception as error:
                    self._fail(path, error)

    def _look_up(self, cell: Experiment) -> bool:
        """Take a finished cell from the tracking store, if it is there."""
        found = self.ledger.find(cell)
        if found is not None:
            self.finished[cell.key] = found
        return found is not None

    def _run_path(self, path: list[Experiment], dataset: Dataset, X: Input | None) -> Input | None:
        """Run the cells that one fit serves, each result of which is on disk the moment it is there; return the input."""
        names = [split.name for split in make_splits(path[-1], dataset)]
        results: dict[str, dict[str, Result]] = {}
        for cell in path:
            if self.force:
                self.disk.discard(cell)
            results[cell.key] = self.disk.load(cell)
            self.ledger.start(cell, dataset)
        done = {(key, name) for key, of_cell in results.items() for name in of_cell}
        if not done.issuperset((cell.key, name) for cell in path for name in names):
            if X is None:
                X = load_input(dataset, path[0].input, path[0].normalize, self.workspace, self.progress)
            watch = TrainingWatch(self.disk, self.ledger, self.progress)
            for result in run(path, dataset, X, provenance=self.provenance, done=done, progress=self.progress, watch=watch):
                self.disk.save(result)
                results[result.experiment.key][result.split] = result
        for cell in path:
            of_cell = results.pop(cell.key)
            self._finish(cell, tuple(of_cell[name] for name in names), dataset, X)
        return X

    def _finish(self, cell: Experiment, results: tuple[Result, ...], dataset: Dataset, X: Input | None) -> None:
        """Have a cell logged of which every split is there, and keep what tables need of it: all scores are in MLflow."""
        mean = None
        if len({result.x for result in results}) == 1:
            mean = mean_rocauc([(result.rows, result.is_anomaly, result.scores) for result in results])
        finished = Cell(cell, "", selection_of(cell), results, mean)
        metrics = {"memory/peak_mb": _peak_megabytes(), "skipped_images": float(len(dataset.skipped))}
        if X is not None and X.images_per_second:
            metrics["throughput/images_per_second"] = X.images_per_second
        self.ledger.finish(finished, dataset, metrics)
        self.finished[cell.key] = replace(finished, results=tuple(map(without_scores, results)))

    def _fail(self, path: Iterable[Experiment], error: Exception) -> None:
        """End the runs of cells that failed; the others go on."""
        reason = str(error) if isinstance(error, KNOWN) else f"{type(error).__name__}: {error}"
        for cell in path:
            if cell.key not in self.finished:
                name = " ".join(f"{key}={value}" for key, value in cell.params.items())
                self.failures[name] = error
                self.say(f"failed: {name}: {reason}")
                self.ledger.fail(cell, reason)


def without_scores(result: Result) -> Result:
    """A result without its arrays, which a suite of many cells need not hold."""
    nothing = np.empty(0)
    return replace(result, scores=nothing, rows=nothing, is_anomaly=nothing, nearest=None)


def _peak_megabytes() -> float:
    """The most memory this process has held, in MB; macOS counts in bytes, Linux in kB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
