"""Sweeps: Optuna over a detector's parameters and its input; the only package that imports optuna.

question.py   what a study asks: the space, and what is maximised
studies.py    where studies are kept; trials that have to be run again
samplers.py   which point is next
search.py     the trials: each a cell of the benchmark; the winner on the test partition
found.py      what came of it: a table
drawings.py   the study's figures
"""

from benchmarks.sweep.results import Found, SweepTable, Trial, best_record
from benchmarks.sweep.search import Plan, sweep
from benchmarks.sweep.space import OBJECTIVES, Question, make_space, what_fits
from benchmarks.sweep.studies import SAMPLERS, check_storage, check_study_name, choose_sampler

__all__ = [
    "OBJECTIVES",
    "SAMPLERS",
    "Found",
    "Plan",
    "Question",
    "SweepTable",
    "Trial",
    "best_record",
    "check_storage",
    "check_study_name",
    "choose_sampler",
    "make_space",
    "sweep",
    "what_fits",
]
