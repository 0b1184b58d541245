"""Log the runs of one invocation in the tracking store: at once, or later if it does not answer."""

from __future__ import annotations

import gc
import io
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any, TypeVar, cast

from benchmarks.contracts import Cell, Dataset, Experiment
from benchmarks.detectors import detector_input, detector_params, entry_of, selection_of
from benchmarks.protocols import PROTOCOLS
from benchmarks.report import Table, result_table, summary_points
from benchmarks.result_store import ResultStore
from benchmarks.tracking import Tracker, TrackingError, View, run_name

DEFINITIONS = {name: entry.definition for name, entry in PROTOCOLS.items()}

SECONDS_BETWEEN_LOSSES = 1

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0
"""Seconds in which a store that did not answer is left alone; each further time it is twice."""

Call = TypeVar("Call", bound=Callable[..., Any])


def _one_at_a_time(method: Call) -> Call:
    """Let one thread at a time log: cells that are computed at once each have a thread."""

    @wraps(method)
    def call(self: Ledger, *args: Any, **named: Any) -> Any:
        with self._lock:
            return method(self, *args, **named)

    return cast(Call, call)


@dataclass(frozen=True)
class Summary:
    """Hold what the summary run gets besides its tables.

    Attributes
    ----------
    texts, figures : mapping
        File name -> text, or figure.
    points : sequence of (name, value, step)
        Points of curves.
    tags : mapping
    views : sequence of View
        Of the MLflow page, before those of the results.
    text : str
        For the description, before the tables.
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    points: Sequence[tuple[str, float, int]] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    views: Sequence[View] = ()
    text: str = ""


NOTHING = Summary()


@dataclass(frozen=True)
class Mark:
    """Hold the tags that a study adds to a cell's run, named after the study."""

    tags: Mapping[str, str] = field(default_factory=dict)


NO_MARK = Mark()


