"""Which tracking store: its address, whether it answers, and its failures as one line."""

from __future__ import annotations

import glob
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from benchmarks.contracts import OutsideError, UsageError
from dn2.files import hold

SQLITE = "sqlite:///"

EXPERIMENT = "dn2-bench"

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # its errors come to us as exceptions; printed too, they are pages of stack trace
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout is for our results, which may be read as JSON
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # by default 7 with growing pauses: four minutes until a dead server is given up
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "PGCONNECT_TIMEOUT": "5",
}
"""What MLflow is told through the environment, unless the user has set it."""

PROBE_SECONDS = 5


class TrackingError(OutsideError):
    """The tracking store is missing, unreachable or refuses what it is told. Finished results are on disk. Exit code 1."""


def find_store(uri: str | None) -> str:
    """Return the store's address: the one given, else ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the working directory.

    Raises
    ------
    UsageError
        For a folder of files, MLflow's old store, which is slow and which MLflow itself gives up.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"
    if "://" not in uri or uri.startswith("file:"):
        raise UsageError(
            f"the tracking URI '{uri}' is a folder of files, which is not supported: "
            "use sqlite:///FILE.db, a database, or the address of a server"
        )
    if uri.startswith(("http://", "https://")) and not _is_address(uri):
        raise UsageError(
            f"the tracking URI '{uri}' is no address of a server: write http://HOST:PORT"
        )
    if uri.startswith(SQLITE):
        return SQLITE + str(Path(uri.removeprefix(SQLITE)).absolute())
    return uri


def _is_address(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        return False


def without_password(uri: str) -> str:
    """Return an address that can be shown."""
    password = urlsplit(uri).password
    return uri.replace(f":{password}@", ":***@") if password else uri


def import_mlflow() -> ModuleType:
    """Import MLflow quietly: no telemetry, nothing on stderr, short retries."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it warns of each retry
    import mlflow

    return mlflow


def check_store(uri: str) -> None:
    """Find out in seconds whether the store answers, where MLflow itself tries for minutes; make it if it is a new file.

    Raises
    ------
    OSError, ImportError, sqlalchemy.exc.SQLAlchemyError
    """
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        host = parts.hostname or ""
        if parts.scheme in getproxies() and not proxy_bypass(host):
            return  # only the proxy can reach it
        socket.create_connection(
            (host, parts.port or {"http": 80, "https": 443}[parts.scheme]), PROBE_SECONDS
        ).close()
        return
    import sqlalchemy

    if uri.startswith(SQLITE):
        _make_database(Path(uri.removeprefix(SQLITE)))
    engine = sqlalchemy.create_engine(uri)
    try:
        sqlalchemy.inspect(engine).get_table_names()
    finally:
        engine.dispose()


def _make_database(path: Path) -> None:
    """Make a new database under another name, one process at a time, and rename it.

    MLflow makes its schema in many steps and several seconds, in place: of two processes one fails, and a file whose making was
    broken off can never be opened again.
    """
    from mlflow import MlflowClient

    if _is_something(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    with hold(lock, wait=True):
        if not _is_something(path):
            unfinished = path.with_name(f".{path.name}.unfinished")
            for left in path.parent.glob(f"{glob.escape(unfinished.name)}*"):
                left.unlink()
            MlflowClient(tracking_uri=f"{SQLITE}{unfinished}")
            unfinished.replace(path)
        # The database is there, so it no longer matters if two processes lock two such files.
        lock.unlink(missing_ok=True)


def _is_something(path: Path) -> bool:
    """Return whether there is more than an empty file; whether it is a database shows later."""
    return path.exists() and (path.is_dir() or path.stat().st_size > 0)


def find_experiment(client: Any) -> str:
    """Return the id of ``dn2-bench``, made if it is not there."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        try:
            return client.create_experiment(EXPERIMENT)
        except MlflowException as error:
            experiment = client.get_experiment_by_name(
                EXPERIMENT
            )  # another process may have made it meanwhile
            if experiment is None:
                raise error
    if experiment.lifecycle_stage == "deleted":
        number = experiment.experiment_id
        raise TrackingError(
            f"the experiment {EXPERIMENT} was deleted: restore it with `mlflow experiments restore -x {number}`"
        )
    return experiment.experiment_id


@contextmanager
def told_in_one_line(uri: str, doing: str) -> Iterator[None]:
    """Turn whatever MLflow, its database or the network raises into a `TrackingError`.

    Parameters
    ----------
    uri : str
    doing : str
        What was being done: ``log the results of cell 0a1b``.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, ImportError, OSError) as error:
        reason = (
            str(getattr(error, "orig", None) or error).splitlines() or [type(error).__name__]
        )[0]
        reason = reason.replace(uri, without_password(uri))[:300]
        if isinstance(error, ImportError):
            remedy = "install the driver of that database"
        elif uri.startswith(SQLITE):
            remedy = "move that file away if it is broken, or name another with MLFLOW_TRACKING_URI"
        else:
            remedy = "run the same command again when it answers"
        where = f"the tracking store {without_password(uri)}"
        raise TrackingError(
            f"cannot {doing} in {where} ({reason}): finished results are on disk, {remedy}"
        ) from error


def owner_tags() -> dict[str, str]:
    """Tags that name this process: its number, and when it started, since numbers are used again."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": str(pid), "pid_started": _started(pid)}


def is_ours(tags: Mapping[str, str]) -> bool:
    """Return whether these tags name this very process."""
    return all(tags.get(name) == value for name, value in owner_tags().items())


def is_dead(tags: Mapping[str, str]) -> bool:
    """Return whether these tags name a process of this host that has ended. Of other hosts nothing is known: False."""
    if tags.get("host") != socket.gethostname() or not tags.get("pid", "").isdecimal():
        return False
    pid = int(tags["pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it lives, under another user
    return _started(pid) != tags.get("pid_started", "")


def _started(pid: int) -> str:
    """When a process started, in clock ticks since the machine did; "ended" if it did not outlive its killing but has not been
    collected by its parent; "" where there is no /proc.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if state in "ZX" else fields[18]
