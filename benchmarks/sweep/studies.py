"""Keep studies in Optuna's storages, and choose which point is next.

First the storage: its address, its errors, the study in it and the lock around it. Then the stored
trials: which of them were interrupted and have to run again, and which are running. Last the
samplers: the default one, the queue that stands for a grid, and how many trials are left to begin.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sqlite3
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from benchmarks.contracts import MissingDataError, OutsideError, UsageError, check_name
from benchmarks.detectors import Range, Values
from benchmarks.experiments import family_of
from benchmarks.sweep.journal import Journal
from benchmarks.sweep.space import Question
from benchmarks.tracking.connection import PROBE_SECONDS, is_dead, without_password
from dn2.files import hold

STORAGES = ("sqlite:///", "postgresql://", "postgresql+")
BUSY_SECONDS = 60
"""How long an SQLite file is waited for while other processes write to it."""

HEARTBEAT_SECONDS, GRACE_SECONDS = 10, 60

REPLACES = "replaces"
"""The attribute of a requeued trial that lists the numbers of the trials it replaces."""

BRUTE, TPE = "brute", "tpe"
SAMPLERS = {
    BRUTE: "each point of a grid once, in random order",
    TPE: "tree-structured Parzen estimator",
    "random": "uniform",
    "gp": "Gaussian process",
}
DEFAULT_TRIALS = 60
"""The number of trials for a space with a range, which has no last point."""


@dataclass(frozen=True)
class Standing:
    """Say how far a study is, over all the processes that share it.

    Attributes
    ----------
    study : str
    done, total : int
        Trials that have ended, and trials in the end.
    best : float or None
        The highest value so far.
    seconds_left : float or None
        As the trials since this process began make it expect; None if there was none.
    """

    study: str
    done: int
    total: int
    best: float | None
    seconds_left: float | None


class GridDoneError(Exception):
    """Report that another process took the point, or the last one of the grid."""


def check_storage(url: str) -> None:
    """Raise UsageError unless the address is empty or names a supported database."""
    if url and not url.startswith(STORAGES):
        raise UsageError(
            f"--storage takes sqlite:///FILE or postgresql://USER@HOST/DATABASE, "
            f"got '{without_password(url)}'."
        )


def check_study_name(name: str) -> None:
    """Raise UsageError unless the name is fit for a file."""
    if (
        not name
        or name.startswith(".")
        or not all(letter.isalnum() or letter in "-_." for letter in name)
    ):
        raise UsageError(
            f"a study's name consists of letters, digits and -_. and does not begin with a dot, "
            f"got '{name}'."
        )


@contextmanager
def storage_errors(where: str) -> Iterator[None]:
    """Turn an error of Optuna, a database or the network into an `OutsideError` of one line."""
    from sqlalchemy.exc import SQLAlchemyError

    faults = (
        optuna.exceptions.StorageInternalError,
        SQLAlchemyError,
        ImportError,
        OSError,
        json.JSONDecodeError,
    )
    try:
        yield
    except (UsageError, MissingDataError, OutsideError):
        raise
    except (*faults, AssertionError) as error:
        cause: BaseException = error
        if isinstance(error, AssertionError):
            # Optuna asserts that a trial has ended, although it could not write so.
            if not isinstance(error.__context__, (*faults, OutsideError)):
                raise
            cause = error.__context__
            if isinstance(cause, OutsideError):
                raise cause from None
        if isinstance(cause, optuna.exceptions.StorageInternalError) and cause.__cause__:
            cause = cause.__cause__
        lines = str(getattr(cause, "orig", None) or cause).splitlines()
        reason = (lines or [type(cause).__name__])[0][:300]
        remedy = "run the same command when it answers"
        if isinstance(error, ImportError):
            remedy = "install the driver of that database"
        elif isinstance(cause, OSError) and "://" not in where:
            reason = cause.strerror or reason
            remedy = "free some space there, or make it writable, and run the same command again"
        elif where.startswith("sqlite") and "locked" in reason:
            remedy = "run the same command again when the other process has ended"
        elif where.startswith("sqlite"):
            remedy = f"{MOVE_AWAY}, or run the same command again if its disk was full"
        raise OutsideError(
            f"cannot use the study in {without_password(where)} ({reason}): "
            f"finished results are on disk, {remedy}"
        ) from error


MOVE_AWAY = "if it is damaged, move it away: the study is made again from the finished runs"


@contextmanager
def _opening(name: str, where: str) -> Iterator[None]:
    """Turn whatever a damaged or foreign storage makes Optuna raise into one line.

    Raises
    ------
    OutsideError
    """
    try:
        with storage_errors(where):
            yield
    except (UsageError, MissingDataError, OutsideError):
        raise
    except Exception as error:  # nothing of ours runs inside, and Optuna checks nothing it reads
        shown, reason = without_password(where), f"{type(error).__name__}: {error}".splitlines()[0]
        if "optuna storage upgrade" in str(error):
            raise OutsideError(
                f"the study '{name}' is in a database of an older Optuna than "
                f"{optuna.__version__}: run `optuna storage upgrade --storage {shown}` once"
            ) from error
        if "updating optuna" in str(error):
            raise OutsideError(
                f"the study '{name}' is in a database of a newer Optuna than "
                f"{optuna.__version__}, {shown}: install that one, or take another --storage"
            ) from error
        raise OutsideError(
            f"the study '{name}' in {shown} cannot be read ({reason[:200]}): {MOVE_AWAY}"
        ) from error


def open_study(
    name: str,
    url: str,
    folder: Path,
    identity: Mapping[str, str],
    sampler: Callable[[int], optuna.samplers.BaseSampler],
) -> optuna.Study:
    """Open a study or create it; the caller holds `lock_study`.

    Parameters
    ----------
    name : str
    url : str
        Address of a database; empty means a journal file in ``folder``.
    folder : Path
    identity : mapping
        What the study asks. A stored study of that name must ask the same.
    sampler : callable
        Called with how many times the study was opened before. A sampler draws its seed from that
        number; otherwise two processes would propose the same points.

    Raises
    ------
    UsageError
        If the stored study asks something else.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    study = stored_study(name, url, folder)
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


