"""The tracking store is made, found, broken, out of reach; each failure is one line."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from forked import Process, die
from handmade import EXPERIMENT, LABELS, make_cell
from mlflow_laws import START, all_runs, client, finished, run_of

from benchmarks.contracts import UsageError
from benchmarks.result_store import ResultStore
from benchmarks.tracking import Tracker, TrackingError, connection, ui_link
from benchmarks.tracking.connection import SETTINGS, check_writable, import_mlflow
from benchmarks.tracking.server import serve

TESTS = Path(__file__).parents[2]


def test_a_new_store_is_made_silently_with_telemetry_off(tmp_path):
    code = """
        import os, sys
        from benchmarks.tracking import Tracker
        assert "mlflow" not in sys.modules, "imported before it is needed"
        tracker = Tracker().connect()
        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
        from handmade import make_cell
        from mlflow_laws import finished, finished
        finished(tracker, make_cell())
        tracker.finish_summary(tracker.start_summary("main", {}), texts={})
        from mlflow.telemetry.client import get_telemetry_client
        assert get_telemetry_client() is None
        print(tracker.address)
        """
    unset = {name: "" for name in os.environ if name.startswith("MLFLOW_")}
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path,
        env={
            **{name: value for name, value in os.environ.items() if name not in unset},
            "PYTHONPATH": f"{TESTS.parent}:{TESTS / 'support'}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (process.stdout, process.stderr) == (f"sqlite:///{tmp_path}/mlflow.db\n", "")


def test_what_the_user_set_is_kept(monkeypatch):
    for name in SETTINGS:
        monkeypatch.setenv(name, "INFO" if "LEVEL" in name else "1")
    import_mlflow()
    assert {os.environ[name] for name in SETTINGS} == {"1", "INFO"}


@pytest.mark.parametrize(
    "uri", ["mlruns", "./mlruns", "/tmp/mlruns", "file:///tmp/mlruns", "file:mlruns"]
)
def test_a_folder_of_files_is_refused(monkeypatch, uri):
    with pytest.raises(
        UsageError, match=r"is a folder of files, which is not supported: use sqlite:///"
    ):
        Tracker(uri).connect()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UsageError, match="is a folder of files"):
        Tracker().connect()
    with pytest.raises(UsageError, match="is a folder of files"):
        serve(None, "127.0.0.1", 5000, print)


def one_line(caught):
    text = str(caught.value)
    assert "\n" not in text
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:1",
        "https://someone:secret@127.0.0.1:1",
        "postgresql+psycopg2://someone:secret@127.0.0.1:1/mlflow",
    ],
)
def test_a_store_that_does_not_answer_is_one_line_in_seconds_without_the_password(store, uri):
    before = time.monotonic()
    with pytest.raises(
        TrackingError, match=r"cannot start in the tracking store .*:1.*[Rr]efused"
    ) as caught:
        Tracker(uri).connect()
    assert time.monotonic() - before < 10
    assert "secret" not in one_line(caught)


def test_a_database_without_its_driver_is_one_line():
    with pytest.raises(
        TrackingError, match=r"No module named 'cx_Oracle'\): .*install the driver"
    ) as caught:
        Tracker("oracle+cx_oracle://localhost/mlflow").connect()
    one_line(caught)


@pytest.mark.parametrize(
    "content", ["not a database, but long enough to have a header of its own" * 30, None]
)
def test_a_file_that_is_no_database_is_one_line(tmp_path, monkeypatch, content):
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    path = tmp_path / "mlflow.db"
    path.mkdir() if content is None else path.write_text(content)
    with pytest.raises(
        TrackingError, match=r"cannot start in the tracking store sqlite:.*mlflow\.db \(.+\)"
    ) as caught:
        Tracker(f"sqlite:///{path}").connect()
    one_line(caught)


def test_artifacts_that_cannot_be_written_are_one_line(tracker, tmp_path):
    Path("mlruns").write_text("")
    run_id = tracker.start_cell(EXPERIMENT, **START)
    with pytest.raises(
        TrackingError,
        match=f"cannot log the results of cell {EXPERIMENT.key}.*finished results are on disk",
    ) as caught:
        tracker.finish_cell(run_id, make_cell(), disk=ResultStore(tmp_path), labels=LABELS)
    one_line(caught)
    assert run_of(tracker, run_id).info.status == "RUNNING"
    Path("mlruns").unlink()
    assert tracker.start_cell(EXPERIMENT, **START) == run_id


def test_a_deleted_experiment_is_told_with_its_remedy(tracker, store):
    client(tracker).delete_experiment(tracker.experiment_id)
    with pytest.raises(
        TrackingError, match=f"mlflow experiments restore -x {tracker.experiment_id}"
    ):
        Tracker(store).connect()


def test_a_stale_run_id_is_told(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with pytest.raises(
        TrackingError, match=f"cannot find the run MLFLOW_RUN_ID={'0' * 32} in the tracking store"
    ) as caught:
        Tracker(store).connect()
    one_line(caught)


def log_one_cell(home):
    tracker, cells = Tracker().connect(), ResultStore(home)
    with cells.lock([EXPERIMENT.key]):
        if tracker.find_finished(EXPERIMENT.key) is None:
            finished(tracker, make_cell())


def test_two_processes_share_a_new_store_and_compute_a_cell_once(store, tmp_path):
    Path("mlflow.db").unlink()
    both = [Process(Path.cwd(), log_one_cell, tmp_path) for _ in range(2)]
    assert [process.finish() for process in both] == [(0, "", ""), (0, "", "")]
    (run,) = all_runs(Tracker(store))
    assert run.info.status == "FINISHED"


def die_in_the_middle_of_migrations():
    from alembic.operations import Operations

    made, create = [], Operations.create_table

    def create_three(self, *args, **kwargs):
        made.append(create(self, *args, **kwargs))
        if len(made) == 3:
            self.get_bind().connection.commit()
            die()

    Operations.create_table = create_three
    Tracker().connect()


def tell_experiment():
    sys.stdout.write(f"{Tracker().connect().experiment_id}\n")


def test_a_store_whose_making_was_broken_off_is_made_again(tmp_path):
    folder = tmp_path / "store"
    address = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    code, _, _ = Process(tmp_path, die_in_the_middle_of_migrations, **address).finish()
    assert code == -signal.SIGKILL
    assert {path.name for path in folder.iterdir()} == {
        ".mlflow.db.unfinished",
        ".mlflow.db.lock",
    }
    again = Process(tmp_path, tell_experiment, **address)
    assert again.finish() == (0, "1\n", "")
    assert [path.name for path in folder.iterdir()] == ["mlflow.db"]


def test_the_link_lands_on_the_runs_with_charts():
    link = "http://localhost:5001/#/experiments/7/runs?workflowType=machine_learning&compareRunsMode=CHART"
    assert ui_link("7", "http://localhost:5001/") == link


def test_a_port_that_is_taken_is_told(tracker, store):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(TrackingError, match="choose another port with --port"):
            serve(store, "127.0.0.1", taken.getsockname()[1], print)


def test_the_experiment_that_is_asked_for_gets_the_runs(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    mine = Tracker(store).connect()
    assert client(mine).get_experiment(mine.experiment_id).name == "mine"
    assert run_of(mine, finished(mine, make_cell())).info.experiment_id == mine.experiment_id
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", mine.experiment_id)
    assert Tracker(store).connect().experiment_id == mine.experiment_id
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "777")
    with pytest.raises(TrackingError, match="unset MLFLOW_EXPERIMENT_ID") as caught:
        Tracker(store).connect()
    one_line(caught)


@pytest.mark.parametrize("left", ["another store's", "deleted", "a cell's", "no id"])
def test_a_run_id_that_was_left_is_to_be_unset(tracker, store, monkeypatch, left):
    run_id = {"another store's": "0" * 32, "no id": "../x"}.get(left)
    run_id = run_id or tracker.start_cell(EXPERIMENT, **START)
    if left == "deleted":
        client(tracker).delete_run(run_id)
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    with pytest.raises(TrackingError, match="unset MLFLOW_RUN_ID") as caught:
        Tracker(store).connect()
    one_line(caught)


def test_a_locked_store_is_waited_for_with_a_line_and_not_to_be_moved(store, monkeypatch):
    said = []
    tracker = Tracker(store, said.append).connect()
    holder = sqlite3.connect("mlflow.db", isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN EXCLUSIVE")
    free = threading.Timer(1.5, lambda: holder.execute("ROLLBACK"))
    free.start()
    assert tracker.find_finished("none") is None
    free.join()
    (line,) = said
    assert line.startswith("waiting for the tracking store")
    assert line.endswith("mlflow.db, which another process has locked")
    holder.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(connection, "LOCKED_SECONDS", 0.3)
    for asking in (tracker.mark_dead, Tracker(store).connect):
        with pytest.raises(TrackingError, match="when the other process has ended") as caught:
            asking()
        assert "move that file" not in one_line(caught)
    holder.close()


def test_a_new_store_that_cannot_be_made_is_refused_at_once(tmp_path, monkeypatch):
    before = time.monotonic()
    with pytest.raises(TrackingError, match="name a file that can be written") as caught:
        check_writable("sqlite:////proc/nowhere/mlflow.db")
    one_line(caught)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    for asking in (check_writable, lambda uri: Tracker(uri).connect()):
        with pytest.raises(TrackingError, match="No space left on device") as caught:
            asking(f"sqlite:///{tmp_path}/mlflow.db")
        one_line(caught)
    assert time.monotonic() - before < 3
    assert not list(tmp_path.iterdir())


def test_a_server_that_accepts_and_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        before = time.monotonic()
        with pytest.raises(TrackingError, match="does not answer in time") as caught:
            Tracker(f"http://127.0.0.1:{silent.getsockname()[1]}").connect()
    assert time.monotonic() - before < 3
    one_line(caught)
