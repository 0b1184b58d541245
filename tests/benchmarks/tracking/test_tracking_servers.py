"""The same laws against `mlflow server` on SQLite and PostgreSQL, and under `mlflow run`.

Also a server that goes away, and the page. PostgreSQL's programs come with Debian's package
`postgresql`; the test runs its own database in a temporary folder.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from handmade import EXPERIMENT, LABELS, PROVENANCE, make_cell, start
from mlflow_laws import LAWS, START, client, run_of
from servers import Server, answers, free_port, postgresql, wait_for

from benchmarks.result_store import ResultStore
from benchmarks.tracking import Tracker, ui_link
from benchmarks.tracking.server import serve

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_surrounding_run(monkeypatch):
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    if request.param == "sqlite":
        running = Server(f"sqlite:///{folder}/mlflow.db", folder).start()
        yield running
        running.kill()
        return
    with postgresql() as store:
        running = Server(store, folder).start()
        yield running
        running.kill()


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law(server, tmp_path, law):
    tracker = Tracker(server.url).connect()
    tracker._experiment_id = client(tracker).create_experiment(f"{law.__name__} {tmp_path}")
    law(tracker, tmp_path)


SESSION = """
    import sys
    from pathlib import Path
    from handmade import EXPERIMENT, LABELS, make_cell
    from mlflow_laws import START
    from benchmarks.result_store import ResultStore
    from benchmarks.tracking import Tracker, TrackingError
    tracker, cells = Tracker(sys.argv[1]).connect(), ResultStore(Path(sys.argv[2]))
    print(len(tracker.mark_dead()))
    with cells.lock([EXPERIMENT.key]):
        run_id = tracker.start_cell(EXPERIMENT, **START)
        print(run_id)
        done = cells.load(EXPERIMENT)
        print(len(done), flush=True)
        for result in make_cell():
            if result.split not in done:
                cells.save(result, LABELS)
        print("computed", flush=True)
        sys.stdin.readline()
        try:
            results = list(cells.load(EXPERIMENT).values())
            tracker.finish_cell(run_id, results, disk=cells, labels=LABELS)
        except TrackingError as error:
            print(error)
            sys.exit(1)
    """


def test_a_server_that_goes_away_loses_no_result(server, tmp_path):
    first = start(SESSION, server.url, tmp_path)
    dead, run_id, found = (first.stdout.readline().strip() for _ in range(3))
    assert (dead, found) == ("0", "0")
    assert first.stdout.readline() == "computed\n"
    server.kill()
    before = time.monotonic()
    told, errors = first.communicate("go on\n", timeout=120)
    assert time.monotonic() - before < 30
    assert first.returncode == 1
    assert errors == ""
    assert told.count("\n") == 1
    assert f"in the tracking store {server.url} (" in told
    assert "finished results are on disk, run the same command again when it answers" in told
    assert set(ResultStore(tmp_path).load(EXPERIMENT)) == {"cat", "dog", "truck"}
    server.start()
    second = start(SESSION, server.url, tmp_path)
    told, errors = second.communicate("go on\n", timeout=120)
    assert (second.returncode, errors) == (0, "")
    assert told.split() == ["1", run_id, "3", "computed"]
    tracker = Tracker(server.url).connect()
    assert run_of(tracker, run_id).info.status == "FINISHED"
    assert round(run_of(tracker, run_id).data.metrics["rocauc"], 9) == 0.8
    assert tracker.find_finished(EXPERIMENT.key) == run_id


PAGE = """
    import sys
    from benchmarks.tracking.server import serve
    serve(None, "127.0.0.1", int(sys.argv[1]), lambda link: print(link, flush=True))
    """


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_page_shows_the_runs_and_ends_with_its_command(tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    tracker = Tracker().connect()
    run_id = tracker.start_cell(EXPERIMENT, **START)
    tracker.finish_cell(run_id, make_cell(), disk=ResultStore(tmp_path), labels=LABELS)
    tracker.finish_summary(tracker.start_summary("main", PROVENANCE), texts={})
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    page = start(PAGE, port)
    assert page.stdout.readline() == ui_link(tracker.experiment_id, base) + "\n"
    assert b"MLflow" in fetch(base)
    assert (
        json.loads(fetch(f"{base}/api/2.0/mlflow/runs/get?run_id={run_id}"))["run"]["info"][
            "status"
        ]
        == "FINISHED"
    )
    assert (
        json.loads(fetch(f"{base}/get-artifact?run_id={run_id}&path=results.json"))["run_id"]
        == run_id
    )
    (server,) = children(page.pid)
    assert len(children(server)) <= 1, "one worker, no job executors"
    page.send_signal(how)
    told, errors = page.communicate(timeout=30)
    assert (told, errors, page.returncode) == ("", "", 0)
    assert not answers(f"{base}/health")
    assert not Path(f"/proc/{server}").exists()


def test_the_page_of_a_server_is_its_own(tmp_path, server):
    links = []
    serve(server.url, "127.0.0.1", 5000, links.append)
    assert links[0].startswith(f"{server.url}/#/experiments/")


def fetch(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read()


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


PROJECT = """
name: small
entry_points:
  main:
    parameters:
      k: {type: string, default: "2"}
      then: {type: string, default: "end"}
    command: "python cell.py {k} {then}"
