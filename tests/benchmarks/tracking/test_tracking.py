"""Runs in MLflow, against SQLite; the same laws against servers are in test_tracking_servers.py."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from forked import Process, die
from handmade import EXPERIMENT, LABELS, PROVENANCE, make_cell, start
from mlflow_laws import LAWS, START, all_runs, client, finished, run_of

from benchmarks.result_store import ResultStore
from benchmarks.tracking import Tracker
from benchmarks.tracking.connection import is_dead, owner_tags


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law(tracker, tmp_path, law):
    law(tracker, tmp_path)
    assert {path.name for path in Path.cwd().iterdir()} <= {"mlflow.db", "mlruns"}


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
    inside.finish_summary(
        opened,
        texts={"table.csv": "class,rocauc\n"},
        points=[("rocauc_by_k", np.float32(0.5), np.int64(2))],
    )
    assert run_of(inside, run_id).info.experiment_id == elsewhere
    assert "mlflow.parentRunId" not in run_of(inside, run_id).data.tags
    summary = run_of(inside, opened)
    assert summary.data.params == {"k": "02", "normalize": "none,l2,power"}
    assert (summary.info.status, summary.data.tags["kind"], summary.data.metrics) == (
        "FINISHED",
        "summary",
        {"rocauc_by_k": 0.5},
    )
    (point,) = mlflow.get_metric_history(opened, "rocauc_by_k")
    assert (type(point.step), point.step) == (int, 2)
    assert [file.path for file in mlflow.list_artifacts(opened)] == ["table.csv"]
    assert len(all_runs(inside)) == 2
    assert all_runs(tracker) == []
    assert tracker.newest_view() == (elsewhere, "")


def start_two_runs_and_die_between_splits(home):
    tracker, cells = Tracker().connect(), ResultStore(home)
    sys.stdout.write(f"{tracker.start_summary('main', PROVENANCE)}\n")
    with cells.lock([EXPERIMENT.key]):
        sys.stdout.write(f"{tracker.start_cell(EXPERIMENT, **START)}\n")
        sys.stdout.flush()
        cells.save(make_cell()[0], LABELS)
        die()


def test_a_cell_that_was_killed_continues_on_disk_and_in_its_run(tracker, tmp_path):
    code, out, _ = Process(Path.cwd(), start_two_runs_and_die_between_splits, tmp_path).finish()
    assert code == -signal.SIGKILL
    summary, run_id = out.split()
    assert run_of(tracker, run_id).info.status == "RUNNING"
    assert set(tracker.mark_dead()) == {summary, run_id}
    assert {run.info.status for run in all_runs(tracker)} == {"KILLED"}
    assert tracker.mark_dead() == []
    cells = ResultStore(tmp_path)
    with cells.lock([EXPERIMENT.key]):
        assert set(cells.load(EXPERIMENT)) == {"cat"}
        assert tracker.start_cell(EXPERIMENT, **START) == run_id
        tracker.finish_cell(
            run_id,
            [*cells.load(EXPERIMENT).values(), *make_cell()[1:]],
            disk=cells,
            labels=LABELS,
        )
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
    os.waitid(
        os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT
    )  # dead, not collected: as under an `mlflow run` that hangs
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