def stored_study(name: str, url: str, folder: Path) -> optuna.Study:
    """Open a study or create it, and check all that is stored.

    Raises
    ------
    OutsideError
        If the storage cannot be used, or holds what was not written.
    """
    where = url or str(folder / f"{name}.journal")
    with _opening(name, where):
        storage = _database(url) if url else optuna.storages.JournalStorage(Journal(Path(where)))
        study = optuna.create_study(
            study_name=name, storage=storage, direction="maximize", load_if_exists=True
        )
        _check(study)
    return study


def _check(study: optuna.Study) -> None:
    """Raise ValueError unless all that we keep in a study is as we write it.

    Optuna keeps what it is given. An altered value would end a sweep much later, or be its result.
    """
    kept = study.user_attrs
    asked = kept.get("asks", {})
    if not isinstance(asked, dict) or not all(isinstance(text, str) for text in asked.values()):
        raise ValueError("what it asks is no table of texts")
    if type(kept.get("opened", 0)) is not int or kept.get("opened", 0) < 0:
        raise ValueError("it does not know how often it was opened")
    if study.directions != [optuna.study.StudyDirection.MAXIMIZE]:
        raise ValueError("it does not maximise one value")
    for trial in study.get_trials(deepcopy=False):
        if fault := _fault(trial):
            raise ValueError(f"trial {trial.number} has {fault}")


def _fault(trial: FrozenTrial) -> str:
    """Say what of a trial is not as we write it; empty if all of it is."""
    attrs, fixed = trial.user_attrs, trial.system_attrs.get("fixed_params", {})
    owner, replaced = attrs.get("owner", {}), attrs.get(REPLACES, [])
    if not isinstance(owner, dict) or not all(isinstance(text, str) for text in owner.values()):
        return "an owner that is no process"
    if not isinstance(replaced, list) or not all(type(number) is int for number in replaced):
        return f"an attribute '{REPLACES}' that is no list of trials"
    if not isinstance(fixed, dict) or not all(
        isinstance(value, int | float | str | None)
        for value in (*fixed.values(), *trial.params.values())
    ):
        return "parameters that are none"
    if not all(isinstance(attrs.get(name, ""), str) for name in ("error", "run_id")):
        return "a reason or a run that is no text"
    if trial.state == TrialState.COMPLETE:
        if trial.value is None or not 0 <= trial.value <= 1:
            return f"the value {trial.value}, which is no ROCAUC"
        if attrs.get(DIGEST, _digest(trial)) != _digest(trial):
            return "a value or parameters that are not those of its run"
    return ""