"""

CELL = """
import sys, time
from pathlib import Path
from handmade import EXPERIMENT, LABELS, PROVENANCE, make_cell
from mlflow_laws import START
from benchmarks.result_store import ResultStore
from benchmarks.tracking import Tracker
tracker = Tracker().connect()
summary = tracker.start_summary("main", PROVENANCE)
run_id = tracker.start_cell(EXPERIMENT, **START)
if sys.argv[2] == "wait":
    open("waiting", "w").close()
    time.sleep(600)
tracker.finish_cell(run_id, make_cell(), disk=ResultStore(Path('home')), labels=LABELS)
tracker.finish_summary(summary, texts={"table.csv": "class,rocauc"})
"""


def mlflow_run(folder, *args):
    (folder / "MLproject").write_text(PROJECT)
    (folder / "cell.py").write_text(CELL)
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {
        **os.environ,
        "PATH": programs,
        "PYTHONPATH": f"{TESTS.parent}:{TESTS / 'support'}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [sys.executable, "-m", "mlflow", "run", ".", "--env-manager", "local", *args]
    with (folder / "output").open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def runs_by_kind(tracker, experiment_id):
    return {run.data.tags["kind"]: run for run in client(tracker).search_runs([experiment_id])}


def test_mlflow_run_gives_one_summary_and_flat_cells(tmp_path):
    assert mlflow_run(tmp_path, "-P", "k=02", "--experiment-name", "mine").wait(120) == 0, (
        tmp_path / "output"
    ).read_text()
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db").connect()
    mine = client(tracker).get_experiment_by_name("mine").experiment_id
    runs = runs_by_kind(tracker, mine)
    assert set(runs) == {"cell", "summary"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert runs["summary"].data.params == {"k": "02", "then": "end"}
    assert runs["cell"].data.params["k"] == "2"
    assert "mlflow.parentRunId" not in runs["cell"].data.tags
    assert tracker.newest_view() == (mine, "")


def test_what_a_killed_mlflow_run_left_running_is_marked(tmp_path):
    process = mlflow_run(tmp_path, "-P", "then=wait", "--experiment-name", "mine")
    wait_for((tmp_path / "waiting").exists, "the cell")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db").connect()
    runs = runs_by_kind(tracker, client(tracker).get_experiment_by_name("mine").experiment_id)
    assert {run.info.status for run in runs.values()} == {"RUNNING"}
    assert set(tracker.mark_dead()) == {run.info.run_id for run in runs.values()}
