"""A session that is killed, doubled, cut off from its disk or its server: nothing finished is lost, nothing is done twice."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RUN = ("run", "--dataset", "synthetic", "--k", "1,2", "--json")

# Sets up a command line in which something happens at the n-th call of a function, then runs it. Shards are small, so that 240
# images are several.
DRIVER = """
import os, signal, sys
import dn2.store, benchmarks.cells, benchmarks.session
dn2.store.SHARD_ROWS = 64
def at_call(number, owner, name, action):
    original, calls = getattr(owner, name), []
    def wrapped(*args, **kwargs):
        result = original(*args, **kwargs)
        calls.append(name)
        if len(calls) == number:
            action()
        return result
    setattr(owner, name, wrapped)
def at_call_each(owner, name, action):
    original = getattr(owner, name)
    def wrapped(*args, **kwargs):
        action()
        return original(*args, **kwargs)
    setattr(owner, name, wrapped)
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
{setup}
from benchmarks.__main__ import run_main
sys.exit(run_main(sys.argv[1:]))
"""

COUNT_SAVES = """
save = benchmarks.cells.Cells.save
def counted(self, result):
    print("saved", file=sys.stderr)
    return save(self, result)
benchmarks.cells.Cells.save = counted
"""


@pytest.fixture
def place(tmp_path, weights_home):
    shutil.copytree(weights_home / "weights", tmp_path / "home" / "weights")
    return tmp_path


def start(place, arguments=RUN, setup="", **environment):
    env = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    env |= {"DN2_HOME": str(place / "home"), "PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true", **environment}
    command = [sys.executable, "-c", DRIVER.format(setup=setup), *arguments]
    return subprocess.Popen(command, cwd=place, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def all_runs(place):
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{place / 'mlflow.db'}")
    return client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])


def cell_runs(place):
    return [run for run in all_runs(place) if run.data.tags["kind"] == "cell"]


def rocaucs(out):
    return {run["key"]: [split["rocauc"] for split in run["splits"]] for run in json.loads(out)["runs"]}


def test_killed_during_extraction_and_again_during_scoring_it_continues_in_the_same_runs(place, tmp_path_factory):
    code, _, _ = finish(start(place, setup="at_call(2, dn2.store.FeatureStore, '_fill_shard', die)"))
    assert code == -9
    shards = {path.name: path.stat().st_mtime_ns for path in place.glob("home/features/*/shard-*.npy")}
    assert len(shards) == 2

    code, _, _ = finish(start(place, setup="at_call(3, benchmarks.cells.Cells, 'save', die)"))
    assert code == -9
    now = {path.name: path.stat().st_mtime_ns for path in place.glob("home/features/*/shard-*.npy")}
    assert len(now) == 4
    assert shards.items() <= now.items()
    saved = sorted(path.name for path in place.glob("home/cells/*/*.npz"))
    assert len(saved) == 3
    before = {run.info.run_id for run in cell_runs(place)}
    assert sorted(run.info.status for run in all_runs(place)) == ["KILLED", "RUNNING", "RUNNING", "RUNNING"]

    code, out, err = finish(start(place, setup=COUNT_SAVES))
    assert code == 0, err
    assert err.count("saved") == 8 - 3
    assert {run.info.run_id for run in cell_runs(place)} == before
    assert {run.info.status for run in cell_runs(place)} == {"FINISHED"}
    assert {run.info.status for run in all_runs(place) if run.data.tags["kind"] == "summary"} == {"KILLED", "FINISHED"}
    assert not list(place.glob("home/cells/*/*.npz"))

    whole = tmp_path_factory.mktemp("uninterrupted")
    shutil.copytree(place / "home" / "weights", whole / "home" / "weights")
    code, undisturbed, err = finish(start(whole))
    assert code == 0, err
    assert rocaucs(out) == rocaucs(undisturbed)


def test_two_at_once_compute_one_store_and_one_run_a_cell(place):
    both = [finish(process) for process in (start(place, setup=COUNT_SAVES), start(place, setup=COUNT_SAVES))]
    for code, _, err in both:
        assert code == 0, err
    assert sum(err.count("saved") for _, _, err in both) == 8
    first, second = (rocaucs(out) for _, out, _ in both)
    assert first == second
    assert len(cell_runs(place)) == 2
    assert {run.info.status for run in all_runs(place)} == {"FINISHED"}
    assert not list(place.glob("home/features/*/*.tmp"))


def test_two_cells_at_once_share_one_store(place):
    """Other cells, so no lock of a cell keeps them apart: each shard is computed by one of them."""
    count = "at_call_each(dn2.store, 'write_shard', lambda: print('wrote a shard', file=sys.stderr))"
    arguments = [("run", "--dataset", "synthetic", "--normalize", how, "--json") for how in ("none", "l2")]
    both = [finish(process) for process in [start(place, each, setup=count) for each in arguments]]
    for code, _, err in both:
        assert code == 0, err
    assert sum(err.count("wrote a shard") for _, _, err in both) == 4
    assert len(cell_runs(place)) == 2


def test_an_altered_shard_is_computed_again(place):
    code, out, err = finish(start(place))
    assert code == 0, err
    shard = sorted(place.glob("home/features/*/shard-*.npy"))[1]
    good = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(good[:5000] + bytes([good[5000] ^ 1]) + good[5001:])
    code, again, err = finish(start(place, (*RUN, "--force")))
    assert code == 0, err
    assert rocaucs(again) == rocaucs(out)
    assert np_rows(shard.read_bytes()) == np_rows(good)


def np_rows(content):
    """A shard's rows, without the seconds that stand behind them."""
    return content[: 128 + 64 * 1280 * 4]