DIGEST = "digest"
"""The attribute of a trial with a checksum of its point and value: databases have none."""


def _digest(trial: FrozenTrial) -> str:
    return value_digest(params_of(trial), trial.value)


def value_digest(params: Mapping[str, Any], value: float | None) -> str:
    """Return a checksum of a trial's point and its value."""
    text = json.dumps([point_text(params), value])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _database(url: str) -> optuna.storages.RDBStorage:
    if url.startswith("postgresql://") and importlib.util.find_spec("psycopg") is None:
        # SQLAlchemy's default is psycopg; the older driver serves if only that is installed.
        url = url.replace("postgresql://", "postgresql+psycopg2://", 1)
    connect_args = {"connect_timeout": PROBE_SECONDS}
    if url.startswith("sqlite"):
        Path(url.removeprefix("sqlite:///")).absolute().parent.mkdir(parents=True, exist_ok=True)
        connect_args = {"timeout": BUSY_SECONDS}
        _check_pages(Path(url.removeprefix("sqlite:///")))
    storage = optuna.storages.RDBStorage(
        url,
        engine_kwargs={"connect_args": connect_args},
        heartbeat_interval=HEARTBEAT_SECONDS,
        grace_period=GRACE_SECONDS,
        heartbeat_stale_trial_callback=_requeue_without_owner,
    )
    if url.startswith("sqlite"):
        _lock_before_reading(storage.engine)
    return storage


def _check_pages(path: Path) -> None:
    """Raise ValueError if an SQLite file is damaged: a trial would be missing without a word."""
    if path.is_file() and path.stat().st_size:
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as database:
            (found,) = database.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise ValueError(f"its file is damaged: {found}")


def _lock_before_reading(engine: Any) -> None:
    """Have each transaction in an SQLite file lock it before it reads.

    By default a transaction locks when it first writes. Two processes could then both read that a
    trial waits, and both take it.
    """
    from sqlalchemy import event

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver begins no transaction by itself

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # connections that were opened before


