"""A store that is moved or copied with its files finds them, and leaves the old place alone."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from handmade import EXPERIMENT, make_cell
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache
from mlflow_laws import START, client, finished, run_of

from benchmarks.tracking import Tracker
from benchmarks.tracking.connection import is_settled
from benchmarks.tracking.moving import settle


def opened(folder):
    _artifact_repos_cache.clear()  # MLflow remembers where a run's files are, for one process
    return Tracker(f"sqlite:///{folder}/mlflow.db").connect()


def files_of(tracker, run_id):
    return {file.path for file in client(tracker).list_artifacts(run_id)}


def places(folder):
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        return [
            place
            for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri"))
            for (place,) in store.execute(f"SELECT {column} FROM {table}")
        ]


def test_a_moved_store_finds_its_files_and_never_makes_the_old_place_again(tracker):
    before = Path.cwd()
    done, cell = finished(tracker, make_cell()), make_cell()[0].experiment
    broken_off = tracker.start_cell(EXPERIMENT, **START)
    after = before.with_name("after")
    before.rename(after)
    moved = opened(after)
    assert "results.json" in files_of(moved, done)
    assert moved.read_cell(cell, moved.find_finished(cell.key)).run_id == done
    # The run that was broken off had no files yet. Its files, too, go to the new place.
    client(moved).log_text(broken_off, "text", "a.txt")
    assert files_of(moved, broken_off) == {"a.txt"}
    assert not before.exists()
    assert all(place.startswith(str(after)) for place in places(after))
    before.mkdir()  # for the fixtures


def test_a_copy_has_its_own_files_although_the_original_is_there(tracker, tmp_path):
    original = Path.cwd()
    done = finished(tracker, make_cell())
    copy = tmp_path / "copy"
    shutil.copytree(original, copy)
    copied = opened(copy)
    assert run_of(copied, done).info.artifact_uri.startswith(str(copy))
    client(copied).log_text(done, "text", "only in the copy.txt")
    assert "only in the copy.txt" in files_of(copied, done)
    assert "only in the copy.txt" not in files_of(opened(original), done)
    assert all(place.startswith(str(original)) for place in places(original))


def test_a_copy_without_files_does_not_write_into_the_original(tracker, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy("mlflow.db", copy)
    finished(tracker, make_cell())
    copied = opened(copy)
    run_id = finished(copied, make_cell())
    assert run_of(copied, run_id).info.artifact_uri.startswith(str(copy))


def test_files_that_are_elsewhere_on_purpose_stay_there(tracker, tmp_path):
    elsewhere = tmp_path / "large disk" / "mlruns" / "7"
    with closing(sqlite3.connect("mlflow.db")) as store, store:
        store.execute("UPDATE experiments SET artifact_location = ?", (str(elsewhere),))
    here = Tracker(tracker.uri).connect()
    assert settle(Path("mlflow.db")) == 0  # connecting has brought an empty place beside it
    assert not elsewhere.exists()
    run_id = finished(here, make_cell())
    shutil.move("mlruns", tmp_path / "moved")
    with closing(sqlite3.connect("mlflow.db")) as store, store:
        place = tmp_path / "moved" / "7"
        store.execute("UPDATE runs SET artifact_uri = ?", (str(place / run_id / "artifacts"),))
        store.execute("UPDATE experiments SET artifact_location = ?", (str(place),))
    assert settle(Path("mlflow.db")) == 0
    assert "results.json" in files_of(opened(Path.cwd()), run_id)


def test_uris_and_models_move_too(tmp_path):
    """With paths as URIs, in a folder of another name, and a store of an older MLflow."""
    folder = tmp_path / "new"
    (folder / "art" / "run1" / "artifacts").mkdir(parents=True)
    with closing(sqlite3.connect(folder / "mlflow.db")) as store, store:
        store.execute("CREATE TABLE experiments (experiment_id, artifact_location)")
        store.execute("CREATE TABLE runs (run_uuid, experiment_id, artifact_uri, status)")
        store.execute("CREATE TABLE model_versions (source, storage_location)")
        old = "file:///old/place%20of%20it/art"
        store.executemany("INSERT INTO experiments VALUES (?, ?)", [(1, old), (2, "s3://b/c")])
        store.execute(
            "INSERT INTO runs VALUES ('run1', 1, ?, 'FINISHED')", (f"{old}/run1/artifacts",)
        )
        store.execute("INSERT INTO model_versions VALUES ('models:/m-1', ?)", (f"{old}/m",))
    assert settle(folder / "mlflow.db") == 3
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        assert store.execute("SELECT artifact_location FROM experiments").fetchall() == [
            (f"{folder}/art",),
            ("s3://b/c",),
        ]
        assert store.execute("SELECT artifact_uri FROM runs").fetchall() == [
            (f"{folder}/art/run1/artifacts",)
        ]
        assert store.execute("SELECT * FROM model_versions").fetchall() == [
            ("models:/m-1", f"{folder}/art/m")
        ]


@pytest.mark.parametrize(
    ("table", "column", "place", "is_right"),
    [
        ("experiments", "artifact_location", "mlruns/1", True),
        ("experiments", "artifact_location", "mlruns-old/1", False),
        ("experiments", "artifact_location", "../mlruns/1", False),
        ("runs", "artifact_uri", "mlruns/1/a/artifacts", True),
        ("runs", "artifact_uri", "mlruns/11/a/artifacts", False),
        ("logged_models", "artifact_location", "mlruns/1/models/m", True),
        ("logged_models", "artifact_location", "elsewhere/m", False),
    ],
)
def test_a_store_with_all_files_beside_it_is_told_by_one_look(
    table, column, place, is_right, tmp_path
):
    """In the others each path is looked at, whether or not one has to be changed."""
    database, home = tmp_path / "mlflow.db", tmp_path / "mlruns" / "1"
    with closing(sqlite3.connect(database)) as store, store:
        store.execute("CREATE TABLE experiments (experiment_id, artifact_location)")
        store.execute("CREATE TABLE runs (run_uuid, experiment_id, artifact_uri, status)")
        store.execute("CREATE TABLE logged_models (model_id, experiment_id, artifact_location)")
        store.execute("INSERT INTO experiments VALUES (1, ?)", (str(home),))
        store.execute("INSERT INTO runs VALUES ('a', 1, ?, 'RUNNING')", (f"{home}/a/artifacts",))
        store.execute("INSERT INTO logged_models VALUES ('m', 1, ?)", (f"{home}/models/m",))
        store.execute(f"UPDATE {table} SET {column} = ?", (f"{tmp_path}/{place}",))
    assert is_settled(database) == is_right
    if is_right:
        assert settle(database) == 0
