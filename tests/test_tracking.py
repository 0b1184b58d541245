"""Runs in MLflow, against SQLite; the same laws against servers are in test_tracking_servers.py."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from handmade import EXPERIMENT, LABELS, PROVENANCE, make_cell, make_curve, make_result, start
from mlflow_laws import LAWS, START, all_runs, client, finished, run_of

from benchmarks.cells import Cells
from benchmarks.contracts import Interval, UsageError
from benchmarks.tracking import Tracker, TrackingError, serve, ui_link
from benchmarks.tracking.owner import is_dead, owner_tags
from benchmarks.tracking.records import metric_points, write_files
from benchmarks.tracking.store import SETTINGS, import_mlflow

TESTS = Path(__file__).parent


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A store with its schema and experiment, made once and copied: making it takes seconds."""
    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        Tracker(f"sqlite:///{path}").connect()
    return path


@pytest.fixture
def store(template, tmp_path, monkeypatch):
    """Stand in a folder with a store, as a user who has set nothing does."""
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "working directory"
    folder.mkdir()
    monkeypatch.chdir(folder)
    shutil.copy(template, folder / "mlflow.db")
    return f"sqlite:///{folder}/mlflow.db"


@pytest.fixture
def tracker(store, template):
    """A tracker whose artifacts go to this test's folder, not to the template's."""
    import sqlite3

    with sqlite3.connect(store.removeprefix("sqlite:///")) as database:
        database.execute(
            "UPDATE experiments SET artifact_location = replace(artifact_location, ?, ?)", (str(template.parent), str(Path.cwd()))
        )
    return Tracker(store).connect()


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law(tracker, tmp_path, law):
    law(tracker, tmp_path)
    assert {path.name for path in Path.cwd().iterdir()} <= {"mlflow.db", "mlruns"}