def _requeue_without_owner(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue a trial without heartbeats again.

    Optuna's own callback would copy the attributes, and with them the dead process as the owner.
    """
    if params := params_of(trial):
        study.enqueue_trial(params)


@contextmanager
def lock_study(folder: Path, name: str) -> Iterator[None]:
    """Keep other processes of this home from opening the study or requeueing its trials."""
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(hold(folder / f"{name}.lock", wait=True))
        except OSError as error:
            raise OutsideError(
                f"cannot write {folder} ({error.strerror}): free some space there, or set DN2_HOME"
            ) from error
        yield


def params_of(trial: FrozenTrial) -> dict[str, Any]:
    """Return a trial's parameters; for a waiting trial, those that it will have."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def point_of(trial: FrozenTrial) -> str:
    """Write a trial's point of the space as text."""
    return point_text(params_of(trial))


def point_text(params: Mapping[str, Any]) -> str:
    """Write a point of the space as text."""
    return json.dumps(dict(params), sort_keys=True)


def requeue(study: optuna.Study, names: Collection[str], *, failed: bool) -> int:
    """Queue interrupted trials again, and on request failed ones; return how many.

    A trial is interrupted if its process died or was stopped in the middle of it.

    Parameters
    ----------
    study : Study
    names : collection of str
        The parameters of the space. A trial that ended before it had all of them is no point of
        the space, and is left out.
    failed : bool
        Whether to include the trials that failed for a reason of their own.
    """
    for trial in study.get_trials(deepcopy=False):
        if is_stale(trial):
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    trials = study.get_trials(deepcopy=False)
    there = {point_of(trial) for trial in trials if trial.state != TrialState.FAIL}
    again: dict[str, list[FrozenTrial]] = {}
    for trial in trials:
        whole = params_of(trial).keys() == set(names)
        if (
            trial.state == TrialState.FAIL
            and whole
            and point_of(trial) not in there
            and (failed or "error" not in trial.user_attrs)
        ):
            again.setdefault(point_of(trial), []).append(trial)
    for same in again.values():
        study.enqueue_trial(
            params_of(same[0]), user_attrs={REPLACES: [trial.number for trial in same]}
        )
    return len(again)


def is_stale(trial: FrozenTrial) -> bool:
    """Tell whether a trial is marked as running although its process on this host is gone.

    A process registers as the owner when it begins the trial. A trial that has had no owner for a
    minute is stale too.
    """
    if trial.state != TrialState.RUNNING:
        return False
    if (owner := trial.user_attrs.get("owner")) is not None:
        return is_dead(owner)
    begun = trial.datetime_start
    return begun is not None and datetime.now() - begun > timedelta(seconds=GRACE_SECONDS)


def running_elsewhere(study: optuna.Study, host: str, *, heartbeats: bool) -> list[FrozenTrial]:
    """List the trials that living processes run.

    With heartbeats these are the trials of all hosts; without, those of this host and those that
    have no owner yet.
    """
    if heartbeats:
        optuna.storages.fail_stale_trials(study)
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [
        trial
        for trial in running
        if (heartbeats or trial.user_attrs.get("owner", {}).get("host", host) == host)
        and not is_stale(trial)
    ]


def choose_sampler(name: str, question: Question, trials: int | None) -> tuple[str, int]:
    """Return the sampler's name and how many trials the study should have.

    Parameters
    ----------
    name : str
        Empty means brute for a grid, tpe for a space with a range.
    question : Question
    trials : int or None
        None means the whole grid, or 60. Each point of a grid is visited once, so a study has no
        more trials than its grid has points.

    Raises
    ------
    UsageError
        If the name is unknown or does not suit the space, or there would be no trial.
    """
    size = question.size
    name = check_name(name, SAMPLERS, "sampler") if name else (BRUTE if size is not None else TPE)
    if trials is not None and trials < 1:
        raise UsageError(f"--trials must be at least 1, got {trials}.")
    if name != BRUTE:
        wanted = trials or DEFAULT_TRIALS
        return name, wanted if size is None else min(wanted, size)
    if size is None:
        ranges = ", ".join(
            parameter for parameter, values in question.space.items() if isinstance(values, Range)
        )
        raise UsageError(
            f"--sampler brute takes a finite grid, and {ranges} of '{question.detector}' is a "
            f"range: take --sampler tpe."
        )
    return name, min(trials or size, size)


def make_sampler(name: str, question: Question) -> Callable[[int], optuna.samplers.BaseSampler]:
    """Return a function that makes the sampler, given how often the study was opened before."""

    def make(opened: int) -> optuna.samplers.BaseSampler:
        own_seed = int(np.random.SeedSequence([question.seed, opened]).generate_state(1)[0])
        if name == BRUTE:
            return _Queued()
        samplers: dict[str, Callable[[], optuna.samplers.BaseSampler]] = {
            "gp": lambda: optuna.samplers.GPSampler(seed=own_seed),
            # Running trials count as bad ones, so that workers do not all ask for one point.
            TPE: lambda: optuna.samplers.TPESampler(seed=own_seed, constant_liar=True),
            "random": lambda: optuna.samplers.RandomSampler(seed=own_seed),
        }
        sampler = samplers[name]()
        return sampler if question.size is None else _EachOnce(sampler, question, own_seed)

    return make


class _EachOnce(optuna.samplers.BaseSampler):
    """Have a sampler propose points of a finite grid until one is new.

    If it insists on points that were tried, one that was not is drawn at random.

    Parameters
    ----------
    sampler : BaseSampler
    question : Question
        With a finite space.
    seed : int
    """

    PROPOSALS = 10

    def __init__(self, sampler: optuna.samplers.BaseSampler, question: Question, seed: int) -> None:
        self._sampler, self._random = sampler, np.random.default_rng(seed)
        self._grid = {point_text(params): params for params in question.grid()}
        self._space: dict[str, Any] = {
            name: optuna.distributions.CategoricalDistribution(values)
            for name, values in question.space.items()
            if not isinstance(values, Range)
        }

    def infer_relative_search_space(self, *_: Any) -> dict[str, Any]:
        return self._space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, _: dict[str, Any]
    ) -> dict[str, Any]:
        tried = taken_points(study, trial.number)
        new = [point for point in self._grid if point not in tried]
        if not new:
            raise GridDoneError("no point of the grid is left")
        space = self._sampler.infer_relative_search_space(study, trial)
        for attempt in range(self.PROPOSALS):
            # What a sampler proposes as a whole does not change when it is asked again.
            whole = self._sampler.sample_relative(study, trial, space) if attempt == 0 else {}
            params = {
                name: whole[name]
                if name in whole
                else self._sampler.sample_independent(study, trial, name, values)
                for name, values in self._space.items()
            }
            if point_text(params) in new:
                return params
        return self._grid[new[int(self._random.integers(len(new)))]]

    def sample_independent(self, *_: Any) -> Any:
        raise GridDoneError("the grid has no such parameter")

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._sampler.before_trial(study, trial)

    def after_trial(self, *ended: Any) -> None:
        self._sampler.after_trial(*ended)


