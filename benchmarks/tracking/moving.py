"""Let a tracking store in an SQLite file be moved or copied together with the files of its runs.

MLflow writes into the database where those files are, as absolute paths. So a store that was moved
would not find them, and a copy would write into the original. When a store is opened that is not
as `connection.is_settled` wants it, `settle` corrects the paths: files that lie beside the database
belong to it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from benchmarks.tracking.connection import FILES, LOCKED_SECONDS

EXPERIMENTS = ("experiments", "experiment_id", "artifact_location")
OF_EXPERIMENTS = (
    ("runs", "run_uuid", "artifact_uri", "status <> 'FINISHED'"),
    ("logged_models", "model_id", "artifact_location", "0"),
)
OF_VERSIONS = (
    ("model_versions", "rowid", "storage_location"),
    ("model_versions", "rowid", "source"),
)
"""Tables that hold paths: the key of a row, the path, and whether more files may come."""


class _Change(NamedTuple):
    """A path to write into a table."""

    table: str
    key: str
    column: str
    row: object
    path: Path


class _Files(NamedTuple):
    """The folder that a row says has its files, and whether more may come."""

    table: str
    key: str
    column: str
    row: object
    path: Path
    is_open: bool


def local_folder(artifact_uri: str) -> Path | None:
    """Return the folder of a run's files, or None if a server has them."""
    parts = urlsplit(artifact_uri)
    if parts.scheme not in ("", "file"):
        return None
    return Path(url2pathname(parts.path) if parts.scheme else artifact_uri)


def settle(database: Path) -> int:
    """Have a store use the files that lie beside its database, and return how many paths changed.

    The files of a run are looked for below the folder of the database, and taken where they are
    found. New files go to ``mlruns`` beside the database, unless the store names another place and
    the files of its runs are there.

    Raises
    ------
    sqlite3.Error
        If the file is no database, or cannot be written although a path must change.
    """
    home = database.absolute().parent
    with closing(sqlite3.connect(database, timeout=LOCKED_SECONDS)) as store:
        changes = list(_changes(store, home))
        with store:  # all of them or none
            for table, key, column, row, path in changes:
                store.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (str(path), row))
    return len(changes)


def _changes(store: sqlite3.Connection, home: Path) -> Iterator[_Change]:
    moved: dict[Path, Path] = {}  # an experiment's folder -> where it is now
    table, key, column = EXPERIMENTS
    for experiment, old in _paths(store, table, key, column):
        rows = list(_files_of(store, experiment))
        found = {files: _beside(files.path, home) for files in rows}
        for files, here in found.items():
            if here is not None and files.path.is_relative_to(old):
                moved[old] = here.parents[len(files.path.relative_to(old).parts) - 1]
        is_usual = old.parent.name == FILES and not old.is_relative_to(home)
        if old not in moved and is_usual and not any(files.path.is_dir() for files in rows):
            moved[old] = home / FILES / old.name
        now = moved.get(old, old)
        if now != old:
            yield _Change(*EXPERIMENTS, experiment, now)
        for files, here in found.items():
            if here is None and files.is_open and not files.path.is_dir():
                here = _follow(files.path, old, now)  # or the old place would be made again
            if here is not None and here != files.path:
                yield _Change(*files[:3], files.row, here)
    for table, key, column in OF_VERSIONS:
        for row, path in _paths(store, table, key, column):
            for old, now in moved.items():
                if now != old and path.is_relative_to(old):
                    yield _Change(table, key, column, row, now / path.relative_to(old))


def _files_of(store: sqlite3.Connection, experiment: object) -> Iterator[_Files]:
    """Yield where the files of an experiment's runs and models are said to be."""
    for table, key, column, is_open in OF_EXPERIMENTS:
        where = f"experiment_id = {experiment}"
        waiting = {row for row, _ in _paths(store, table, key, column, f"{where} AND {is_open}")}
        for row, path in _paths(store, table, key, column, where):
            yield _Files(table, key, column, row, path, row in waiting)


def _paths(
    store: sqlite3.Connection, table: str, key: str, column: str, where: str = "1"
) -> list[tuple[object, Path]]:
    """List the paths of this machine that a column holds; none if there is no such table."""
    if not store.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
        return []
    rows = store.execute(f"SELECT {key}, {column} FROM {table} WHERE {where}").fetchall()
    paths = [(row, local_folder(location)) for row, location in rows if location]
    return [(row, path) for row, path in paths if path is not None and path.is_absolute()]


def _beside(path: Path, home: Path) -> Path | None:
    """Find the files of a run or a model in the folder of the database; None if it has none.

    Parameters
    ----------
    path : Path
        Where they were: <experiment's folder>/<run>/artifacts.
    home : Path
        The folder of the database.
    """
    parts = path.parts
    if path.is_relative_to(home / FILES):
        return None  # where they belong
    if FILES in parts:
        start = len(parts) - 1 - parts[::-1].index(FILES)
        if (usual := home.joinpath(*parts[start:])).is_dir():
            return usual
    if path.is_relative_to(home):
        return None
    # Each ending of the path, the longest first. All of them name the run, so none is another's.
    endings = (home.joinpath(*parts[start:]) for start in range(1, len(parts) - 1))
    return next((place for place in endings if place.is_dir()), None)


def _follow(path: Path, old: Path, now: Path) -> Path | None:
    """Return where a path of an experiment's folder is when that folder is elsewhere."""
    if path.is_relative_to(old):
        return now / path.relative_to(old)
    # The experiment moved earlier, when the run's files were not there yet.
    return now.joinpath(*path.parts[-2:]) if not path.is_relative_to(now) else None
