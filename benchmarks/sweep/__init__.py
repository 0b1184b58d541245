"""Sweeps: Optuna searches a detector's parameters and its input. Nothing else imports optuna.

space.py     what a study asks: the space, and what is maximised
studies.py   where studies are kept, which trials have to run again, and which point is next
search.py    the trials, each a cell of the benchmark; the winner on the test partition
results.py   the outcome of a study: its table, its best trial and its figures
"""

from benchmarks.sweep.results import (
    SweepOutcome,
    SweepTable,
    Trial,
    best_record,
    cheapest_first,
    ties,
)
from benchmarks.sweep.search import StudyPlan, sweep
from benchmarks.sweep.space import OBJECTIVES, Question, make_space, what_fits
from benchmarks.sweep.studies import (
    SAMPLERS,
    Standing,
    check_storage,
    check_study_name,
    choose_sampler,
)

__all__ = [
    "OBJECTIVES",
    "SAMPLERS",
    "Question",
    "Standing",
    "StudyPlan",
    "SweepOutcome",
    "SweepTable",
    "Trial",
    "best_record",
    "cheapest_first",
    "check_storage",
    "check_study_name",
    "choose_sampler",
    "make_space",
    "sweep",
    "ties",
    "what_fits",
]