@pytest.mark.parametrize(("folder", "runs"), [("features", ["FAILED", "FAILED"]), ("cells", [])])
def test_a_folder_that_cannot_be_written_is_one_line(place, folder, runs):
    (place / "home" / folder).write_text("a file where a folder should be")
    code, _, err = finish(start(place))
    assert code == 1
    assert "DN2_HOME" in err
    assert "Traceback" not in err
    assert [run.info.status for run in cell_runs(place)] == runs
    assert [run.info.status for run in all_runs(place)] == [*runs, "FAILED"]
    (place / "home" / folder).unlink()
    code, _, err = finish(start(place))
    assert code == 0, err


def test_a_failing_cell_fails_alone(place):
    broken = """
from dn2.detector import DN2
original = DN2.score_path
def score_path(self, X):
    if self.index == "flat":
        raise RuntimeError("broken on purpose")
    return original(self, X)
DN2.score_path = score_path
import benchmarks.experiments
make = benchmarks.experiments.make_experiments
both = lambda **asked: [*make(**asked), *(cell.with_params(index="flat") for cell in make(**asked))]
benchmarks.experiments.make_experiments = both
"""
    code, out, err = finish(start(place, setup=broken))
    assert code == 1
    assert "broken on purpose" in err
    assert "Traceback" not in err
    assert len(json.loads(out)["runs"]) == 2
    assert sorted(run.info.status for run in cell_runs(place)) == ["FAILED", "FAILED", "FINISHED", "FINISHED"]


@pytest.mark.slow
def test_a_server_that_goes_away_costs_no_result(place):
    """A real server, ended by the driver after the third split; the next start logs what is on disk without scoring again."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def serve():
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{place / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(place / "artifacts"), "--host", "127.0.0.1", "--port", str(port)]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        server = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        import time
        import urllib.request

        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                return server
            except OSError:
                time.sleep(0.25)
        raise AssertionError("the server did not start")

    import signal

    server, uri = serve(), f"http://127.0.0.1:{port}"
    kill = f"at_call(3, benchmarks.cells.Cells, 'save', lambda: os.killpg({server.pid}, signal.SIGKILL))"
    code, out, err = finish(start(place, setup=kill, MLFLOW_TRACKING_URI=uri))
    server.wait()
    assert code == 1
    assert "run the same command again" in err
    assert "Traceback" not in err
    assert len(json.loads(out)["runs"]) == 2
    assert len(list(place.glob("home/cells/*/*.npz"))) == 8

    server = serve()
    try:
        never = "import benchmarks.session; benchmarks.session.run = lambda *a, **k: iter(())"
        code, again, err = finish(start(place, setup=never, MLFLOW_TRACKING_URI=uri))
        assert code == 0, err
        assert rocaucs(again) == rocaucs(out)
        assert sorted(run.info.status for run in cell_runs(place)) == ["FINISHED", "FINISHED"]
        assert not list(place.glob("home/cells/*/*.npz"))
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
