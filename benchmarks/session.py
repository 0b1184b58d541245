"""Run batches: look up what is finished, continue what was interrupted, log what is new.

If a batch fails, the others go on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np

from benchmarks.contracts import (
    CPU_SECONDS,
    Batch,
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
from benchmarks.datasets.inventory import Inventory, find_duplicates, take_inventory
from benchmarks.detectors import selection_of, slow_arithmetic
from benchmarks.executors import Executor, Serial
from benchmarks.experiments import plan, resolve
from benchmarks.inputs import describe_view, feature_store, input_identity
from benchmarks.ledger import DEFINITIONS, NO_MARK, NOTHING, Ledger, Mark, Summary
from benchmarks.metrics import Resampled, resample
from benchmarks.protocols import classes_left_out
from benchmarks.provenance import provenance
from benchmarks.report import Table, result_tables
from benchmarks.result_store import ResultStore
from benchmarks.threads import result_of
from benchmarks.tracking import Tracker, TrackingError, View, result_views

KNOWN = (UsageError, MissingDataError, OutsideError, SplitError)
"""Errors whose message needs no type and no traceback."""

STAGES = {"loss": "training", "pretrain_loss": "pretraining"}


class InterruptedSessionError(RuntimeError):
    """Report that the session was stopped before a cell finished or failed."""


@dataclass(frozen=True)
class Outcome:
    """Hold the outcome of a session.

    Attributes
    ----------
    cells : list of Cell
        Finished, in the order in which they were asked for. ``run_id`` is empty if the cell could
        not be logged.
    tables : dict
        Those cells next to the published numbers, by what they have in common.
    failures : dict
        Name of a cell -> why it failed.
    looked_up : int
        How many of the cells had been finished before.
    summary_run_id, experiment_id : str
        Where the MLflow page shows the outcome.
    tracking_error : TrackingError or None
        Why some results are not logged: they are on disk, and the same command logs them.
    views : tuple of View
        That the MLflow page has of them.
    """

    cells: list[Cell]
    tables: dict[str, Table]
    failures: dict[str, Exception]
    looked_up: int
    summary_run_id: str
    experiment_id: str
    tracking_error: TrackingError | None
    views: tuple[View, ...] = ()


class Session:
    """Run cells and log them.

    It is a context manager: an error that leaves it ends the open runs.

    Parameters
    ----------
    workspace : Workspace
    tracker : Tracker
    suite : str
        The name that the runs share.
    force : bool
        Compute finished cells again, in new runs.
    executor : Executor, optional
        Where batches are evaluated; by default in this process. It stays open.
    progress : callable, optional
    say : callable
        Called with a line for the log, such as that a cell failed.

    Attributes
    ----------
    finished : dict
        Key -> `Cell`, without arrays.
    failures : dict
        Name of a cell -> why it failed.
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
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.workspace, self.tracker, self.suite, self.force = workspace, tracker, suite, force
        self.executor, self.say = executor or Serial(workspace), say
        self._driver = self.executor.worker
        self.progress = lock_progress(progress)
        self.disk = ResultStore(workspace.home)
        self.finished: dict[str, Cell] = {}
        self.failures: dict[str, Exception] = {}
        self._resampled: dict[str, Resampled] = {}
        self._provenance = provenance()
        self._expected: dict[str, Batch] = {}
        self._stored: set[tuple[str, str, str]] = set()
        self._marked: set[str] = set()
        self._said: set[str] = set()
        self._forced: set[str] = set()
        self._splits: dict[str, tuple[Split, ...]] = {}
        self._inventories: dict[str, Inventory] = {}
        self._stopping = False
        self._seen: list[str] = []

    @property
    def workers(self) -> int:
        """How many batches are evaluated at once."""
        return self.executor.workers

    def dataset(self, name: str) -> Dataset:
        """Open a data set, or return it if it is open."""
        return self._driver.dataset(name, self.progress)

    def resolve(self, experiments: Sequence[Experiment]) -> list[Experiment]:
        """Write into cells what their names stand for today.

        Presets that take longer on this machine are said to do so, once each.

        Raises
        ------
        UsageError, MissingDataError, MissingWeightsError
        """
        inputs = dict.fromkeys((experiment.input, experiment.fit) for experiment in experiments)
        identities = {one: input_identity(one[0], self.workspace, one[1]) for one in inputs}
        cells = [
            resolve(
                experiment,
                self.dataset(experiment.dataset),
                identities[experiment.input, experiment.fit],
            )
            for experiment in experiments
        ]
        for line in dict.fromkeys(filter(None, map(slow_arithmetic, cells))):
            if line not in self._said:
                self._said.add(line)
                self.say(line)
        return cells

    def check(self, experiments: Sequence[Experiment]) -> None:
        """Check that cells can run on their data, without their weights.

        A cell whose data is not on this machine is left for later.

        Raises
        ------
        UsageError
        """
        cells, datasets = [], {}
        for experiment in experiments:
            try:
                datasets[experiment.dataset] = self.dataset(experiment.dataset)
            except MissingDataError:
                continue
            cells.append(resolve(experiment, datasets[experiment.dataset], {}))
        plan(cells, datasets, {}, self._splits)

    def plan(self, cells: Sequence[Experiment]) -> list[Batch]:
        """Make the batches of resolved cells, checking what can be checked before they run.

        An expected cell is in the batch that `expect` made.

        Raises
        ------
        UsageError
        """
        expected = [cell for cell in cells if cell.key in self._expected]
        batches = [self._expected[cell.key].for_cell(cell, self._is_stored) for cell in expected]
        if new := [cell for cell in cells if cell.key not in self._expected]:
            datasets = {name: self.dataset(name) for name in {cell.dataset for cell in new}}
            batches += plan(new, datasets, self._provenance, self._splits)
        return batches

    def expect(self, cells: Sequence[Experiment]) -> None:
        """Plan resolved cells that will be asked for one by one.

        The first that is asked for brings along those that cost it nothing extra.

        Raises
        ------
        UsageError
        """
        for batch in self.plan(cells):
            self._expected |= dict.fromkeys((cell.key for cell in batch.cells), batch)

    def __enter__(self) -> Session:
        """Connect to the tracking store.

        Raises
        ------
        TrackingError
        """
        if self.progress:
            self.progress("opening the tracking store", 0, 0)
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
            status = "FAILED" if isinstance(error, Exception) else "KILLED"
            self.ledger.break_off(status, str(error))

    def run(self, batches: Sequence[Batch]) -> None:
        """Run the batches of `plan`, as many at once as there are workers."""
        if self.workers == 1:
            for batch in batches:
                self._run_batch(batch)
            return
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                for task in [pool.submit(self._run_batch, batch) for batch in batches]:
                    result_of(task)
            except BaseException:
                self.stop()
                pool.shutdown(cancel_futures=True)
                raise

    def finish(self, cell: Experiment, mark: Mark = NO_MARK) -> Cell:
        """Return a cell when it is finished: looked up, or computed now.

        Parameters
        ----------
        cell : Experiment
            Resolved.
        mark : Mark
            Tags and numbers to put on its run.

        Raises
        ------
        InterruptedSessionError
        Exception
            The reason, if the cell failed.
        """
        if cell.key not in self._marked:
            self._marked.add(cell.key)
            self.ledger.mark(cell, mark)
        if cell.key not in self.finished:
            self.run(self.plan([cell]))
        if cell.key not in self.finished:
            failure = self.failures.get(cell_name(cell))
            raise failure or InterruptedSessionError("interrupted")
        return self.finished[cell.key]

    def inventory(self, name: str) -> Inventory:
        """Take the inventory of a data set, once."""
        if name not in self._inventories:
            dataset = self.dataset(name)
            self._inventories[name] = take_inventory(dataset, find_duplicates(dataset))
        return self._inventories[name]

    def say_what_is_used(self, cells: Sequence[Experiment]) -> None:
        """Say what of each data set is used and what is not, and which classes take turns."""
        for name in dict.fromkeys(cell.dataset for cell in cells):
            for line in self.inventory(name).lines:
                self.say(line)
            if skipped := self.dataset(name).skipped:
                self.say(
                    f"{name}: {len(skipped)} corrupt images are left out, "
                    f"skipped_images.txt of the summary run lists them"
                )
        datasets = {cell.dataset: self.dataset(cell.dataset) for cell in cells}
        for line in classes_left_out(cells, datasets):
            self.say(line)

    def say_what_is_seen(self, cells: Sequence[Experiment]) -> None:
        """Say what detectors do not see of the images; the summary run gets the same lines."""
        for cell in cells:
            for line in describe_view(self.dataset(cell.dataset), cell.input, cell.fit):
                told = f"{cell.dataset}, {cell.input}: {line}"
                if told not in self._seen:
                    self._seen.append(told)
                    self.say(told)

    @property
    def stopping(self) -> bool:
        """Whether the session is being stopped."""
        return self._stopping

    def add_failure(self, name: str, error: Exception) -> None:
        """Add a failure that happened outside the session, unless it has it already."""
        if error not in self.failures.values():
            self.failures[name] = error

    def run_id(self, cell: Experiment) -> str:
        """Return the MLflow run id of a finished cell; empty if it is not logged yet."""
        known = self.finished.get(cell.key)
        return self.ledger.run_ids.get(cell.key, known.run_id if known else "")

    def stop(self) -> None:
        """Stop computing: finished results are kept, and unfinished cells are no failures."""
        self._stopping = True
        self.executor.close()

    def close(self, cells: Sequence[Experiment], more: Summary = NOTHING) -> Outcome:
        """Log the tables of these cells and what else belongs in the summary run."""
        finished = [self.finished[cell.key] for cell in cells if cell.key in self.finished]
        if self.progress:
            self.progress("logging tables and figures", 0, 0)
        tables = {
            name: self._warned(table)
            for name, table in result_tables(finished, DEFINITIONS, self._resampled_of).items()
        }
        names = dict.fromkeys(cell.dataset for cell in cells)
        skipped = [line for name in names for line in self.dataset(name).skipped]
        if listing := [line for name in names for line in self.inventory(name).listing]:
            text = "".join(f"{line}\n" for line in listing)
            more = replace(more, texts={**more.texts, "inventory.txt": text})
        views = self._views(finished)
        if self._seen:
            seen = "".join(f"{line}\n" for line in self._seen)
            more = replace(more, texts={**more.texts, "what_is_seen.txt": seen})
        summary_run_id = self.ledger.close(tables, skipped, bool(self.failures), more, views)
        return Outcome(
            cells=[replace(cell, run_id=self.run_id(cell.experiment)) for cell in finished],
            tables=tables,
            failures=self.failures,
            looked_up=sum(bool(cell.run_id) for cell in finished),
            summary_run_id=summary_run_id,
            experiment_id=self.tracker.experiment_id,
            tracking_error=self.ledger.error,
            views=self.ledger.views,
        )

    def _warned(self, table: Table) -> Table:
        """Add to a table what its reader must know of the data."""
        of_table = {column.key for column in table.columns}
        names = dict.fromkeys(
            cell.experiment.dataset for key, cell in self.finished.items() if key in of_table
        )
        lines = [line for name in names for line in self.inventory(name).warnings]
        return replace(table, notes=(*lines, *table.notes)) if lines else table

    def _views(self, finished: Sequence[Cell]) -> list[View]:
        """List the views of finished cells, first those that the links lead to."""
        classes: dict[tuple[str, str, bool], dict[str, None]] = {}
        for cell in finished:
            if cell.experiment.partition == "test":
                curve = len({result.x for result in cell.results}) > 1
                about = (cell.experiment.dataset, cell.experiment.protocol, curve)
                named = classes.setdefault(about, {})
                named.update(dict.fromkeys(result.class_name for result in cell.results))
        groups = []
        for (dataset, protocol, curve), named in classes.items():
            # The charts of classes that only other runs have are hidden where they are empty.
            every = self.dataset(dataset).class_names
            shown = [*named, *(name for name in every if name not in named)]
            groups.append(result_views(dataset, protocol, shown, curve=curve))
        return [group[0] for group in groups] + [view for group in groups for view in group[1:]]

    def _is_stored(self, cell: Experiment) -> bool:
        """Tell whether the feature store has all that a cell needs."""
        for name in cell.encoders:
            if (cell.dataset, name, cell.fit) not in self._stored:
                if feature_store(
                    self.dataset(cell.dataset), name, self.workspace, cell.fit
                ).missing():
                    return False
                self._stored.add((cell.dataset, name, cell.fit))
        return True

    def _run_batch(self, batch: Batch) -> None:
        """Look up finished cells and compute the rest, saving each result as it comes."""
        try:
            with self.disk.lock(batch.locks, lambda _: self._wait(batch)):
                batch, results = self._begin(batch)
                if any(len(of_cell) < len(batch.splits) for of_cell in results.values()):
                    watch = TrainingWatch(self.disk, self.ledger, self.progress)
                    what = f"{batch.called}, {batch.cells[-1].normalize}, results"
                    left = sum(len(batch.needing(split)) for split in batch.splits)
                    if self.progress:
                        self.progress(what, 0, left)
                    # Closed at once if a result cannot be kept: workers then drop what is left.
                    with closing(self.executor.work(batch, watch, self.progress)) as work:
                        for number, result in enumerate(work, start=1):
                            self._keep(result, results)
                            if self.progress:
                                self.progress(what, number, left)
                for cell in batch.asked:
                    if cell.key in results:
                        of_cell = results.pop(cell.key)
                        self._finish(cell, tuple(of_cell[split.name] for split in batch.splits))
        except Exception as error:
            if self._stopping:
                return
            if isinstance(error, SplitError) and len({cell.input for cell in batch.cells}) > 1:
                # Perhaps only one encoder's features make it fail.
                for part in batch.apart():
                    self._run_batch(part)
            else:
                self._fail(batch.asked, error)

    def _begin(self, batch: Batch) -> tuple[Batch, dict[str, dict[str, Result]]]:
        """Look up cells, and open the runs of those that are not finished.

        Returns
        -------
        batch : Batch
            Without the results that exist.
        results : dict
            Key of each wanted cell that is not finished -> its results so far, by split.
        """
        names = {split.name for split in batch.splits}
        dataset = self.dataset(batch.cells[-1].dataset)
        results: dict[str, dict[str, Result]] = {}
        done = {(cell.key, name) for cell in batch.asked if self._look_up(cell) for name in names}
        for cell in batch.asked:
            if cell.key not in self.finished:
                if self.force and cell.key not in self._forced:
                    self._forced.add(cell.key)
                    self.disk.discard(cell)
                results[cell.key] = self.disk.load(cell)
                done |= {(cell.key, name) for name in results[cell.key]}
                self.ledger.start(cell, dataset)
        if any(of_cell.keys() < names for of_cell in results.values()):
            for cell in batch.cells:
                if cell.key not in batch.wanted:
                    # A result of a cell that is logged already would stay on disk forever.
                    known = names if self._look_up(cell) else self.disk.load(cell)
                    done |= {(cell.key, name) for name in known}
        return batch.without(done), results

    def _keep(self, result: Result, results: Mapping[str, dict[str, Result]]) -> None:
        """Save a result to disk, and add it to those of its cell if the cell is wanted."""
        labels = self.dataset(result.experiment.dataset).class_of_rows
        of_cell = results.get(result.experiment.key)
        self.disk.save(result, labels, lasting=of_cell is not None)
        if of_cell is not None:
            of_cell[result.split] = result

    def _wait(self, batch: Batch) -> None:
        self.say(f"waiting for {batch.called}, which another process or worker is computing")

    def _look_up(self, cell: Experiment) -> bool:
        """Take a cell from the tracking store, and tell whether it is finished."""
        if cell.key not in self.finished and (found := self.ledger.find(cell)) is not None:
            self.finished[cell.key] = without_scores(found)
        return cell.key in self.finished

    def _finish(self, cell: Experiment, results: tuple[Result, ...]) -> None:
        """Log a cell whose splits are all finished, and keep what tables need of it."""
        dataset, mean = self.dataset(cell.dataset), None
        if cell.partition == "test" and len({result.x for result in results}) == 1:
            # Validation cells are only compared with each other, which needs no interval.
            mean = self._resample(cell, results).mean
        finished = Cell(cell, "", selection_of(cell), results, mean)
        cost: dict[str, float] = {}
        for name, value in (item for result in results for item in result.cost.items()):
            if name != CPU_SECONDS:  # a sum, which the record has
                cost[name] = max(value, cost.get(name, 0.0))
        counts = {"skipped_images": float(len(dataset.skipped))}
        if shared := self.inventory(cell.dataset).n_shared:
            counts["test_images_in_train"] = float(shared)
        self.ledger.finish(finished, dataset, {**cost, **counts})
        self.finished[cell.key] = without_scores(finished)

    def _resample(self, cell: Experiment, results: Sequence[Result]) -> Resampled:
        """Compute a cell's mean under many weightings of the test images, and keep it: 8 kB."""
        self._resampled[cell.key] = resample(
            [(one.rows, one.is_anomaly, one.scores) for one in results]
        )
        return self._resampled[cell.key]

    def _resampled_of(self, key: str) -> Resampled | None:
        """Return that of a finished cell; of one that was looked up, from its logged scores."""
        cell = self.finished[key]
        if key not in self._resampled and cell.mean is not None and not self.ledger.error:
            try:
                self._resample(
                    cell.experiment, self.tracker.read_cell(cell.experiment, cell.run_id).results
                )
            except TrackingError:
                return None
        return self._resampled.get(key)

    def _fail(self, cells: Iterable[Experiment], error: Exception) -> None:
        """End the runs of cells that failed; the others go on."""
        known = isinstance(error, KNOWN)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        for cell in cells:
            if cell.key not in self.finished:
                self.failures[cell_name(cell)] = error
                self.say(f"failed: {cell_name(cell)}: {reason}")
                self.ledger.fail(cell, reason)


