"""What came of a session."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.contracts import Cell
from benchmarks.report import Table
from benchmarks.tracking import TrackingError


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
