"""Sessions are killed, doubled, cut off from disk or server: no work is lost or done twice.

The sessions run in processes of their own (`forked`), with an encoder that is no network.
"""

import json
import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from forked import Process, after_call, die, run_benchmarks
from servers import Server
from stored_runs import all_runs, cell_runs, rocaucs

RUN = ("run", "--dataset", "synthetic", "--k", "1,2", "--json")


@pytest.fixture
def place(tmp_path, weights_home, make_store):
    shutil.copytree(weights_home / "weights", tmp_path / "home" / "weights")
    make_store(tmp_path)
    return tmp_path


def start(place, prepare=None, arguments=RUN, **environment):
    return Process(
        place, run_benchmarks, arguments, prepare, DN2_HOME=str(place / "home"), **environment
    )


def run(place, prepare=None, arguments=RUN, **environment):
    """Run a session; return the exit code, stdout and stderr."""
    return start(place, prepare, arguments, **environment).finish()


def die_while_extracting():
    from dn2.store import FeatureStore

    after_call(FeatureStore, "_fill_shard", die, 2)


def die_while_scoring():
    from benchmarks.result_store import ResultStore

    after_call(ResultStore, "save", die, 3)


def count_saves():
    from benchmarks.result_store import ResultStore

    after_call(ResultStore, "save", partial(print, "saved", file=sys.stderr))


def count_shards():
    import dn2.store

    after_call(dn2.store, "write_shard", partial(print, "wrote a shard", file=sys.stderr))


def fail_with_faiss():
    """Make each cell twice, the second time with an index that fails."""
    import benchmarks.experiments
    from dn2.detector import DN2

    original, make = DN2.score_path, benchmarks.experiments.make_experiments

    def score_path(self, X):
        if self.index == "flat":
            raise RuntimeError("broken on purpose")
        return original(self, X)

    def make_both(**asked):
        return [*make(**asked), *(cell.with_params(index="flat") for cell in make(**asked))]

    DN2.score_path = score_path
    benchmarks.experiments.make_experiments = make_both


def kill_server_while_scoring(process_group):
    from benchmarks.result_store import ResultStore

    after_call(ResultStore, "save", partial(os.killpg, process_group, signal.SIGKILL), 3)


def compute_nothing():
    from benchmarks.evaluate import Worker

    Worker.work = lambda *_, **__: (result for result in ())


def test_killed_during_extraction_and_again_during_scoring_it_continues_in_the_same_runs(
    place, tmp_path_factory, make_store
):
    code, _, _ = run(place, die_while_extracting)
    assert code == -9
    shards = {
        path.name: path.stat().st_mtime_ns for path in place.glob("home/features/*/shard-*.npy")
    }
    assert len(shards) == 2

    code, _, _ = run(place, die_while_scoring)
    assert code == -9
    now = {path.name: path.stat().st_mtime_ns for path in place.glob("home/features/*/shard-*.npy")}
    assert len(now) == 4
    assert shards.items() <= now.items()
    saved = sorted(path.name for path in place.glob("home/cells/*/*.result"))
    assert len(saved) == 3
    before = {run.info.run_id for run in cell_runs(place)}
    assert sorted(run.info.status for run in all_runs(place)) == [
        "KILLED",
        "RUNNING",
        "RUNNING",
        "RUNNING",
    ]

    code, out, err = run(place, count_saves)
    assert code == 0, err
    assert err.count("saved") == 8 - 3
    assert {run.info.run_id for run in cell_runs(place)} == before
    assert {run.info.status for run in cell_runs(place)} == {"FINISHED"}
    summaries = {
        (run.info.status, run.info.run_name)
        for run in all_runs(place)
        if run.data.tags["kind"] == "summary"
    }
    assert summaries == {("KILLED", "summary"), ("FINISHED", "summary synthetic-one_vs_rest-dn2")}
    assert not list(place.glob("home/cells/*/*.result"))

    whole = tmp_path_factory.mktemp("uninterrupted")
    shutil.copytree(place / "home" / "weights", whole / "home" / "weights")
    make_store(whole)
    code, undisturbed, err = run(whole)
    assert code == 0, err
    assert rocaucs(out) == rocaucs(undisturbed)


def test_two_at_once_compute_one_store_and_one_run_a_cell(place):
    both = [process.finish() for process in (start(place, count_saves), start(place, count_saves))]
    for code, _, err in both:
        assert code == 0, err
    assert sum(err.count("saved") for _, _, err in both) == 8
    first, second = (rocaucs(out) for _, out, _ in both)
    assert first == second
    assert len(cell_runs(place)) == 2
    assert {run.info.status for run in all_runs(place)} == {"FINISHED"}
    assert not list(place.glob("home/features/*/*.tmp"))


