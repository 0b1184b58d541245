"""Every executor does a job as this process would: the same results, losses and errors, whatever happens to its workers."""

import os
from dataclasses import replace

import numpy as np
import pytest
from forked import stored_features

from benchmarks.contracts import SplitError, UsageError, Workspace
from benchmarks.executors import (
    EXECUTORS,
    Job,
    Serial,
    make_executor,
    messages,
    processes,
    ray_cluster,
)
from benchmarks.executors.messages import WorkerLostError
from benchmarks.experiments import make_experiments, resolve
from benchmarks.inputs import input_identity
from benchmarks.result_store import ResultStore
from benchmarks.work import Worker

HERE = [name for name in EXECUTORS if name != "ray"]  # test_executors_ray.py has the other
EPOCHS = {"epochs": [3], "pretrain_epochs": [1], "batch_size": [20]}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, weights_home):
    return stored_features(tmp_path_factory.mktemp("home"), weights_home)


@pytest.fixture(params=HERE, scope="module")
def executor(request, workspace):
    executor = make_executor(request.param, workspace, 0 if request.param == "serial" else 2)
    yield executor
    executor.close()


class Heard:
    """A watch that keeps what it hears, and does something each time."""

    def __init__(self, home, at_loss):
        self.losses, self.disk, self.at_loss = [], ResultStore(home), at_loss

    def monitor(self, experiment, split):
        def hear(name, epoch, epochs, share, loss):
            if share == 1:
                self.losses.append((split.name, name, epoch))
            self.at_loss()

        return hear

    def checkpoint(self, experiment, split):
        path = self.disk.checkpoint(experiment, split.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def job_of(workspace, detector="dn2", **asked):
    experiments = make_experiments(datasets=["synthetic"], detectors=[detector], **asked)
    dataset = Worker(workspace).dataset("synthetic")
    resolved = [
        resolve(cell, dataset, input_identity(cell.input, workspace)) for cell in experiments
    ]
    return Job(tuple(resolved), {"commit": "tests"})


def training(workspace, **changed):
    return job_of(workspace, "deep_svdd", params={**EPOCHS, **changed}, classes=["disc", "cross"])


def do(executor, job, workspace, progress=None, each=lambda result: None, at_loss=lambda: None):
    watch, results = Heard(workspace.home, at_loss), []
    for result in executor.work(job, watch, progress):
        results.append(result)
        each(result)
    return results, watch.losses


def test_results_are_the_serial_ones_to_the_last_bit(executor, workspace):
    job = job_of(workspace, params={"k": [1, 2, 5]}, normalize=["l2"])
    expected, _ = do(Serial(workspace), job, workspace)
    found, _ = do(executor, job, workspace)
    assert len(found) == len(expected) == 3 * 4
    for one, other in zip(found, expected, strict=True):
        assert (one.experiment, one.split, one.metrics, one.provenance) == (
            other.experiment,
            other.split,
            other.metrics,
            other.provenance,
        )
        for array in ("scores", "rows", "is_anomaly", "nearest"):
            np.testing.assert_array_equal(getattr(one, array), getattr(other, array))
        assert one.cost["memory/peak_mb"] > 1


def test_what_is_done_is_left_out(executor, workspace):
    job = job_of(workspace)
    done = frozenset({(job.experiments[0].key, "disc")})
    results, _ = do(executor, replace(job, done=done), workspace)
    assert "disc" not in [result.split for result in results]
    assert len(results) == 3


def test_losses_are_heard_and_every_job_of_a_worker_starts_afresh(executor, workspace):
    for _ in range(2):
        results, losses = do(executor, training(workspace), workspace)
        assert [result.split for result in results] == ["disc", "cross"]
        assert losses == [
            (split, name, epoch)
            for split in ("disc", "cross")
            for name, epochs in (("pretrain_loss", 1), ("loss", 3))
            for epoch in range(1, epochs + 1)
        ]
        for result in results:
            labels = np.full(240, "of some class")
            ResultStore(workspace.home).save(result, labels)  # which removes the checkpoint


def test_an_error_of_the_job_arrives_as_it_is_and_the_worker_lives_on(executor, workspace):
    with pytest.raises(
        SplitError, match=r"deep_svdd one_class on synthetic, disc: TrainingDivergedError: .* epoch"
    ):
        do(executor, training(workspace, learning_rate=[1e30]), workspace)
    assert len(do(executor, job_of(workspace), workspace)[0]) == 4


@pytest.fixture
def two(workspace):
    executor = processes.Processes(workspace, 2)
    yield executor
    executor.close()


def kill_workers(executor, *_):
    for process in list(executor._started):
        os.kill(process._process.pid, 9)


def test_a_killed_worker_costs_no_result_and_none_comes_twice(two, workspace):
    killed = []

    def kill_once(result):
        if not killed:
            killed.append(result.split)
            kill_workers(two)

    results, losses = do(two, training(workspace, epochs=[8]), workspace, each=kill_once)
    assert [result.split for result in results] == ["disc", "cross"]
    assert killed == ["disc"]
    assert ("cross", "loss", 8) in losses


def test_a_job_that_kills_every_worker_is_given_up(two, workspace, monkeypatch):
    started, start = [], two._start

    def start_and_kill():
        """The first ones die as they start, which saves their imports, and the last one in the training."""
        started.append(start())
        if len(started) < messages.TRIES:
            kill_workers(two)
        return started[-1]

    monkeypatch.setattr(two, "_start", start_and_kill)
    with pytest.raises(
        WorkerLostError,
        match=r"worker process of deep_svdd one_class on synthetic died \(exit code -9\)",
    ):
        do(two, training(workspace, epochs=[300]), workspace, at_loss=lambda: kill_workers(two))
    assert len(started) == messages.TRIES
    monkeypatch.undo()
    assert len(do(two, job_of(workspace), workspace)[0]) == 4, "the next job finds a new worker"


def test_a_closed_executor_starts_nobody(two, workspace):
    two.close()
    with pytest.raises(WorkerLostError, match="have been ended"):
        do(two, job_of(workspace), workspace)


def tell_threads(line, workspace):
    line.recv()
    line.send(("progress", "threads", int(os.environ["OMP_NUM_THREADS"]), 0))
    line.send(("end",))


@pytest.mark.parametrize(("cores", "workers", "share"), [(2, 2, 1), (8, 2, 4), (2, 5, 1)])
def test_a_worker_is_told_its_share_of_the_cores(cores, workers, share, workspace, monkeypatch):
    monkeypatch.setattr(processes, "available_cores", lambda: cores)
    monkeypatch.setattr(processes, "_serve", tell_threads)
    before, told = os.environ.get("OMP_NUM_THREADS"), []
    executor = processes.Processes(workspace, workers)
    do(executor, job_of(workspace), workspace, lambda *what: told.append(what))
    executor.close()
    assert told == [("threads", share, 0)]
    assert os.environ.get("OMP_NUM_THREADS") == before


@pytest.mark.parametrize(
    ("nodes", "workers", "each"),
    [([2], 2, 1), ([8], 2, 4), ([2, 2], 1, 2), ([4, 4, 4], 2, 4), ([0, 1, 1], 2, 1), ([], 3, 1)],
)
def test_a_ray_worker_is_not_promised_more_cores_than_a_node_has(nodes, workers, each):
    assert ray_cluster.share(nodes, workers) == each


def test_a_worker_that_starts_while_the_executor_is_closed_is_ended(two, workspace, monkeypatch):
    started = []

    class Slow:
        def __init__(self, *_):
            started.append(self)
            two.close()

        def let_go(self):
            pass

        see_off = let_go

        def end(self):
            started.clear()

    monkeypatch.setattr(processes, "_Process", Slow)
    with pytest.raises(WorkerLostError, match="have been ended"):
        do(two, job_of(workspace), workspace)
    assert not started


class OfTwoParts(Exception):
    """Cannot be read back: its message alone does not make it."""

    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")


def test_an_error_that_cannot_travel_arrives_as_text():
    sent = messages.fit_to_travel(OfTwoParts(1, 2))
    assert (type(sent), str(sent)) == (RuntimeError, "OfTwoParts: 1 and 2")
    known = SplitError("said")
    assert messages.fit_to_travel(known) is known


def test_an_error_is_heard_to_the_end_so_that_its_worker_is_free():
    told = iter([("error", SplitError("said")), ("progress", "the end", 1, 1)])
    with pytest.raises(SplitError, match="said"):
        list(messages.hear(told, None, None))
    assert not list(told)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("threads", 2, ""), "unknown executor 'threads'.*processes, ray, serial"),
        (("processes", -1, ""), "--workers must be at least 1.*got -1"),
        (("serial", 2, ""), "serial has one worker, got 2: take --executor processes"),
        (("processes", 2, "10.0.0.1:6379"), "--ray-address is for --executor ray"),
    ],
)
def test_bad_input(asked, message):
    name, workers, address = asked
    with pytest.raises(UsageError, match=message):
        make_executor(name, Workspace(None), workers, address)


def test_the_cores_are_those_of_the_environment(monkeypatch):
    from dn2.engines import available_cores

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    here = available_cores()
    for text, cores in {"1": 1, "1000000": here, "0": 1, "many": here, "": here}.items():
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert available_cores() == cores


def test_workers_that_do_nothing_end_by_themselves(workspace):
    """One that is killed leaves semaphores behind, and Python's warning would be the last that a user reads."""
    executor = processes.Processes(workspace, 2)
    heard = Heard(workspace.home, lambda: None)
    list(executor.work(job_of(workspace), heard, None))
    (worker,) = executor._started
    executor.close()
    assert worker._process.exitcode == 0
