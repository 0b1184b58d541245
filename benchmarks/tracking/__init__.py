"""Results <-> MLflow.

    connection.py  the store: its address, whether it answers, its errors; whose a run is
    moving.py      a store that was moved or copied with its files finds them
    records.py     results as metrics, records, tags and names, and how they are logged
    views.py       what the page shows first: saved views, and descriptions
    tracker.py     Tracker: one top-level run a cell, one summary run an invocation
    finding.py     runs that a user names: by id, by name, by a filter; imported by `compare` alone
    server.py      the MLflow page; imported by `ui` alone

Only this package imports mlflow, and only when it is used, since the import takes two seconds.
"""

from benchmarks.tracking.connection import TrackingError, find_store, ui_link
from benchmarks.tracking.records import cell_record, run_name, split_records
from benchmarks.tracking.tracker import Tracker
from benchmarks.tracking.views import View, result_views, study_view

__all__ = [
    "Tracker",
    "TrackingError",
    "View",
    "cell_record",
    "find_store",
    "result_views",
    "run_name",
    "split_records",
    "study_view",
    "ui_link",
]