def taken_points(study: optuna.Study, number: int) -> set[str]:
    """Return the points of all other trials, but those that were interrupted."""
    return {
        point_of(trial)
        for trial in study.get_trials(deepcopy=False)
        if trial.number != number
        and (trial.state != TrialState.FAIL or "error" in trial.user_attrs)
    }


def is_taken(study: optuna.Study, number: int, params: Mapping[str, Any]) -> bool:
    """Tell whether an earlier trial, perhaps of another process, has the same point.

    Of two that chose it at once, the first keeps it: each asks after it has told its own.
    """
    point = point_text(params)
    return any(
        trial.number < number
        and point_of(trial) == point
        and trial.state in (TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING)
        for trial in study.get_trials(deepcopy=False)
    )


class _Queued(optuna.samplers.BaseSampler):
    """Propose no point, because every point of a grid is in the queue."""

    def infer_relative_search_space(self, *_: Any) -> dict[str, Any]:
        return {}

    def sample_relative(self, *_: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, *_: Any) -> Any:
        raise GridDoneError("no point of the grid is left")


def queue_grid(study: optuna.Study, question: Question, trials: int) -> None:
    """Queue points of the grid until the study has ``trials`` of them.

    The question's seed draws their order. Points that one search serves are far apart in it, so
    that trials which run at once do not wait for each other.

    Optuna's own brute-force sampler lets two processes choose the same point, and counts a point
    as visited if its process died. A queue of waiting trials does neither, in every storage.
    """
    there = {point_of(trial) for trial in study.get_trials(deepcopy=False)}
    grid = list(question.grid())
    drawn = [grid[number] for number in np.random.default_rng(question.seed).permutation(len(grid))]
    before: Counter[str] = Counter()
    turns = []  # how many points of the same family come before each point
    for params in drawn:
        family = family_of(question.cell(params))
        turns.append(before[family])
        before[family] += 1
    for number in np.argsort(turns, kind="stable"):
        if len(there) >= trials:
            return
        if point_text(drawn[number]) not in there:
            study.enqueue_trial(drawn[number])
            there.add(point_text(drawn[number]))


def trials_left(study: optuna.Study, sampler: str, trials: int) -> int:
    """Count the trials that some process still has to begin until the study has ``trials``.

    A trial that failed and was queued again counts once.
    """
    found = study.get_trials(deepcopy=False)
    live = [
        point_of(trial)
        for trial in found
        if trial.state in (TrialState.COMPLETE, TrialState.RUNNING)
    ]
    failed_for_good = [point for point in _failed_for_good(found) if point not in live]
    if sampler != BRUTE:
        return max(trials - len({*live, *failed_for_good}), 0)
    waiting = sum(trial.state == TrialState.WAITING for trial in found)
    return min(max(trials - len({*live, *failed_for_good}), 0), waiting)


def _failed_for_good(trials: Sequence[FrozenTrial]) -> list[str]:
    """List the points of trials that failed for a reason of their own and are not run again."""
    replaced = {number for trial in trials for number in trial.user_attrs.get(REPLACES, ())}
    return [
        point_of(trial)
        for trial in trials
        if trial.state == TrialState.FAIL
        and "error" in trial.user_attrs
        and trial.number not in replaced
    ]


def counted(study: optuna.Study) -> tuple[int, float | None]:
    """Count the trials that have ended, and return the highest value; None if there is none."""
    found = study.get_trials(deepcopy=False)
    complete = [trial for trial in found if trial.state == TrialState.COMPLETE]
    points = {point_of(trial) for trial in complete}
    failed = [point for point in _failed_for_good(found) if point not in points]
    values = [trial.value for trial in complete if trial.value is not None]
    return len(complete) + len(failed), max(values, default=None)


def suggest_point(trial: optuna.Trial, space: Mapping[str, Values]) -> dict[str, Any]:
    """Have a trial suggest a point of the space."""
    return {
        name: trial.suggest_float(name, values.low, values.high, log=values.log)
        if isinstance(values, Range)
        else trial.suggest_categorical(name, values)
        for name, values in space.items()
    }
