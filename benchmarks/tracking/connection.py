"""The tracking store: its address, whether it answers, its errors in one line, whose a run is.

In the order in which a connection is made:

    find_store          the address
    import_mlflow       quietly
    check_store         whether the store answers; a new database is made
    find_experiment     where the runs go
    errors_in_one_line  around every later request
    owner_tags          which process a run belongs to, and whether that process lives
"""

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

from benchmarks.contracts import MissingDataError, OutsideError, UsageError
from benchmarks.tracking.views import view_link
from dn2.files import hold

SQLITE = "sqlite:///"

EXPERIMENT = "dn2-bench"

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # We get its errors as exceptions. Printed too, they would be pages of stack trace.
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    # stdout is for our results, which may be read as JSON.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # The default is 7 with growing pauses: four minutes until a dead server is given up.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "PGCONNECT_TIMEOUT": "5",
}
"""Environment variables that MLflow reads. What the user has set is kept."""

PROBE_SECONDS = 5


class TrackingError(OutsideError):
    """The tracking store is missing, unreachable or refuses a request.

    Finished results are on disk. Exit code 1.
    """


def find_store(uri: str | None) -> str:
    """Return the address of the store.

    It is ``uri``, else ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the working directory.

    Raises
    ------
    UsageError
        If it is a folder of files, MLflow's old kind of store, which is slow and which MLflow
        itself gives up, or if it is not the address of a server.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"
    if "://" not in uri or uri.startswith("file:"):
        raise UsageError(
            f"the tracking URI '{uri}' is a folder of files, which is not supported: "
            "use sqlite:///FILE.db, a database, or the address of a server"
        )
    if uri.startswith(("http://", "https://")) and not _is_address(uri):
        raise UsageError(
            f"the tracking URI '{uri}' is not the address of a server: write http://HOST:PORT"
        )
    if uri.startswith(SQLITE):
        return SQLITE + str(Path(uri.removeprefix(SQLITE)).absolute())
    return uri


def _is_address(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is not a number
        return False


def check_there_is_a_store(uri: str) -> None:
    """Raise MissingDataError if the store is a file that is not there: reading makes none."""
    path = Path(uri.removeprefix(SQLITE))
    if uri.startswith(SQLITE) and not _is_something(path):
        raise MissingDataError(
            f"there is no tracking store {path}: make runs with `run` first, go to the folder that "
            "has it, or name another with --tracking-uri"
        )


def without_password(uri: str) -> str:
    """Return an address without its password, so that it can be shown."""
    password = urlsplit(uri).password
    return uri.replace(f":{password}@", ":***@") if password else uri


def ui_link(experiment_id: str, base: str = "http://127.0.0.1:5000", view: str = "") -> str:
    """Return the address of an experiment's runs, in a view if its key is given."""
    return f"{base.rstrip('/')}/{view_link(experiment_id, view)}"


def import_mlflow() -> ModuleType:
    """Import MLflow quietly: no telemetry, nothing on stderr, short retries."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it warns of each retry
    import mlflow

    return mlflow


def check_store(uri: str) -> None:
    """Check within seconds that the store answers; MLflow itself would try for minutes.

    A database in a file is made if it is not there.

    Raises
    ------
    OSError, ImportError, sqlalchemy.exc.SQLAlchemyError
        If it does not answer.
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

    MLflow makes its schema in place, in many steps that take several seconds. If two processes did
    so at once, one would fail, and a file whose making was broken off could never be opened again.
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
    """Return the id of the experiment ``dn2-bench``, which is made if it is missing.

    Raises
    ------
    TrackingError
        If the experiment was deleted.
    """
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        try:
            return client.create_experiment(EXPERIMENT)
        except MlflowException as error:
            # Another process may have made it meanwhile.
            experiment = client.get_experiment_by_name(EXPERIMENT)
            if experiment is None:
                raise error
    if experiment.lifecycle_stage == "deleted":
        number = experiment.experiment_id
        raise TrackingError(
            f"the experiment {EXPERIMENT} was deleted: "
            f"restore it with `mlflow experiments restore -x {number}`"
        )
    return experiment.experiment_id


@contextmanager
def errors_in_one_line(uri: str, doing: str) -> Iterator[None]:
    """Turn what MLflow, its database or the network raises into a `TrackingError` of one line.

    Parameters
    ----------
    uri : str
        The store.
    doing : str
        What is being done: ``log the results of cell 0a1b``.
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
    """Return the tags that name this process.

    They are its host, its number, and when it started, since numbers are used again.
    """
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": str(pid), "pid_started": _started(pid)}


def is_ours(tags: Mapping[str, str]) -> bool:
    """Return whether these tags name this process."""
    return all(tags.get(name) == value for name, value in owner_tags().items())


def is_dead(tags: Mapping[str, str]) -> bool:
    """Return whether these tags name a process of this host that has ended.

    Of processes of other hosts nothing is known, so it is False.
    """
    if tags.get("host") != socket.gethostname() or not tags.get("pid", "").isdecimal():
        return False
    pid = int(tags["pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it lives, and belongs to another user
    return _started(pid) != tags.get("pid_started", "")


def _started(pid: int) -> str:
    """Return when a process started, in clock ticks since the machine started.

    It is "ended" if the process has ended and its parent has not collected it, and "" where there
    is no /proc.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if state in "ZX" else fields[18]
