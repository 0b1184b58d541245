"""SAMPLERS: which point of the space the next trial is at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from benchmarks.contracts import UsageError
from benchmarks.detectors import Range, Values
from benchmarks.names import check_name
from benchmarks.sweep.question import Question
from benchmarks.sweep.studies import identity_of, point, replaced_by_others

BRUTE, TPE = "brute", "tpe"
SAMPLERS = {
    BRUTE: "each point of a grid once, in random order",
    TPE: "tree-structured Parzen estimator",
    "random": "uniform",
    "gp": "Gaussian process",
}
DEFAULT_TRIALS = 60
"""Of a space that has no end."""


class GridDoneError(Exception):
    """Another process took the last point of the grid."""


def choose_sampler(name: str, question: Question, trials: int | None) -> tuple[str, int]:
    """Return the sampler, by default the one for the space, and how many trials the study shall have.

    Parameters
    ----------
    name : str
        Empty: brute for a grid, tpe for ranges.
    question : Question
    trials : int or None
        None: the whole grid, or 60. A study has no more than the grid has points if each is visited once.

    Raises
    ------
    UsageError
        If the name is unknown or unfit for the space, or there is no trial.
    """
    size = question.size
    name = check_name(name, SAMPLERS, "sampler") if name else (BRUTE if size is not None else TPE)
    if trials is not None and trials < 1:
        raise UsageError(f"--trials must be at least 1, got {trials}.")
    if name != BRUTE:
        return name, trials or DEFAULT_TRIALS
    if size is None:
        ranges = ", ".join(parameter for parameter, values in question.space.items() if isinstance(values, Range))
        raise UsageError(
            f"--sampler brute takes a finite grid, and {ranges} of '{question.detector}' is a range: take --sampler tpe."
        )
    return name, min(trials or size, size)


def make_sampler(name: str, seed: int) -> Callable[[int], optuna.samplers.BaseSampler]:
    """A function that makes the sampler, given how many times the study was opened before."""

    def make(opened: int) -> optuna.samplers.BaseSampler:
        own_seed = int(np.random.SeedSequence([seed, opened]).generate_state(1)[0])
        if name == "gp":
            return optuna.samplers.GPSampler(seed=own_seed)
        if name == TPE:
            # Running trials count as bad ones meanwhile, so that several workers do not ask for the same point.
            return optuna.samplers.TPESampler(seed=own_seed, constant_liar=True)
        return _Queued() if name == BRUTE else optuna.samplers.RandomSampler(seed=own_seed)

    return make


def queue_grid(study: optuna.Study, question: Question, trials: int) -> None:
    """Queue points of the grid, in an order drawn with the question's seed, until the study has so many. Points that one search
    serves are far apart in it, so that trials which run at once do not wait for each other.

    Optuna's own brute sampler lets two processes choose the same point, and takes one whose process died for visited; a queue of
    waiting trials does neither, in every storage.
    """
    there = {identity_of(trial) for trial in study.get_trials(deepcopy=False)}
    grid = list(question.grid())
    drawn = [grid[number] for number in np.random.default_rng(question.seed).permutation(len(grid))]
    before: Counter[str] = Counter()
    turns = []
    for params in drawn:
        family = point({name: value for name, value in params.items() if name not in question.shared})
        turns.append(before[family])
        before[family] += 1
    for number in np.argsort(turns, kind="stable"):
        if len(there) >= trials:
            return
        if point(drawn[number]) not in there:
            study.enqueue_trial(drawn[number])
            there.add(point(drawn[number]))


def trials_left(study: optuna.Study, sampler: str, trials: int) -> int:
    """How many trials have yet to be begun, by whichever process, until the study has so many. One that failed and was put back
    counts as one, not as two.
    """
    found = study.get_trials(deepcopy=False)
    live = [identity_of(trial) for trial in found if trial.state in (TrialState.COMPLETE, TrialState.RUNNING)]
    replaced = replaced_by_others(found)
    failed = [trial for trial in found if trial.state == TrialState.FAIL and "error" in trial.user_attrs]
    for_good = [identity_of(trial) for trial in failed if trial.number not in replaced and identity_of(trial) not in live]
    begun = len({*live, *for_good}) if sampler == BRUTE else len(live) + len(for_good)
    left = max(trials - begun, 0)
    return min(left, sum(trial.state == TrialState.WAITING for trial in found)) if sampler == BRUTE else left


def suggest(trial: optuna.Trial, space: Mapping[str, Values]) -> dict[str, Any]:
    """A point of the space."""
    return {
        name: trial.suggest_float(name, values.low, values.high, log=values.log)
        if isinstance(values, Range)
        else trial.suggest_categorical(name, values)
        for name, values in space.items()
    }


class _Queued(optuna.samplers.BaseSampler):
    """Proposes nothing: every point is in the queue."""

    def infer_relative_search_space(self, *_: Any) -> dict[str, Any]:
        return {}

    def sample_relative(self, *_: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, *_: Any) -> Any:
        raise GridDoneError("no point of the grid is left")