def test_a_new_store_is_made_silently_with_telemetry_off(tmp_path):
    code = """
        import os, sys
        from benchmarks.tracking import Tracker
        assert "mlflow" not in sys.modules, "imported before it is needed"
        tracker = Tracker().connect()
        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
        from handmade import make_cell
        from mlflow_laws import finished
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
        env={**{name: value for name, value in os.environ.items() if name not in unset}, "PYTHONPATH": f"{TESTS.parent}:{TESTS}"},
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


@pytest.mark.parametrize("uri", ["mlruns", "./mlruns", "/tmp/mlruns", "file:///tmp/mlruns", "file:mlruns"])
def test_a_folder_of_files_is_refused(monkeypatch, uri):
    with pytest.raises(UsageError, match=r"is a folder of files, which is not supported: use sqlite:///"):
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
    "uri", ["http://127.0.0.1:1", "https://someone:secret@127.0.0.1:1", "postgresql+psycopg2://someone:secret@127.0.0.1:1/mlflow"]
)
def test_a_store_that_does_not_answer_is_one_line_in_seconds_without_the_password(store, uri):
    before = time.monotonic()
    with pytest.raises(TrackingError, match=r"cannot start in the tracking store .*:1.*[Rr]efused") as caught:
        Tracker(uri).connect()
    assert time.monotonic() - before < 10
    assert "secret" not in one_line(caught)


def test_a_database_without_its_driver_is_one_line():
    with pytest.raises(TrackingError, match=r"No module named 'cx_Oracle'\): .*install the driver") as caught:
        Tracker("oracle+cx_oracle://localhost/mlflow").connect()
    one_line(caught)


@pytest.mark.parametrize("content", ["not a database, but long enough to have a header of its own" * 30, None])
def test_a_file_that_is_no_database_is_one_line(tmp_path, monkeypatch, content):
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    path = tmp_path / "mlflow.db"
    path.mkdir() if content is None else path.write_text(content)
    with pytest.raises(TrackingError, match=r"cannot start in the tracking store sqlite:.*mlflow\.db \(.+\)") as caught:
        Tracker(f"sqlite:///{path}").connect()
    one_line(caught)


def test_artifacts_that_cannot_be_written_are_one_line(tracker):
    Path("mlruns").write_text("")
    run_id = tracker.start_cell(EXPERIMENT, **START)
    with pytest.raises(
        TrackingError, match=f"cannot log the results of cell {EXPERIMENT.key}.*finished results are on disk"
    ) as caught:
        tracker.finish_cell(run_id, make_cell(), labels=LABELS)
    one_line(caught)
    assert run_of(tracker, run_id).info.status == "RUNNING"
    Path("mlruns").unlink()
    assert tracker.start_cell(EXPERIMENT, **START) == run_id


def test_a_deleted_experiment_is_told_with_its_remedy(tracker, store):
    client(tracker).delete_experiment(tracker.experiment_id)
    with pytest.raises(TrackingError, match=f"mlflow experiments restore -x {tracker.experiment_id}"):
        Tracker(store).connect()


def test_the_run_that_mlflow_run_opened_is_the_summary(tracker, store, monkeypatch):
    mlflow = client(tracker)
    elsewhere = mlflow.create_experiment("elsewhere")
    opened = mlflow.create_run(elsewhere).info.run_id
    mlflow.log_param(opened, "k", "02")
    mlflow.log_param(opened, "normalize", "none,l2,power")
    monkeypatch.setenv("MLFLOW_RUN_ID", opened)
    inside = Tracker(store).connect()
    assert inside.start_summary("main", PROVENANCE) == opened
    run_id = finished(inside, make_cell())
    inside.finish_summary(opened, texts={"table.csv": "class,rocauc\n"}, points=[("rocauc_by_k", np.float32(0.5), np.int64(2))])
    assert run_of(inside, run_id).info.experiment_id == elsewhere
    assert "mlflow.parentRunId" not in run_of(inside, run_id).data.tags
    summary = run_of(inside, opened)
    assert summary.data.params == {"k": "02", "normalize": "none,l2,power"}
    assert (summary.info.status, summary.data.tags["kind"], summary.data.metrics) == ("FINISHED", "summary", {"rocauc_by_k": 0.5})
    (point,) = mlflow.get_metric_history(opened, "rocauc_by_k")
    assert (type(point.step), point.step) == (int, 2)
    assert [file.path for file in mlflow.list_artifacts(opened)] == ["table.csv"]
    assert len(all_runs(inside)) == 2
    assert all_runs(tracker) == []
    assert tracker.newest_experiment() == elsewhere


def test_a_stale_run_id_is_told(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with pytest.raises(TrackingError, match=f"cannot find the run MLFLOW_RUN_ID={'0' * 32} in the tracking store") as caught:
        Tracker(store).connect()
    one_line(caught)


KILLED_BETWEEN_SPLITS = """
    import os, signal, sys
    from pathlib import Path
    from handmade import EXPERIMENT, PROVENANCE, make_cell
    from mlflow_laws import START
    from benchmarks.cells import Cells
    from benchmarks.tracking import Tracker
    tracker, cells = Tracker().connect(), Cells(Path(sys.argv[1]))
    print(tracker.start_summary("main", PROVENANCE))
    with cells.lock([EXPERIMENT]):
        print(tracker.start_cell(EXPERIMENT, **START), flush=True)
        cells.save(make_cell()[0])
        os.kill(os.getpid(), signal.SIGKILL)
    """


def test_a_cell_that_was_killed_continues_on_disk_and_in_its_run(tracker, tmp_path):
    process = start(KILLED_BETWEEN_SPLITS, tmp_path)
    summary, run_id = process.communicate(timeout=60)[0].split()
    assert process.returncode == -signal.SIGKILL
    assert run_of(tracker, run_id).info.status == "RUNNING"
    assert set(tracker.mark_dead()) == {summary, run_id}
    assert {run.info.status for run in all_runs(tracker)} == {"KILLED"}
    assert tracker.mark_dead() == []
    cells = Cells(tmp_path)
    with cells.lock([EXPERIMENT]):
        assert set(cells.load(EXPERIMENT)) == {"cat"}
        assert tracker.start_cell(EXPERIMENT, **START) == run_id
        tracker.finish_cell(run_id, [*cells.load(EXPERIMENT).values(), *make_cell()[1:]], labels=LABELS)
    run = run_of(tracker, run_id)
    assert (run.info.status, run.data.tags["pid"]) == ("FINISHED", str(os.getpid()))
    assert round(run.data.metrics["rocauc"], 9) == 0.8


def owned_by(tracker, **tags):
    run_id = tracker.start_cell(EXPERIMENT, **START, fresh=True)
    for name, value in tags.items():
        client(tracker).set_tag(run_id, name, value)
    return run_id


def test_only_runs_of_dead_processes_of_this_host_are_marked(tracker):
    sleeper = start("import time; print('up', flush=True); time.sleep(600)")
    sleeper.stdout.readline()
    started = Path(f"/proc/{sleeper.pid}/stat").read_text().split()[21]
    ours = owned_by(tracker)
    living = owned_by(tracker, pid=str(sleeper.pid), pid_started=started)
    number_used_again = owned_by(tracker, pid=str(sleeper.pid), pid_started="1")
    elsewhere = owned_by(tracker, host="elsewhere", pid="999999999")
    gone = owned_by(tracker, pid="999999999")
    assert set(tracker.mark_dead()) == {number_used_again, gone}
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)  # dead, not collected: as under an `mlflow run` that hangs
    assert tracker.mark_dead() == [living]
    sleeper.wait()
    assert {run_of(tracker, run_id).info.status for run_id in (ours, elsewhere)} == {"RUNNING"}


def test_a_cell_that_another_process_is_at_is_not_taken_from_it(tracker):
    sleeper = start("import time; print('up', flush=True); time.sleep(600)")
    sleeper.stdout.readline()
    started = Path(f"/proc/{sleeper.pid}/stat").read_text().split()[21]
    living = owned_by(tracker, pid=str(sleeper.pid), pid_started=started)
    elsewhere = owned_by(tracker, host="elsewhere")
    assert tracker.start_cell(EXPERIMENT, **START) not in (living, elsewhere)
    sleeper.kill()
    sleeper.wait()


def test_this_process_lives():
    assert not is_dead(owner_tags())
    assert is_dead({**owner_tags(), "pid": "999999999"})
    assert not is_dead({**owner_tags(), "host": "elsewhere", "pid": "999999999"})
    assert not is_dead({})


def test_two_processes_share_a_new_store_and_compute_a_cell_once(store, tmp_path):
    Path("mlflow.db").unlink()
    code = """
        import sys
        from pathlib import Path
        from handmade import EXPERIMENT, LABELS, make_cell
        from mlflow_laws import START
        from benchmarks.cells import Cells
        from benchmarks.tracking import Tracker
        tracker, cells = Tracker().connect(), Cells(Path(sys.argv[1]))
        with cells.lock([EXPERIMENT]):
            if tracker.find_finished(EXPERIMENT.key) is None:
                run_id = tracker.start_cell(EXPERIMENT, **START)
                tracker.finish_cell(run_id, make_cell(), labels=LABELS)
        """
    both = [start(code, tmp_path), start(code, tmp_path)]
    assert [process.communicate(timeout=120) for process in both] == [("", ""), ("", "")]
    (run,) = all_runs(Tracker(store))
    assert run.info.status == "FINISHED"


def test_a_store_whose_making_was_broken_off_is_made_again(tmp_path):
    """kill -9 in the middle of MLflow's migrations."""
    code = """
        import os, signal
        from alembic.operations import Operations
        from benchmarks.tracking import Tracker
        made = []
        create = Operations.create_table
        def create_three(self, *args, **kwargs):
            made.append(create(self, *args, **kwargs))
            if len(made) == 3:
                self.get_bind().connection.commit()
                os.kill(os.getpid(), signal.SIGKILL)
        Operations.create_table = create_three
        Tracker().connect()
        """
    environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "MLFLOW_RUN_ID": ""}
    assert start(code, **environment).wait(60) == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [".mlflow.db.unfinished"]
    again = start("from benchmarks.tracking import Tracker; print(Tracker().connect().experiment_id)", **environment)
    assert again.communicate(timeout=60) == ("1\n", "")
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_metric_that_is_not_a_number_is_refused(tracker):
    run_id = tracker.start_cell(EXPERIMENT, **START)
    with pytest.raises(ValueError, match="rocauc"):
        tracker.finish_cell(run_id, [make_result(rocauc=float("nan"))], labels=LABELS)
    with pytest.raises(ValueError, match=r"peak_mb of cell .* is inf"):
        tracker.finish_cell(run_id, make_cell(), labels=LABELS, metrics={"memory/peak_mb": float("inf")})
    assert (run_of(tracker, run_id).info.status, run_of(tracker, run_id).data.metrics) == ("RUNNING", {})