class TrainingWatch:
    """Give each training its monitor and its checkpoint file.

    Parameters
    ----------
    disk : ResultStore
        Says where checkpoints are.
    ledger : Ledger
        Logs each epoch's loss, as the metric ``loss/<split>`` with the epoch as step.
    progress : callable, optional
        Called with the percentage of each stage.
    """

    def __init__(self, disk: ResultStore, ledger: Ledger, progress: Progress | None) -> None:
        self.disk = disk
        self.ledger = ledger
        self.progress = progress

    def checkpoint(self, experiment: Experiment, split: Split) -> Path:
        """Return the file that a training on this split writes and continues from."""
        return self.disk.checkpoint(experiment, split.name)

    def monitor(
        self, experiment: Experiment, split: Split
    ) -> Callable[[str, int, int, float, float], None]:
        """Return the monitor of a training: see `benchmarks.contracts.Detector`."""

        def hear(name: str, epoch: int, epochs: int, share: float, loss: float) -> None:
            if self.progress:
                what = f"{STAGES.get(name, name)} {experiment.called}, {split.name}, percent"
                self.progress(what, round(100 * (epoch - 1 + share) / epochs), 100)
            if share >= 1:
                self.ledger.log_loss(experiment, f"{name}/{split.name}", float(loss), int(epoch))

        return hear


def lock_progress(progress: Progress | None) -> Progress | None:
    """Wrap progress so that several threads may call it."""
    if progress is None:
        return None
    lock = threading.Lock()

    def report(what: str, done: int, total: int) -> None:
        with lock:
            progress(what, done, total)

    return report


def cell_name(cell: Experiment) -> str:
    """Name a cell by all its parameters, as failures do."""
    return " ".join(f"{key}={value}" for key, value in cell.params.items())


def without_scores(cell: Cell) -> Cell:
    """Drop the arrays of a cell's results: a session of many cells need not hold them."""
    empty = np.empty(0)
    results = (
        replace(result, scores=empty, rows=empty, is_anomaly=empty, nearest=None)
        for result in cell.results
    )
    return replace(cell, results=tuple(results))
