"""The tracking store: its address, whether it answers, its errors in one line, whose a run is.

In the order in which a connection is made:

    find_store          the address
    import_mlflow       quietly
    check_store         whether the store answers; a new database is made
    wait_until_free     for an SQLite file that another process has locked
    find_experiment     where the runs go
    errors_in_one_line  around every later request
    owner_tags          which process a run belongs to, and whether that process lives
"""

from __future__ import annotations

import glob
import http.client
import logging
import os
import socket
import sqlite3
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from benchmarks.contracts import MissingDataError, OutsideError, UsageError
from benchmarks.tracking.views import view_link
from dn2.files import hold

SQLITE = "sqlite:///"

FILES = "mlruns"
"""The folder of the files of runs, beside the database; MLflow's own name for it."""

EXPERIMENT = "dn2-bench"
"""Where runs go, unless MLFLOW_RUN_ID, MLFLOW_EXPERIMENT_ID or MLFLOW_EXPERIMENT_NAME says."""

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

ANSWER_SECONDS = 20
"""How long a server may take to answer the first request."""

LOCKED_SECONDS, SILENT_SECONDS = 120, 1
"""How long a locked SQLite file is waited for, and after how long we say so."""

NEW_BYTES = 1 << 20
"""The size of a new database."""


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


def check_writable(uri: str) -> None:
    """Check at once, before anything is computed, that a store in a new file can be made.

    Raises
    ------
    TrackingError
    """
    path = Path(uri.removeprefix(SQLITE))
    if uri.startswith(SQLITE) and not _is_something(path):
        with errors_in_one_line(uri, "start"):
            folder = next(one for one in path.parents if one.exists())
            if folder == path.parent:
                _check_folder(path)
            else:
                Path(tempfile.mkdtemp(dir=folder)).rmdir()


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

    A database in a file is made if it is not there, and one that was moved finds its files.

    Raises
    ------
    OSError, ImportError, sqlite3.Error, sqlalchemy.exc.SQLAlchemyError
        If it does not answer.
    """
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        host = parts.hostname or ""
        if parts.scheme in getproxies() and not proxy_bypass(host):
            return  # only the proxy can reach it
        _check_server(uri)
        return
    import sqlalchemy

    if uri.startswith(SQLITE):
        _make_database(Path(uri.removeprefix(SQLITE)))
    engine = sqlalchemy.create_engine(uri)
    try:
        tables = sqlalchemy.inspect(engine).get_table_names()
    finally:
        engine.dispose()
    if uri.startswith(SQLITE) and {"experiments", "runs"}.issubset(tables):
        settle_store(uri)


def settle_store(uri: str) -> None:
    """Correct where a store in an SQLite file has its files, if it can be written."""
    path = Path(uri.removeprefix(SQLITE))
    if not (
        uri.startswith(SQLITE) and os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    ):
        return
    if not is_settled(path):
        from benchmarks.tracking.moving import settle  # late: few stores were ever moved

        settle(path)


def is_settled(database: Path) -> bool:
    """Tell whether each experiment has its files beside the database, and each run in those.

    Then no path has to be looked at alone: of 20,000 runs that takes a third of a second.
    """
    home = f"{database.absolute().parent / FILES}/"
    with closing(sqlite3.connect(database, timeout=LOCKED_SECONDS)) as store:
        elsewhere = ["SELECT 1 FROM experiments WHERE substr(artifact_location, 1, ?) <> ?"]
        tables = {name for (name,) in store.execute("SELECT name FROM sqlite_master")}
        for table, column in (("runs", "artifact_uri"), ("logged_models", "artifact_location")):
            if table in tables:
                elsewhere.append(
                    f"SELECT 1 FROM experiments JOIN {table} AS one USING (experiment_id) WHERE "
                    f"substr(one.{column}, 1, length(experiments.artifact_location) + 1) "
                    "<> experiments.artifact_location || '/'"
                )
        found = store.execute(f"{' UNION ALL '.join(elsewhere)} LIMIT 1", (len(home), home))
        return found.fetchone() is None


def _check_server(uri: str) -> None:
    """Raise OSError unless a server answers a request; what it answers does not matter."""
    parts = urlsplit(uri)
    of_scheme = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    with closing(
        of_scheme[parts.scheme](parts.hostname or "", parts.port, timeout=PROBE_SECONDS)
    ) as server:
        try:
            server.connect()
            if server.sock is not None:
                server.sock.settimeout(ANSWER_SECONDS)
            server.request("GET", f"{parts.path.rstrip('/')}/health")
            server.getresponse()
        except TimeoutError as error:
            raise OSError("it does not answer in time") from error
        except (ssl.SSLError, http.client.HTTPException):
            pass  # there is a server; MLflow says what is wrong with it


def wait_until_free(uri: str, say: Callable[[str], None]) -> None:
    """Wait for an SQLite file that another process has locked, and say so.

    Raises
    ------
    OSError
        If it is still locked after two minutes.
    """
    path = Path(uri.removeprefix(SQLITE))
    if not uri.startswith(SQLITE) or not path.is_file():
        return
    begun, said = time.monotonic(), False
    while _is_locked(path):
        waited = time.monotonic() - begun
        if waited > LOCKED_SECONDS:
            raise OSError(f"another process has had it locked for {LOCKED_SECONDS} s")
        if waited > SILENT_SECONDS and not said:
            say(f"waiting for the tracking store {path}, which another process has locked")
            said = True
        time.sleep(0.1)


def _is_locked(path: Path) -> bool:
    """Tell whether another process keeps us from writing to an SQLite file."""
    try:
        # A file that is not there any more must not be made.
        address = f"{path.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(address, 0.2, uri=True, isolation_level=None)) as store:
            store.execute("BEGIN IMMEDIATE")
            store.execute("ROLLBACK")
    except sqlite3.Error as error:
        return "locked" in str(error)  # of other faults the request itself will tell
    return False


def _make_database(path: Path) -> None:
    """Make a new database under another name, one process at a time, and rename it.

    MLflow makes its schema in place, in many steps that take several seconds. If two processes did
    so at once, one would fail, and a file whose making was broken off could never be opened again.
    """
    from mlflow import MlflowClient

    if _is_something(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    _check_folder(path)
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


def _check_folder(path: Path) -> None:
    """Raise OSError if a new file cannot be written: MLflow itself would try for two minutes."""
    trial = path.with_name(f".{path.name}.{os.getpid()}.trial")
    try:
        trial.write_bytes(bytes(NEW_BYTES))
    finally:
        with suppress(OSError):
            trial.unlink()


def _is_something(path: Path) -> bool:
    """Return whether there is more than an empty file; whether it is a database shows later."""
    return path.exists() and (path.is_dir() or path.stat().st_size > 0)


def find_experiment(client: Any) -> str:
    """Return the id of the experiment that the runs go to.

    ``MLFLOW_EXPERIMENT_ID`` or else ``MLFLOW_EXPERIMENT_NAME`` says which; without them it is
    ``dn2-bench``. One that is named is made if it is missing.

    Raises
    ------
    TrackingError
        If there is none of that id, or the experiment was deleted.
    """
    from mlflow.exceptions import MlflowException

    if number := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        try:
            experiment = client.get_experiment(number)
        except MlflowException as error:
            if error.error_code not in NOT_THERE:
                raise
            raise TrackingError(
                f"the tracking store has no experiment MLFLOW_EXPERIMENT_ID={number}: "
                "unset MLFLOW_EXPERIMENT_ID, or name the store that has it with --tracking-uri"
            ) from error
        return _living(experiment)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client.create_experiment(name)
        except MlflowException as error:
            # Another process may have made it meanwhile.
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise error
    return _living(experiment)


NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "BAD_REQUEST")
"""What stores answer to an id of theirs that they do not have, or that cannot be one."""


def _living(experiment: Any) -> str:
    if experiment.lifecycle_stage == "deleted":
        number = experiment.experiment_id
        raise TrackingError(
            f"the experiment {experiment.name} was deleted: "
            f"restore it with `mlflow experiments restore -x {number}`"
        )
    return str(experiment.experiment_id)


def experiment_of_run(client: Any, run_id: str) -> str:
    """Return the experiment of the run that ``mlflow run`` opened, to which the cells then go.

    Raises
    ------
    TrackingError
        If that run is not in this store, was deleted, or is one of a cell: then the variable was
        left by something else.
    """
    from mlflow.exceptions import MlflowException

    remedy = "unset MLFLOW_RUN_ID, which an earlier job may have left"
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in NOT_THERE:
            raise
        raise TrackingError(
            f"cannot find the run MLFLOW_RUN_ID={run_id} in the tracking store: {remedy}, or name "
            "the store that has it with MLFLOW_TRACKING_URI"
        ) from error
    if run.info.lifecycle_stage == "deleted":
        raise TrackingError(f"the run MLFLOW_RUN_ID={run_id} was deleted: {remedy}")
    if run.data.tags.get("kind") == "cell":
        raise TrackingError(
            f"the run MLFLOW_RUN_ID={run_id} holds results, and cannot be a summary: {remedy}"
        )
    return str(run.info.experiment_id)


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
    try:
        yield
    except (OutsideError, UsageError, MissingDataError):
        raise
    except Exception as error:  # of a damaged database, MLflow raises whatever it stumbles over
        cause = getattr(error, "orig", None) or error
        reason = (str(cause).splitlines() or [""])[0] or type(error).__name__
        if type(error).__module__ == "builtins" and not isinstance(error, OSError | ImportError):
            reason = f"{type(error).__name__}: {reason}"
        reason = reason.replace(uri, without_password(uri))[:300]
        is_file = uri.startswith(SQLITE)
        if isinstance(error, ImportError):
            remedy = "install the driver of that database"
        elif is_file and "locked" in reason:
            remedy = "run the same command again when the other process has ended"
        elif is_file and not Path(uri.removeprefix(SQLITE)).exists():
            remedy = "name a file that can be written with --tracking-uri sqlite:///FILE.db"
        elif is_file:
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