def test_on_the_validation_partition_every_quality_says_so():
    points = metric_points(make_cell(replace(EXPERIMENT, partition="validation")), Interval(0.8, 0.7, 0.9))
    names = {name for name, _, _ in points if not name.startswith("time/")}
    means = {"rocauc_validation", "rocauc_validation_low", "rocauc_validation_high", "average_precision_validation"}
    assert names == means | {f"rocauc_validation/{name}" for name in ("cat", "dog", "truck")}


def test_one_value_of_a_curve_has_a_mean_and_a_point():
    points = {
        (name, step): value
        for name, value, step in metric_points([make_result(x=100.0), make_result(x=100.0, draw=1, rocauc=0.8)])
    }
    assert round(points["rocauc", 0], 9) == round(points["rocauc_curve", 100], 9) == 0.85


def test_steps_are_python_ints():
    for x in (np.float32(100), np.int64(100), 100.0):
        (point,) = [point for point in metric_points([make_result(x=x)]) if point[0] == "rocauc_curve"]
        assert type(point[2]) is int
        assert type(point[1]) is float


def test_a_curve_needs_a_step_of_its_own_for_each_value():
    with pytest.raises(ValueError, match=r"value 0\.05 is not a whole number"):
        metric_points(make_curve())
    with pytest.raises(ValueError, match=r"have the step 0, the second is 0\.05"):
        metric_points(make_curve(), curve_step=lambda x: x)


