"""Optuna's studies: where they are kept, whether a stored one asks the same, and which trials have to be run again."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from benchmarks.contracts import MissingDataError, OutsideError, UsageError, check_name
from benchmarks.detectors import Range, Values
from benchmarks.experiments import family_of
from benchmarks.sweep.space import Question
from benchmarks.tracking.connection import PROBE_SECONDS, is_dead, without_password
from dn2.files import hold

HEARTBEAT_SECONDS, GRACE_SECONDS = 10, 60
BUSY_SECONDS = 60
"""So long an SQLite file that others write to is waited for."""

REPLACES = "replaces"
"""What a trial says that was put back: the numbers of those that it replaces."""

KINDS = ("sqlite:///", "postgresql://", "postgresql+")


def check_storage(url: str) -> None:
    """Raise UsageError unless the address is empty or of a database that is supported."""
    if url and not url.startswith(KINDS):
        raise UsageError(
            f"--storage takes sqlite:///FILE or postgresql://USER@HOST/DATABASE, got '{without_password(url)}'."
        )


def check_study_name(name: str) -> None:
    """Raise UsageError unless the name is fit for a file."""
    if (
        not name
        or name.startswith(".")
        or not all(letter.isalnum() or letter in "-_." for letter in name)
    ):
        raise UsageError(
            f"a study's name has letters, digits and -_. and begins with no dot, got '{name}'."
        )


@contextmanager
def told_in_one_line(where: str) -> Iterator[None]:
    """Turn what Optuna, a database or the network raises into an `OutsideError`."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (UsageError, MissingDataError, OutsideError):
        raise
    except (
        optuna.exceptions.StorageInternalError,
        SQLAlchemyError,
        ImportError,
        OSError,
        json.JSONDecodeError,
    ) as error:
        cause = (
            error.__cause__
            if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__
            else error
        )
        reason = (
            str(getattr(cause, "orig", None) or cause).splitlines() or [type(cause).__name__]
        )[0][:300]
        remedy = (
            "install the driver of that database"
            if isinstance(error, ImportError)
            else "run the same command when it answers"
        )
        raise OutsideError(
            f"cannot use the study in {without_password(where)} ({reason}): finished results are on disk, {remedy}"
        ) from error


def open_study(
    name: str,
    url: str,
    folder: Path,
    identity: Mapping[str, str],
    sampler: Callable[[int], optuna.samplers.BaseSampler],
) -> optuna.Study:
    """Open a study, or make it; hold `alone` around it.

    Parameters
    ----------
    name : str
    url : str
        Of a database; empty: a journal file in ``folder``.
    folder : Path
    identity : mapping
        What the study asks. A stored one must ask the same.
    sampler : callable
        Given how many times the study was opened before, from which a sampler draws its seed: otherwise two processes would
        propose the same.

    Raises
    ------
    UsageError
        If the stored study asks something else.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    storage = _database(url) if url else _journal(folder / f"{name}.journal")
    study = optuna.create_study(
        study_name=name, storage=storage, direction="maximize", load_if_exists=True
    )
    stored = study.user_attrs.get("asks")
    if stored is None:
        study.set_user_attr("asks", dict(identity))
    elif stored != identity:
        differing = next(
            key for key in sorted({*stored, *identity}) if stored.get(key) != identity.get(key)
        )
        raise UsageError(
            f"the study '{name}' has another {differing}: {stored.get(differing, 'none')}, now "
            f"{identity.get(differing, 'none')}: give the new one a name with --study NAME."
        )
    opened = int(study.user_attrs.get("opened", 0))
    study.set_user_attr("opened", opened + 1)
    study.sampler = sampler(opened)
    return study


@contextmanager
def alone(folder: Path, name: str) -> Iterator[None]:
    """Keep other processes of this home from opening the study, or putting its trials back, at the same time."""
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(hold(folder / f"{name}.lock", wait=True))
        except OSError as error:
            raise OutsideError(
                f"cannot write {folder} ({error.strerror}): free some space there, or set DN2_HOME"
            ) from error
        yield


def identity_of(trial: FrozenTrial) -> str:
    """Which point of the space a trial is at, as text."""
    return point(params_of(trial))


def params_of(trial: FrozenTrial) -> dict[str, Any]:
    """A trial's parameters; of one that waits, those it will have."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def point(params: Mapping[str, Any]) -> str:
    """A point of the space as text."""
    return json.dumps(dict(params), sort_keys=True)


