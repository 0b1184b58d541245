"""Tell what a run would do and cost, from the stores and from earlier runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from benchmarks.contracts import Dataset, Experiment, MissingDataError, Workspace
from benchmarks.datasets import is_own, load_dataset
from benchmarks.datasets.inventory import find_duplicates, take_inventory
from benchmarks.experiments import plan, resolve
from benchmarks.inputs import (
    describe_view,
    encoder_names,
    feature_store,
    input_identity,
    load_input,
)
from benchmarks.protocols import classes_left_out
from benchmarks.tracking import Tracker
from dn2.encoders import MissingWeightsError


@dataclass(frozen=True)
class PlannedCell:
    """Hold what is known of one cell before it is computed.

    Attributes
    ----------
    experiment : Experiment
    status : {"finished", "pending"}
    features : str
        ``stored``, ``60,000 to compute``, ``none`` for a detector on pixels, or what is missing:
        ``data to fetch``, ``weights to fetch``.
    seconds, megabytes : float or None
        The time that is left and the peak memory, from the newest finished run of the same kind;
        None if there is no such run.
    """

    experiment: Experiment
    status: str
    features: str
    seconds: float | None
    megabytes: float | None

    def record(self) -> dict[str, Any]:
        """Return the cell as JSON takes it."""
        return {
            "key": self.experiment.key,
            "params": self.experiment.params,
            "status": self.status,
            "features": self.features,
            "seconds": self.seconds,
            "megabytes": self.megabytes,
        }


def plan_cells(
    experiments: Sequence[Experiment],
    workspace: Workspace,
    tracker: Tracker,
    say: Callable[[str], None] = lambda _: None,
) -> list[PlannedCell]:
    """Look at data, weights, feature stores and the tracking store, and compute nothing.

    Time that several cells share is counted once, with the first of them: the time to extract
    features, and that of the one search for every k.

    Raises
    ------
    UsageError
        If a cell cannot run, as `run` would say.
    MissingDataError, MissingWeightsError
        If the user's own data, or a folder or a weights file that the workspace names, is not
        there or cannot be read.
    TrackingError
    """
    look = _Look(workspace, tracker)
    resolved = [look.resolve(experiment) for experiment in experiments]
    # It refuses what cannot run, also if weights have still to be fetched.
    batches = plan([cell for cell in resolved if cell.resolved], look.datasets, {})
    planned = [look.at(cell) for cell in resolved]
    for line in look.inventory(resolved):
        say(line)
    for line in dict.fromkeys(line for cell in resolved for line in look.seen(cell)):
        say(line)
    pending = {cell.experiment.key for cell in planned if cell.status == "pending"}
    # Inputs that were searched together have each its part of the time.
    searched = {
        key
        for batch in batches
        for key in _beside_the_first([cell for cell in batch.cells if cell.key in pending])
    }
    return [
        replace(cell, seconds=0.0)
        if cell.experiment.key in searched and cell.seconds is not None
        else cell
        for cell in planned
    ]


def _beside_the_first(cells: Sequence[Experiment]) -> set[str]:
    """Return the keys of the cells that the search of the first with the same input serves."""
    first = {cell.input: cell.key for cell in reversed(cells)}
    return {cell.key for cell in cells} - set(first.values())


class _Look:
    """Look up once what several cells ask for."""

    def __init__(self, workspace: Workspace, tracker: Tracker) -> None:
        self.workspace = workspace
        self.tracker = tracker
        self.datasets: dict[str, Dataset] = {}
        self._identity = cache(self._find_identity)
        self._missing: dict[str, int] = {}

    def resolve(self, experiment: Experiment) -> Experiment:
        """Write into a cell what its names stand for; a cell without its data stays as it is."""
        name = experiment.dataset
        try:
            if name not in self.datasets:
                self.datasets[name] = self._open_dataset(name)
        except MissingDataError:
            if self.workspace.root is not None or is_own(name):
                raise
            return experiment
        return resolve(
            experiment, self.datasets[name], self._identity(experiment.input, experiment.fit) or {}
        )

    def inventory(self, cells: Sequence[Experiment]) -> list[str]:
        """Say what of each data set is used, and which classes take turns."""
        lines = [
            line
            for dataset in self.datasets.values()
            for line in take_inventory(dataset, find_duplicates(dataset)).lines
        ]
        return lines + classes_left_out(cells, self.datasets)

    def at(self, cell: Experiment) -> PlannedCell:
        """Look at one cell, which `resolve` returned."""
        if not cell.resolved:
            return PlannedCell(cell, "pending", "data to fetch", None, None)
        if self._identity(cell.input, cell.fit) is None:
            return PlannedCell(cell, "pending", "weights to fetch", None, None)
        dataset = self.datasets[cell.dataset]
        if not encoder_names(cell.input):
            load_input(dataset, cell.input, self.workspace, fit=cell.fit)  # no image is decoded
        stored = "stored" if encoder_names(cell.input) else "none"
        if self.tracker.find_finished(cell.key):
            return PlannedCell(cell, "finished", stored, 0.0, None)
        earlier = self.tracker.newest_metrics(cell)
        new, to_compute = self._to_compute(dataset, cell)
        seconds = (
            earlier.get("time/fit_seconds", 0.0) + earlier["time/score_seconds"]
            if "time/score_seconds" in earlier
            else None
        )
        if new:
            rate = self.tracker.newest_rate(cell)
            seconds = None if seconds is None or not rate else seconds + new / rate
        features = f"{to_compute:,} to compute" if to_compute else stored
        return PlannedCell(cell, "pending", features, seconds, earlier.get("memory/peak_mb"))

    def seen(self, cell: Experiment) -> list[str]:
        """Say what a detector does not see of the images, a line each."""
        if not cell.resolved:
            return []
        lines = describe_view(self.datasets[cell.dataset], cell.input, cell.fit)
        return [f"{cell.dataset}, {cell.input}: {line}" for line in lines]

    def _find_identity(self, name: str, fit: str) -> Mapping[str, Any] | None:
        """Return an input's identity; None if its weights have still to be fetched."""
        try:
            return input_identity(name, self.workspace, fit)
        except MissingWeightsError:
            if self.workspace.weights is not None:
                raise
            return None

    def _to_compute(self, dataset: Dataset, cell: Experiment) -> tuple[int, int]:
        """Count the images to encode for a cell.

        The first number leaves out those that an earlier cell of the plan needs too; the second is
        all of them.
        """
        new = everything = 0
        for name in encoder_names(cell.input):
            store = feature_store(dataset, name, self.workspace, cell.fit)
            path = str(store.path)
            if path not in self._missing:
                self._missing[path] = sum(map(store.rows_in, store.missing()))
                new += self._missing[path]
            everything += self._missing[path]
        return new, everything

    def _open_dataset(self, name: str) -> Dataset:
        workspace = self.workspace
        return load_dataset(
            name,
            home=workspace.home,
            root=workspace.root,
            skip_corrupt=workspace.skip_corrupt,
            max_pixels=workspace.max_pixels,
            drop_duplicates=workspace.drop_duplicates,
        )