def test_two_cells_at_once_share_one_store(place):
    """No lock keeps different cells apart, yet only one of them computes each shard."""
    arguments = [
        ("run", "--dataset", "synthetic", "--normalize", how, "--json") for how in ("none", "l2")
    ]
    both = [
        process.finish() for process in [start(place, count_shards, each) for each in arguments]
    ]
    for code, _, err in both:
        assert code == 0, err
    assert sum(err.count("wrote a shard") for _, _, err in both) == 4
    assert len(cell_runs(place)) == 2


def test_an_altered_shard_is_computed_again(place):
    code, out, err = run(place)
    assert code == 0, err
    shard = sorted(place.glob("home/features/*/shard-*.npy"))[1]
    good = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(good[:5000] + bytes([good[5000] ^ 1]) + good[5001:])
    code, again, err = run(place, arguments=(*RUN, "--force"))
    assert code == 0, err
    assert rocaucs(again) == rocaucs(out)
    assert np_rows(shard.read_bytes()) == np_rows(good)


def np_rows(content):
    """Cut a shard to its rows, without the seconds stored after them."""
    return content[: 128 + 64 * 1280 * 4]


@pytest.mark.parametrize(("folder", "runs"), [("features", ["FAILED", "FAILED"]), ("cells", [])])
def test_a_folder_that_cannot_be_written_is_one_line(place, folder, runs):
    (place / "home" / folder).write_text("a file where a folder should be")
    code, _, err = run(place)
    assert code == 1
    assert "DN2_HOME" in err
    assert "Traceback" not in err
    assert [run.info.status for run in cell_runs(place)] == runs
    assert [run.info.status for run in all_runs(place)] == [*runs, "FAILED"]
    (place / "home" / folder).unlink()
    code, _, err = run(place)
    assert code == 0, err


def test_a_failing_cell_fails_alone(place):
    code, out, err = run(place, fail_with_faiss)
    assert code == 1
    assert "broken on purpose" in err
    assert "Traceback" not in err
    assert len(json.loads(out)["runs"]) == 2
    assert sorted(run.info.status for run in cell_runs(place)) == [
        "FAILED",
        "FAILED",
        "FINISHED",
        "FINISHED",
    ]


@pytest.mark.slow
def test_a_server_that_goes_away_costs_no_result(place):
    """The server is killed after the third split is saved.

    The next start logs what is on disk, and scores nothing again.
    """
    (place / "mlflow.db").unlink()
    server = Server(f"sqlite:///{place}/mlflow.db", place).start()
    code, out, err = run(
        place,
        partial(kill_server_while_scoring, server.process.pid),
        MLFLOW_TRACKING_URI=server.url,
    )
    server.process.wait()
    assert code == 1
    assert "run the same command again" in err
    assert "Traceback" not in err
    assert len(json.loads(out)["runs"]) == 2
    assert len(list(place.glob("home/cells/*/*.result"))) == 8

    server.start()
    try:
        code, again, err = run(place, compute_nothing, MLFLOW_TRACKING_URI=server.url)
        assert code == 0, err
        assert rocaucs(again) == rocaucs(out)
        assert sorted(run.info.status for run in cell_runs(place)) == ["FINISHED", "FINISHED"]
        assert not list(place.glob("home/cells/*/*.result"))
    finally:
        server.kill()


TRAINING = (
    *(
        "run",
        "--dataset",
        "synthetic",
        "--detector",
        "deep_svdd",
        "--set",
        "epochs=100000",
        "--set",
        "pretrain_epochs=1",
    ),
    *("--set", "batch_size=20", "--executor", "processes", "--workers", "2", "--seeds", "2"),
)


def workers_of(pid):
    """List the worker processes that this process has started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            text = status.read_text()
            if (
                f"\nPPid:\t{pid}\n" in text
                and b"spawn_main" in (status.parent / "cmdline").read_bytes()
            ):
                found.append(int(status.parent.name))
    return found


def is_there(pid):
    with suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs /proc to find the workers"
)
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_busy_workers_end_with_their_driver(place, sent, code):
    driver = start(place, None, TRAINING)
    checkpoints, deadline = [], time.monotonic() + 120
    while len(checkpoints) < 2 and time.monotonic() < deadline:  # until both train
        checkpoints = list(place.glob("home/cells/*/*.checkpoint"))
        time.sleep(0.2)
    workers = workers_of(driver.process.pid)
    assert len(workers) == 2
    os.kill(driver.process.pid, sent)
    found = driver.finish()
    assert found[0] == code, found
    deadline = time.monotonic() + 30
    while any(map(is_there, workers)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(is_there, workers))
    assert {run.info.status for run in cell_runs(place)} == {
        "KILLED" if sent == signal.SIGINT else "RUNNING"
    }