def is_stale(trial: FrozenTrial) -> bool:
    """Whether a trial is marked as running and its process, of this host, has ended, or has for a minute not said who it is."""
    if trial.state != TrialState.RUNNING:
        return False
    if (owner := trial.user_attrs.get("owner")) is not None:
        return is_dead(owner)
    begun = trial.datetime_start
    return begun is not None and datetime.now() - begun > timedelta(seconds=GRACE_SECONDS)


def put_back(study: optuna.Study, names: Collection[str], *, failed: bool) -> int:
    """Queue again the trials whose process died or was interrupted, and, if wanted, those that failed; return how many.

    Parameters
    ----------
    study : Study
    names : collection of str
        The parameters of the space: a trial that died before it had them all is no point of it.
    failed : bool
        Those too that failed for a reason of their own.
    """
    for trial in study.get_trials(deepcopy=False):
        if is_stale(trial):
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    trials = study.get_trials(deepcopy=False)
    there = {identity_of(trial) for trial in trials if trial.state != TrialState.FAIL}
    again: dict[str, list[FrozenTrial]] = {}
    for trial in trials:
        whole = params_of(trial).keys() == set(names)
        if (
            trial.state == TrialState.FAIL
            and whole
            and identity_of(trial) not in there
            and (failed or "error" not in trial.user_attrs)
        ):
            again.setdefault(identity_of(trial), []).append(trial)
    for same in again.values():
        study.enqueue_trial(
            params_of(same[0]), user_attrs={REPLACES: [trial.number for trial in same]}
        )
    return len(again)


def replaced_by_others(trials: Collection[FrozenTrial]) -> set[int]:
    """The numbers of the trials that were put back: others stand in their place."""
    return {number for trial in trials for number in trial.user_attrs.get(REPLACES, ())}


def runs_elsewhere(study: optuna.Study, host: str, *, heartbeats: bool) -> list[FrozenTrial]:
    """The trials that living processes are at: those of this host or of nobody yet, and with heartbeats those of all hosts."""
    if heartbeats:
        optuna.storages.fail_stale_trials(study)
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [
        trial
        for trial in running
        if (heartbeats or trial.user_attrs.get("owner", {}).get("host", host) == host)
        and not is_stale(trial)
    ]


def _journal(path: Path) -> optuna.storages.JournalStorage:
    return optuna.storages.JournalStorage(JournalFileBackend(str(path)))


def _database(url: str) -> optuna.storages.RDBStorage:
    if url.startswith("postgresql://") and importlib.util.find_spec("psycopg") is None:
        url = url.replace(
            "postgresql://", "postgresql+psycopg2://", 1
        )  # the older driver, where it is the one that is there
    is_file = url.startswith("sqlite")
    if is_file:
        Path(url.removeprefix("sqlite:///")).absolute().parent.mkdir(parents=True, exist_ok=True)
    return optuna.storages.RDBStorage(
        url,
        engine_kwargs={
            "connect_args": {"timeout": BUSY_SECONDS}
            if is_file
            else {"connect_timeout": PROBE_SECONDS}
        },
        heartbeat_interval=HEARTBEAT_SECONDS,
        grace_period=GRACE_SECONDS,
        heartbeat_stale_trial_callback=_again,
    )


def _again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue a trial without heartbeats again. Optuna's own way would have it carry the name of its dead process."""
    if params := params_of(trial):
        study.enqueue_trial(params)


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
        ranges = ", ".join(
            parameter for parameter, values in question.space.items() if isinstance(values, Range)
        )
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
        family = family_of(question.cell(params))
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
    live = [
        identity_of(trial)
        for trial in found
        if trial.state in (TrialState.COMPLETE, TrialState.RUNNING)
    ]
    replaced = replaced_by_others(found)
    failed = [
        trial for trial in found if trial.state == TrialState.FAIL and "error" in trial.user_attrs
    ]
    for_good = [
        identity_of(trial)
        for trial in failed
        if trial.number not in replaced and identity_of(trial) not in live
    ]
    begun = len({*live, *for_good}) if sampler == BRUTE else len(live) + len(for_good)
    left = max(trials - begun, 0)
    return (
        min(left, sum(trial.state == TrialState.WAITING for trial in found))
        if sampler == BRUTE
        else left
    )


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
