"""Optuna's studies: where they are kept, whether a stored one asks the same, and which trials have to be run again."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from benchmarks.contracts import MissingDataError, OutsideError, UsageError
from benchmarks.tracking.owner import is_dead
from benchmarks.tracking.store import PROBE_SECONDS, without_password

HEARTBEAT_SECONDS, GRACE_SECONDS = 10, 60
BUSY_SECONDS = 60
"""So long an SQLite file that others write to is waited for."""

REPLACES = "replaces"
"""What a trial says that was put back: the numbers of those that it replaces."""

KINDS = ("sqlite:///", "postgresql://", "postgresql+")


def check_storage(url: str) -> None:
    """Raise UsageError unless the address is empty or of a database that is supported."""
    if url and not url.startswith(KINDS):
        raise UsageError(f"--storage takes sqlite:///FILE or postgresql://USER@HOST/DATABASE, got '{without_password(url)}'.")


def check_study_name(name: str) -> None:
    """Raise UsageError unless the name is fit for a file."""
    if not name or name.startswith(".") or not all(letter.isalnum() or letter in "-_." for letter in name):
        raise UsageError(f"a study's name has letters, digits and -_. and begins with no dot, got '{name}'.")


@contextmanager
def told_in_one_line(where: str) -> Iterator[None]:
    """Turn what Optuna, a database or the network raises into an `OutsideError`."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (UsageError, MissingDataError, OutsideError):
        raise
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError, ImportError, OSError, json.JSONDecodeError) as error:
        cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ else error
        reason = (str(getattr(cause, "orig", None) or cause).splitlines() or [type(cause).__name__])[0][:300]
        remedy = (
            "install the driver of that database" if isinstance(error, ImportError) else "run the same command when it answers"
        )
        raise OutsideError(
            f"cannot use the study in {without_password(where)} ({reason}): finished results are on disk, {remedy}"
        ) from error


def open_study(
    name: str, url: str, folder: Path, identity: Mapping[str, str], sampler: Callable[[int], optuna.samplers.BaseSampler]
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
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
    stored = study.user_attrs.get("asks")
    if stored is None:
        study.set_user_attr("asks", dict(identity))
    elif stored != identity:
        differing = next(key for key in sorted({*stored, *identity}) if stored.get(key) != identity.get(key))
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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / f"{name}.lock").open("ab")
    except OSError as error:
        raise OutsideError(f"cannot write {folder} ({error.strerror}): free some space there, or set DN2_HOME") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
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
        study.enqueue_trial(params_of(same[0]), user_attrs={REPLACES: [trial.number for trial in same]})
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
        if (heartbeats or trial.user_attrs.get("owner", {}).get("host", host) == host) and not is_stale(trial)
    ]


def _journal(path: Path) -> optuna.storages.JournalStorage:
    return optuna.storages.JournalStorage(JournalFileBackend(str(path)))


def _database(url: str) -> optuna.storages.RDBStorage:
    if url.startswith("postgresql://") and importlib.util.find_spec("psycopg") is None:
        url = url.replace("postgresql://", "postgresql+psycopg2://", 1)  # the older driver, where it is the one that is there
    is_file = url.startswith("sqlite")
    if is_file:
        Path(url.removeprefix("sqlite:///")).absolute().parent.mkdir(parents=True, exist_ok=True)
    return optuna.storages.RDBStorage(
        url,
        engine_kwargs={"connect_args": {"timeout": BUSY_SECONDS} if is_file else {"connect_timeout": PROBE_SECONDS}},
        heartbeat_interval=HEARTBEAT_SECONDS,
        grace_period=GRACE_SECONDS,
        heartbeat_stale_trial_callback=_again,
    )


def _again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue a trial without heartbeats again. Optuna's own way would have it carry the name of its dead process."""
    if params := params_of(trial):
        study.enqueue_trial(params)