class Ledger:
    """Log the runs of one invocation.

    A store that goes away delays logging but loses nothing, because results are on disk first. It
    is left alone for a while, so that a request which fails after seconds is not made for each run.

    Parameters
    ----------
    tracker : Tracker
        Connected.
    disk : ResultStore
        Holds the results until they are logged.
    suite : str
    fresh : bool
        Look up nothing, and open new runs.
    provenance : mapping
    say : callable
        Called with a line if the store does not answer, or a finished run cannot be read.

    Attributes
    ----------
    error : TrackingError or None
        Why something is not logged yet.
    run_ids : dict
        Key -> run id of the cells that this invocation has looked up or logged.
    views : tuple of View
        That the MLflow page has of this invocation's results, once it is closed.
    """

    def __init__(
        self,
        tracker: Tracker,
        disk: ResultStore,
        suite: str,
        fresh: bool,
        provenance: Mapping[str, Any],
        say: Callable[[str], None],
    ) -> None:
        self.tracker = tracker
        self.disk = disk
        self.suite = suite
        self.fresh = fresh
        self.provenance = provenance
        self.say = say
        self.error: TrackingError | None = None
        self._lock = threading.RLock()
        self._pause, self._next_try = 0.0, 0.0
        self._summary = tracker.start_summary(suite, provenance)
        self.run_ids: dict[str, str] = {}
        self.views: tuple[View, ...] = ()
        self._marks: dict[str, Mark] = {}
        self._open: dict[str, str] = {}  # key -> run id of cells that are not finished
        self._pending: dict[str, tuple[Cell, Dataset, Mapping[str, float]]] = {}
        self._losses: dict[str, list[tuple[str, float, int]]] = {}  # key -> what is not logged yet
        self._next_losses = 0.0

    @_one_at_a_time
    def mark(self, cell: Experiment, mark: Mark) -> None:
        """Mark a cell's run: now if the run is known, else when it is opened or found."""
        self._marks[cell.key] = mark
        if cell.key in self.run_ids:
            self._try(partial(self._put_mark, self.run_ids[cell.key], mark))

    @_one_at_a_time
    def find(self, cell: Experiment) -> Cell | None:
        """Look up a finished cell; None if there is none, or none that can be read."""
        if self.fresh or self.error:
            return None
        looked_up: list[str | None] = []
        if not self._try(lambda: looked_up.append(self.tracker.find_finished(cell.key))):
            return None
        (run_id,) = looked_up
        if run_id is None:
            return None
        try:
            found = self.tracker.read_cell(cell, run_id)
            self._put_mark(run_id, self._marks.get(cell.key, NO_MARK))
        except TrackingError as error:
            self.say(f"computed again: {error}")
            return None
        self.run_ids[cell.key] = run_id
        return found

    @_one_at_a_time
    def start(self, cell: Experiment, dataset: Dataset) -> None:
        """Open a cell's run, unless it is open."""
        if cell.key in self._open:
            return
        self._try(partial(self._start, cell, dataset))

    @_one_at_a_time
    def log_loss(self, cell: Experiment, name: str, loss: float, epoch: int) -> None:
        """Log an epoch's loss while the training runs.

        Losses are sent once a second.
        """
        if math.isfinite(loss):
            self._losses.setdefault(cell.key, []).append((name, loss, epoch))
        if time.monotonic() >= self._next_losses:
            self._log_losses(cell.key)

    @_one_at_a_time
    def finish(self, finished: Cell, dataset: Dataset, metrics: Mapping[str, float]) -> None:
        """Log a cell whose splits are all finished, then remove its files from the disk.

        Parameters
        ----------
        finished : Cell
        dataset : Dataset
        metrics : mapping
            Metrics to log besides those of its results.
        """
        self._pending[finished.experiment.key] = (finished, dataset, metrics)
        self.log_pending()

    @_one_at_a_time
    def log_pending(self) -> None:
        """Log the finished cells that are not logged yet; the store may be back."""
        for key, (finished, dataset, metrics) in list(self._pending.items()):
            if not self._try(partial(self._log, finished, dataset, metrics)):
                return
            del self._pending[key]
            self.disk.discard(finished.experiment)
        if self.error is not None and not self._is_away():
            self.say("the tracking store answers again")
            self.error = None

    @_one_at_a_time
    def fail(self, cell: Experiment, reason: str) -> None:
        """End a cell's run as FAILED."""
        self._pending.pop(cell.key, None)
        self._log_losses(cell.key)
        if cell.key in self._open:
            self._try(partial(self.tracker.end, self._open.pop(cell.key), "FAILED", reason))

    @_one_at_a_time
    def break_off(self, status: str, reason: str) -> None:
        """End every open run, and the summary."""
        for key in self._open:
            self._log_losses(key)
        for run_id in (*self._open.values(), self._summary):
            self._try(partial(self.tracker.end, run_id, status, reason))

    @_one_at_a_time
    def close(
        self,
        tables: Mapping[str, Table],
        skipped: Sequence[str],
        failed: bool,
        more: Summary = NOTHING,
        views: Sequence[View] = (),
    ) -> str:
        """Log the invocation's tables, figures, curves and skipped images in the summary run.

        Then have the page show them: its views, and the descriptions.

        Returns
        -------
        str
            The summary's run id.
        """
        self._next_try = 0.0  # the last chance is taken
        self.log_pending()
        texts = {f"{name}.csv": table.to_csv() for name, table in tables.items()} | dict(more.texts)
        if skipped:
            texts["skipped_images.txt"] = "".join(f"{line}\n" for line in skipped)
        figures = {f"{name}.png": table.figure() for name, table in tables.items()} | dict(
            more.figures
        )
        points, status = [*summary_points(tables), *more.points], "FAILED" if failed else "FINISHED"
        # The summary of a suite or a study has its name from the start.
        named = (
            {}
            if self.suite or not tables
            else {"mlflow.runName": f"summary {', '.join(tables)}"[:250]}
        )
        if tags := {**named, **more.tags}:
            self._try(partial(self.tracker.tag, self._summary, tags))
        end = partial(
            self.tracker.finish_summary, texts=texts, figures=figures, points=points, status=status
        )
        self._try(partial(end, self._summary))
        if self.error is None:
            self._show(tables, [*more.views, *views], more.text)
        return self._summary

    def _show(self, tables: Mapping[str, Table], views: Sequence[View], text: str) -> None:
        """Save the views of the page, and describe what was found.

        The results are logged, so that a store which refuses this is no failure.
        """
        titles = [table.title for table in tables.values()]
        title = f"{titles[0]}, and {len(titles) - 1} more" if titles[1:] else "".join(titles)
        printed = "\n".join([*([text] if text else []), *map(_printed, tables.values())])
        try:
            self.views = self.tracker.save_views(views)
            self.tracker.describe(self._summary, title or self.suite, printed, self.views)
        except TrackingError as error:
            self.say(f"the MLflow page shows the runs, but without their views: {error}")

    def _put_mark(self, run_id: str, mark: Mark) -> None:
        if mark.tags:
            self.tracker.tag(run_id, mark.tags)

    def _start(self, cell: Experiment, dataset: Dataset) -> None:
        self._open[cell.key] = self.tracker.start_cell(
            cell,
            suite=self.suite,
            fingerprint=dataset.fingerprint,
            provenance=self.provenance,
            name=run_name(cell, usual_values(cell)),
            selection=selection_of(cell),
            fresh=self.fresh,
            tags=self._marks.get(cell.key, NO_MARK).tags,
        )

    def _log(self, finished: Cell, dataset: Dataset, metrics: Mapping[str, float]) -> None:
        cell = finished.experiment
        if cell.key not in self._open:
            self._start(cell, dataset)
        self.tracker.log_points(self._open[cell.key], self._losses.get(cell.key, ()))
        self.tracker.finish_cell(
            self._open[cell.key],
            finished.results,
            disk=self.disk,
            labels=dataset.class_of_rows,
            mean=finished.mean,
            selection=finished.selection,
            metrics=metrics,
            curve_step=PROTOCOLS[cell.protocol].step,
            figures=_figures(finished),
            files=dataset.files,
        )
        self.run_ids[cell.key] = self._open.pop(cell.key)
        self._losses.pop(cell.key, None)
        # A figure refers to itself, and Python counts its few objects, not their megabytes: left
        # alone, the figures of some dozen cells would pile up before it looks for them.
        gc.collect(1)

    def _log_losses(self, key: str) -> None:
        """Log the losses of a cell whose run is open; keep them for later if that fails."""
        points = self._losses.get(key)
        if points and key in self._open:
            self._next_losses = time.monotonic() + SECONDS_BETWEEN_LOSSES
            if self._try(partial(self.tracker.log_points, self._open[key], points)):
                del self._losses[key]

    def _try(self, logging: Callable[[], None]) -> bool:
        """Call the store; if it does not answer, remember why, go on, and return False."""
        if self._is_away():
            return False
        try:
            logging()
        except TrackingError as error:
            if self.error is None:
                self.say(f"not logged for now: {error}")
            self.error = error
            self._leave_alone()
            return False
        self._pause = 0.0
        return True

    def _is_away(self) -> bool:
        """Tell whether the store is left alone: it did not answer, and does not answer a probe."""
        if not self._pause:
            return False
        if time.monotonic() < self._next_try:
            return True
        if not self.tracker.answers():
            self._leave_alone()
            return True
        return False

    def _leave_alone(self) -> None:
        self._pause = min(2 * self._pause, LONGEST_PAUSE) or FIRST_PAUSE
        self._next_try = time.monotonic() + self._pause


def usual_values(cell: Experiment) -> dict[str, Any]:
    """Return the values that a cell would have if nothing but its method were asked for."""
    entry, source = entry_of(cell.detector), detector_input(cell.detector, cell.variant)
    protocol = PROTOCOLS[cell.protocol].defaults if cell.protocol in PROTOCOLS else {}
    return {
        "input": f"features:{entry.encoder}" if source == "features" else source,
        "normalize": entry.normalize,
        **protocol,
        **detector_params(cell.detector, cell.variant, {}, cell.preset, cell.dataset),
    }


def _printed(table: Table) -> str:
    text = io.StringIO()
    table.print(text)
    return text.getvalue()


def _figures(finished: Cell) -> dict[str, Any]:
    """Draw a cell's figure; a sweep's trials get none, because the study's summary shows them."""
    if finished.experiment.partition == "validation":
        return {}
    return {"rocauc.png": result_table([finished], DEFINITIONS).figure()}
