"""What a run would do and cost, as far as the stores and earlier runs tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.contracts import Experiment, MissingDataError, Workspace
from benchmarks.datasets import load_dataset
from benchmarks.experiments import check, resolve
from benchmarks.inputs import encoder_names, feature_store
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
        ``stored``, ``60,000 to compute``, or what is missing: ``data to fetch``, ``weights to fetch``.
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


def plan_cells(experiments: Sequence[Experiment], workspace: Workspace, tracker: Tracker) -> list[PlannedCell]:
    """Look at data, weights, feature stores and the tracking store, and compute nothing.

    Raises
    ------
    UsageError
        If a cell cannot run, as `run` would say.
    TrackingError
    """
    extracting: set[str] = set()  # stores whose time is counted already: cells share them
    return [_plan(experiment, workspace, tracker, extracting) for experiment in experiments]


def _plan(experiment: Experiment, workspace: Workspace, tracker: Tracker, extracting: set[str]) -> PlannedCell:
    try:
        dataset = load_dataset(experiment.dataset, home=workspace.home, root=workspace.root)
        cell = resolve(experiment, dataset, workspace)
    except MissingDataError:
        if workspace.root is not None:
            raise
        return PlannedCell(experiment, "pending", "data to fetch", None, None)
    except MissingWeightsError:
        return PlannedCell(experiment, "pending", "weights to fetch", None, None)
    check(cell, dataset)
    if tracker.find_finished(cell.key):
        return PlannedCell(cell, "finished", "stored", 0.0, None)
    earlier = tracker.newest_metrics(cell)
    stores = [feature_store(dataset, name, workspace) for name in encoder_names(cell.input)]
    to_compute = {str(store.path): sum(map(store.rows_in, store.missing())) for store in stores}
    features = f"{sum(to_compute.values()):,} to compute" if any(to_compute.values()) else "stored"
    seconds = earlier.get("time/fit_seconds", 0.0) + earlier["time/score_seconds"] if "time/score_seconds" in earlier else None
    images = sum(n for path, n in to_compute.items() if path not in extracting)
    extracting.update(to_compute)
    if images:
        rate = earlier.get("throughput/images_per_second")
        seconds = None if seconds is None or not rate else seconds + images / rate
    return PlannedCell(cell, "pending", features, seconds, earlier.get("memory/peak_mb"))
