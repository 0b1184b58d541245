"""From cells to logged results: what is finished is looked up, what was broken off continues, what fails stands alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np

from benchmarks.contracts import (
    Cell,
    Dataset,
    Experiment,
    MissingDataError,
    OutsideError,
    Progress,
    Result,
    Split,
    SplitError,
    UsageError,
    Workspace,
)
from benchmarks.detectors import same_fit, selection_of, widest
from benchmarks.executors import Executor, Job, Serial, Together
from benchmarks.experiments import check, resolve
from benchmarks.inputs import input_identity
from benchmarks.ledger import DEFINITIONS, NOTHING, Ledger, Summary
from benchmarks.metrics import mean_rocauc
from benchmarks.protocols import make_splits
from benchmarks.provenance import provenance
from benchmarks.report import Table, result_tables
from benchmarks.result_store import ResultStore
from benchmarks.scoring import called
from benchmarks.threads import result_of
from benchmarks.tracking import Tracker, TrackingError
from benchmarks.work import Worker


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
    looked_up : int
        So many of the cells were there already.
    summary_run_id, experiment_id : str
        Where the MLflow page shows it.
    tracking_error : TrackingError or None
        Why not everything is logged: the results are on disk, and the same command logs them.
    """

    cells: list[Cell]
    tables: dict[str, Table]
    failures: dict[str, Exception]
    looked_up: int
    summary_run_id: str
    experiment_id: str
    tracking_error: TrackingError | None


STAGES = {"loss": "training", "pretrain_loss": "pretraining"}


class TrainingWatch:
    """Gives each training its monitor and its checkpoint.

    Parameters
    ----------
    disk : ResultStore
        Where checkpoints are.
    ledger : Ledger
        Told of each epoch's loss, as the metric ``loss/<split>`` with the epoch as step.
    progress : callable, optional
        Told of each stage in percent.
    """

    def __init__(self, disk: ResultStore, ledger: Ledger, progress: Progress | None) -> None:
        self.disk = disk
        self.ledger = ledger
        self.progress = progress

    def checkpoint(self, experiment: Experiment, split: Split) -> Path:
        """The file that a training on this split writes, and continues from."""
        return self.disk.checkpoint(experiment, split.name)

    def monitor(
        self, experiment: Experiment, split: Split
    ) -> Callable[[str, int, int, float, float], None]:
        """The monitor of a training on this split, as `benchmarks.contracts.Detector` describes it."""

        def told(name: str, epoch: int, epochs: int, share: float, loss: float) -> None:
            if self.progress:
                what = f"{STAGES.get(name, name)} {experiment.method} on {experiment.dataset}, {split.name}, percent"
                self.progress(what, round(100 * (epoch - 1 + share) / epochs), 100)
            if share >= 1:
                self.ledger.log_loss(experiment, f"{name}/{split.name}", float(loss), int(epoch))

        return told


def one_at_a_time(progress: Progress | None) -> Progress | None:
    """Progress that several threads may report."""
    if progress is None:
        return None
    lock = threading.Lock()

    def report(what: str, done: int, total: int) -> None:
        with lock:
            progress(what, done, total)

    return report


Say = Callable[[str], None]
KNOWN = (UsageError, MissingDataError, OutsideError, SplitError)
"""Errors that say all there is to say."""