def test_scores_of_groups_and_of_splits_without_neighbours(tmp_path):
    results = [make_result(size=2, split="m2", x=2.0), replace(make_result(size=3, split="m3", x=3.0), nearest=None)]
    write_files(tmp_path, results, {"splits": [{"name": "m2"}, {"name": "m3"}]}, LABELS)
    scores = pd.read_parquet(tmp_path / "scores.parquet")
    two, three = (scores[scores["split"] == name] for name in ("m2", "m3"))
    assert [list(row) for row in two["row"]] == results[0].rows.tolist()
    assert [list(names) for names in three["label"]] == LABELS[results[1].rows].tolist()
    assert (two[["nearest_0", "nearest_1", "nearest_2"]].to_numpy() == results[0].nearest).all()
    assert three["nearest_0"].isna().all()


def test_the_exact_fractions_stand_in_the_table_and_the_record(tracker, tmp_path):
    run_id = finished(tracker, make_curve(), curve_step=lambda x: x * 1000)
    client(tracker).download_artifacts(run_id, "", str(tmp_path))
    record = json.loads((tmp_path / "results.json").read_text())
    assert (record["rocauc"], record["rocauc_low"]) == (None, None)
    assert {split["x"] for split in record["splits"]} == {0.0, 0.05, 0.1}
    assert {row["x"] for row in csv.DictReader((tmp_path / "table.csv").open())} == {"0.0", "0.05", "0.1"}


def test_a_run_of_another_cell_is_not_read_as_this_one(tracker):
    run_id = finished(tracker, make_cell())
    with pytest.raises(TrackingError, match="delete the run"):
        tracker.read_cell(replace(EXPERIMENT, seed=7), run_id)


@pytest.mark.parametrize("name", ["results.json", "scores.parquet"])
@pytest.mark.parametrize("content", [b"", b"{", b"PAR1"])
def test_damaged_files_of_a_run_are_one_line(tracker, name, content, tmp_path):
    run_id = finished(tracker, make_cell())
    (tmp_path / name).write_bytes(content)
    tracker._client.log_artifact(run_id, tmp_path / name)
    with pytest.raises(TrackingError, match="not what was logged"):
        tracker.read_cell(EXPERIMENT, run_id)


def test_the_newest_metrics_are_of_the_same_detector_and_input(tracker):
    finished(tracker, make_cell(replace(EXPERIMENT, normalize="power")), metrics={"memory/peak_mb": 512})
    finished(tracker, make_cell(replace(EXPERIMENT, input="features:resnet18")), metrics={"memory/peak_mb": 1024})
    assert tracker.newest_metrics(EXPERIMENT)["memory/peak_mb"] == 512
    assert tracker.newest_metrics(replace(EXPERIMENT, dataset="fashion_mnist")) == {}


def test_the_published_table_can_be_logged(tracker):
    path = TESTS.parent / "benchmarks" / "published.csv"
    rows = list(csv.DictReader(path.open()))
    cells = {tuple(row[name] for name in ("source", "dataset", "protocol", "detector", "variant")) for row in rows}
    assert tracker.log_published(rows) == len(cells)
    assert sum(len(run.data.metrics) for run in all_runs(tracker)) == len(rows) + sum(bool(row["spread"]) for row in rows)


def test_the_link_lands_on_the_runs_with_charts():
    link = "http://localhost:5001/#/experiments/7/runs?workflowType=machine_learning&compareRunsMode=CHART"
    assert ui_link("7", "http://localhost:5001/") == link


def test_a_port_that_is_taken_is_told(tracker, store):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(TrackingError, match="choose another with --port"):
            serve(store, "127.0.0.1", taken.getsockname()[1], print)
