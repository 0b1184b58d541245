"""Results <-> MLflow: the only package that imports mlflow, and only when it is used, since that takes two seconds.

store.py      which store: its address, whether it answers, errors in one line
owner.py      which process a run belongs to, and whether it still lives
records.py    results as metrics, a table, JSON and a file of all scores
readback.py   such files as results again
runs.py       Tracker: one top-level run a cell, one summary run an invocation
server.py     the MLflow page
"""

from benchmarks.tracking.connection import TrackingError, find_store
from benchmarks.tracking.records import cell_record, split_records
from benchmarks.tracking.server import serve, ui_link
from benchmarks.tracking.tracker import Tracker

__all__ = [
    "Tracker",
    "TrackingError",
    "cell_record",
    "find_store",
    "serve",
    "split_records",
    "ui_link",
]