class Session:
    """One invocation: cells in, logged results out. A context: leaving it ends the runs that are open.

    Parameters
    ----------
    workspace : Workspace
    tracker : Tracker
    suite : str
        A name that ties the runs together.
    force : bool
        Compute again, in new runs, what is finished.
    executor : Executor, optional
        Where cells are computed; by default in this process. It stays open.
    progress : callable, optional
    say : callable
        Told in a line what a reader of a log wants to know: that another process is waited for, that a cell failed.

    Attributes
    ----------
    finished : dict
        Key -> `Cell` without arrays.
    failures : dict
        What a cell is called -> why it failed.
    stopping : bool
        Whether it was interrupted.
    """

    def __init__(
        self,
        workspace: Workspace,
        tracker: Tracker,
        *,
        suite: str = "",
        force: bool = False,
        executor: Executor | None = None,
        progress: Progress | None = None,
        say: Say = lambda _: None,
    ) -> None:
        self.workspace, self.tracker, self.suite, self.force, self.say = (
            workspace,
            tracker,
            suite,
            force,
            say,
        )
        self.executor = executor or Serial(workspace)
        self._driver = (
            self.executor.worker if isinstance(self.executor, Serial) else Worker(workspace)
        )
        self.progress = one_at_a_time(progress)
        self.disk = ResultStore(workspace.home)
        self.finished: dict[str, Cell] = {}
        self.failures: dict[str, Exception] = {}
        self._provenance = provenance()
        self._together = Together(self.executor)
        self.stopping = False

    def prepare(self, experiments: Sequence[Experiment]) -> list[Experiment]:
        """Resolve cells and check all that can be checked, before anything is computed or logged.

        Raises
        ------
        UsageError, MissingDataError, MissingWeightsError
        """
        opened = {
            name: self.dataset(name) for name in dict.fromkeys(e.dataset for e in experiments)
        }
        identities = {
            name: input_identity(name, self.workspace)
            for name in dict.fromkeys(e.input for e in experiments)
        }
        cells = [
            resolve(experiment, opened[experiment.dataset], identities[experiment.input])
            for experiment in experiments
        ]
        for cell in cells:
            check(cell, opened[cell.dataset])
        return cells

    def dataset(self, name: str) -> Dataset:
        """Open a data set, once."""
        return self._driver.dataset(name, self.progress)

    def __enter__(self) -> Session:
        """Reach the tracking store.

        Raises
        ------
        TrackingError
        """
        self.tracker.connect()
        self.tracker.mark_dead()
        self.ledger = Ledger(
            self.tracker, self.disk, self.suite, self.force, self._provenance, self.say
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.ledger.break_off(
                "FAILED" if isinstance(error, Exception) else "KILLED", str(error)
            )

    def run(self, cells: Sequence[Experiment], beside: Sequence[Experiment] = ()) -> None:
        """Run cells as `prepare` gives them: those that one fit serves together, and as many fits at once as there are workers.

        Parameters
        ----------
        cells : sequence of Experiment
        beside : sequence of Experiment
            Cells that cost nothing if they are computed with those: their results are kept on disk, for when they are asked for.
        """
        left = [cell for cell in cells if not self._look_up(cell)]
        # Cells that share an input one after the other: a worker keeps the last.
        paths = same_fit(sorted(left, key=lambda cell: (cell.dataset, cell.input, cell.normalize)))
        workers = self.executor.workers
        if workers == 1:
            for path in paths:
                self._run_path(path, beside)
            return
        with ThreadPoolExecutor(workers) as pool:
            try:
                tasks = []
                for remaining, path in zip(range(len(paths), 0, -1), paths, strict=True):
                    # The last one shares the workers that would have nothing to do.
                    tasks.append(pool.submit(self._run_path, path, beside, workers // remaining))
                for task in tasks:
                    result_of(task)
            except BaseException:
                self.stop()
                pool.shutdown(cancel_futures=True)
                raise

    def stop(self) -> None:
        """Give up what is being computed: what is finished is kept, and what is not is no failure."""
        self.stopping = True
        self.executor.close()

    def close(self, cells: Sequence[Experiment], more: Summary = NOTHING) -> Outcome:
        """Log the tables of these cells, and what else belongs into the summary; say what came of them."""
        finished = [self.finished[cell.key] for cell in cells if cell.key in self.finished]
        tables = result_tables(finished, DEFINITIONS)
        skipped = [
            line
            for name in dict.fromkeys(cell.dataset for cell in cells)
            for line in self.dataset(name).skipped
        ]
        summary_run_id = self.ledger.close(tables, skipped, bool(self.failures), more)
        logged = [
            replace(cell, run_id=self.ledger.run_ids.get(cell.experiment.key, cell.run_id))
            for cell in finished
        ]
        looked_up = sum(bool(cell.run_id) for cell in finished)
        return Outcome(
            logged,
            tables,
            self.failures,
            looked_up,
            summary_run_id,
            self.tracker.experiment_id,
            self.ledger.error,
        )

    def _run_path(
        self, path: list[Experiment], beside: Sequence[Experiment], share: int = 1
    ) -> None:
        """Run the cells of one fit; one that somebody else is at is waited for and then looked up."""
        same = next(group for group in same_fit([*path, *beside]) if widest(path) in group)
        others = [cell for cell in same if cell not in path]
        try:
            with self.disk.lock(
                [cell.key for cell in (*path, widest(same))], self._wait
            ):  # which stands for all of them: a lock is an open file
                if todo := [cell for cell in path if not self._look_up(cell)]:
                    self._compute(todo, others, share)
        except Exception as error:
            if self.stopping:
                return
            if isinstance(error, SplitError) and len({cell.input for cell in same}) > 1:
                # One encoder's features may be to blame, and the others' not.
                for name in dict.fromkeys(cell.input for cell in path):
                    self._run_path([cell for cell in path if cell.input == name], (), share)
            else:
                self._fail(path, error)

    def _wait(self, folder: Path) -> None:
        self.say(f"waiting for the cell {folder.name}, which another process or worker is at")

    def _look_up(self, cell: Experiment) -> bool:
        """Take a finished cell from the tracking store, if it is there."""
        if (found := self.ledger.find(cell)) is not None:
            self.finished[cell.key] = found
        return found is not None

    def _compute(self, cells: list[Experiment], others: list[Experiment], share: int) -> None:
        """Compute cells of one path, each result of which is on disk the moment it is there, and the others that cost nothing."""
        dataset = self.dataset(cells[0].dataset)
        splits = make_splits(cells[-1], dataset)
        names = [split.name for split in splits]
        results: dict[str, dict[str, Result]] = {}
        for cell in cells:
            if self.force:
                self.disk.discard(cell)
            results[cell.key] = self.disk.load(cell)
            self.ledger.start(cell, dataset)
        if missing := [cell for cell in cells if not results[cell.key].keys() >= set(names)]:
            # A result of what is logged already would stay on disk.
            free = [cell for cell in others if self.ledger.find(cell) is None]
            for group in same_fit(
                [*missing, *free]
            ):  # without the widest, if that is finished, they share less
                if any(cell in missing for cell in group):
                    self._do(group, results, splits, share)
        for cell in cells:
            of_cell = results.pop(cell.key)
            self._finish(cell, tuple(of_cell[name] for name in names), dataset)

    def _do(
        self,
        group: list[Experiment],
        results: dict[str, dict[str, Result]],
        splits: Sequence[Split],
        share: int,
    ) -> None:
        """Have the splits computed of which there is no result yet; ``results`` get those of their cells, the disk gets all."""
        done = frozenset(
            (cell.key, name)
            for cell in group
            for name in results.get(cell.key) or self.disk.load(cell)
        )
        watch = TrainingWatch(self.disk, self.ledger, self.progress)
        dataset = self.dataset(group[0].dataset)
        labels = np.asarray(dataset.class_names)[dataset.labels]
        job = Job(tuple(group), self._provenance, done)
        what, left = (
            f"{called(job.widest)}, {job.widest.normalize}",
            len(group) * len(splits) - len(done),
        )
        for number, result in enumerate(
            self._together.work(job, splits, share, watch, self.progress), start=1
        ):
            wanted = result.experiment.key in results
            self.disk.save(result, labels, lasting=wanted)
            if wanted:
                results[result.experiment.key][result.split] = result
            if self.progress:
                self.progress(what, number, left)

    def _finish(self, cell: Experiment, results: tuple[Result, ...], dataset: Dataset) -> None:
        """Have a cell logged of which every split is there, and keep what tables need of it: all scores are in MLflow."""
        mean = None
        if (
            cell.partition == "test" and len({result.x for result in results}) == 1
        ):  # what is only compared needs no interval
            mean = mean_rocauc(
                [(result.rows, result.is_anomaly, result.scores) for result in results]
            )
        finished = Cell(cell, "", selection_of(cell), results, mean)
        cost: dict[str, float] = {}
        for name, value in (item for result in results for item in result.cost.items()):
            cost[name] = max(value, cost.get(name, 0.0))
        self.ledger.finish(
            finished, dataset, {**cost, "skipped_images": float(len(dataset.skipped))}
        )
        self.finished[cell.key] = replace(finished, results=tuple(map(without_scores, results)))

    def _fail(self, path: Iterable[Experiment], error: Exception) -> None:
        """End the runs of cells that failed; the others go on."""
        reason = str(error) if isinstance(error, KNOWN) else f"{type(error).__name__}: {error}"
        for cell in path:
            if cell.key not in self.finished:
                self.failures[cell_name(cell)] = error
                self.say(f"failed: {cell_name(cell)}: {reason}")
                self.ledger.fail(cell, reason)


def run_session(session: Session, experiments: Sequence[Experiment]) -> Outcome:
    """Run cells in a session that has not been entered yet, and log them, and a summary.

    Raises
    ------
    UsageError, MissingDataError, MissingWeightsError
        Before any work.
    TrackingError
        If the store cannot be reached at the start.
    """
    cells = session.prepare(experiments)
    for name in dict.fromkeys(cell.dataset for cell in cells):
        if skipped := session.dataset(name).skipped:
            session.say(
                f"{name}: {len(skipped)} corrupt images are left out, skipped_images.txt of the summary run lists them"
            )
    with session:
        session.run(cells)
        return session.close(cells)


def cell_name(cell: Experiment) -> str:
    """What a cell is called where it failed: all its parameters."""
    return " ".join(f"{key}={value}" for key, value in cell.params.items())


def without_scores(result: Result) -> Result:
    """A result without its arrays, which a suite of many cells need not hold."""
    return replace(
        result, scores=np.empty(0), rows=np.empty(0), is_anomaly=np.empty(0), nearest=None
    )
