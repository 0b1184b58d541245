"""What a run would do and cost, as far as the stores and earlier runs tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from benchmarks.contracts import Dataset, Experiment, MissingDataError, Workspace
from benchmarks.datasets import load_dataset
from benchmarks.experiments import plan, resolve, same_fit
from benchmarks.inputs import encoder_names, feature_store, input_identity
from benchmarks.tracking import Tracker
from dn2.encoders import MissingWeightsError


@dataclass(frozen=True)
class PlannedCell:
    """One cell of a plan.

    Attributes
    ----------
    experiment : Experiment
    status : {"finished", "pending"}
    features : str
        ``stored``, ``60,000 to compute``, ``none`` of a detector on pixels, or what is missing: ``data to fetch``,
        ``weights to fetch``.
    seconds, megabytes : float or None
        Time left to compute and peak memory, by the newest finished run of the same kind; None where none tells.
    """

    experiment: Experiment
    status: str
    features: str
    seconds: float | None
    megabytes: float | None

    def record(self) -> dict[str, Any]:
        """The cell as JSON takes it."""
        return {
            "key": self.experiment.key,
            "params": self.experiment.params,
            "status": self.status,
            "features": self.features,
            "seconds": self.seconds,
            "megabytes": self.megabytes,
        }


def plan_cells(
    experiments: Sequence[Experiment], workspace: Workspace, tracker: Tracker
) -> list[PlannedCell]:
    """Look at data, weights, feature stores and the tracking store, and compute nothing.

    Time that cells share is counted once, with the first of them: extracting features, and the one search for every k.

    Raises
    ------
    UsageError
        If a cell cannot run, as `run` would say.
    TrackingError
    """
    look = _Look(workspace, tracker)
    planned = [look.at(experiment) for experiment in experiments]
    pending = [cell.experiment for cell in planned if cell.status == "pending"]
    # Of inputs that were searched together each one's time is its share.
    first = {
        key
        for group in same_fit(pending)
        for key in {cell.input: cell.key for cell in reversed(group)}.values()
    }
    searched = {cell.key for cell in pending} - first
    return [
        replace(cell, seconds=0.0)
        if cell.experiment.key in searched and cell.seconds is not None
        else cell
        for cell in planned
    ]


class _Look:
    """What several cells ask for and is looked at once."""

    def __init__(self, workspace: Workspace, tracker: Tracker) -> None:
        self.workspace = workspace
        self.tracker = tracker
        self._open = cache(self._open_dataset)
        self._identity = cache(lambda name: input_identity(name, workspace))
        self._missing: dict[str, int] = {}

    def at(self, experiment: Experiment) -> PlannedCell:
        """Look at one cell."""
        try:
            dataset = self._open(experiment.dataset)
            cell = resolve(experiment, dataset, self._identity(experiment.input))
        except MissingDataError:
            if self.workspace.root is not None:
                raise
            return PlannedCell(experiment, "pending", "data to fetch", None, None)
        except MissingWeightsError:
            return PlannedCell(experiment, "pending", "weights to fetch", None, None)
        plan([cell], {cell.dataset: dataset}, {})  # which refuses what cannot run
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
            rate = earlier.get("throughput/images_per_second")
            seconds = None if seconds is None or not rate else seconds + new / rate
        features = f"{to_compute:,} to compute" if to_compute else stored
        return PlannedCell(cell, "pending", features, seconds, earlier.get("memory/peak_mb"))

    def _to_compute(self, dataset: Dataset, cell: Experiment) -> tuple[int, int]:
        """Count the images to encode for a cell: those that no earlier cell of the plan needs too, and all."""
        new = everything = 0
        for name in encoder_names(cell.input):
            store = feature_store(dataset, name, self.workspace)
            path = str(store.path)
            if path not in self._missing:
                self._missing[path] = sum(map(store.rows_in, store.missing()))
                new += self._missing[path]
            everything += self._missing[path]
        return new, everything

    def _open_dataset(self, name: str) -> Dataset:
        workspace = self.workspace
        return load_dataset(
            name, home=workspace.home, root=workspace.root, skip_corrupt=workspace.skip_corrupt
        )
