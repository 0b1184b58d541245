"""Every executor evaluates a batch as this process would, whatever happens to its workers."""

import os
import threading
import time
from functools import partial

import numpy as np
import pytest
from batches import Heard, batch_of, do, in_order, run_session, training
from forked import stored_features
from handmade import start
from lethal import die_at_once

from benchmarks.contracts import OutsideError, SplitError, UsageError, Workspace
from benchmarks.executors import (
    EXECUTORS,
    Serial,
    WorkerLostError,
    executor,
    make_executor,
    processes,
    ray_cluster,
)
from benchmarks.executors.executor import Pool, fit_to_travel
from benchmarks.experiments import make_experiments
from benchmarks.session import Session

CLASSES = ("disc", "square", "cross", "stripes")
HERE = [name for name in EXECUTORS if name != "ray"]  # which test_ray_cluster.py tests


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, weights_home):
    return stored_features(tmp_path_factory.mktemp("home"), weights_home)


@pytest.fixture(params=HERE, scope="module")
def any_executor(request, workspace):
    made = make_executor(request.param, workspace, 0 if request.param == "serial" else 2)
    yield made
    made.close()


@pytest.fixture(scope="module")
def pool(workspace):
    """Two processes that several tests share, since a process takes seconds to start."""
    made = processes.Processes(workspace, 2)
    yield made
    made.close()


@pytest.fixture
def two(workspace):
    made = processes.Processes(workspace, 2)
    yield made
    made.close()


def pids(pool):
    return [pid for started in list(pool._started) for pid in started._processes]


def kill_workers(pool, *_):
    for pid in pids(pool):
        os.kill(pid, 9)


def test_results_are_the_serial_ones_to_the_last_bit(any_executor, workspace):
    batch = batch_of(workspace, params={"k": [1, 2, 5]}, normalize=["l2"])
    expected, _ = do(Serial(workspace), batch, workspace)
    found, _ = do(any_executor, batch, workspace)
    assert len(found) == len(expected) == 3 * 4
    for one, other in zip(in_order(found), in_order(expected), strict=True):
        assert (one.experiment, one.split, one.metrics, one.provenance) == (
            other.experiment,
            other.split,
            other.metrics,
            other.provenance,
        )
        for array in ("scores", "rows", "is_anomaly", "nearest"):
            np.testing.assert_array_equal(getattr(one, array), getattr(other, array))
        assert one.cost["memory/peak_mb"] > 1


def test_what_is_done_is_left_out(any_executor, workspace):
    batch = batch_of(workspace)
    results, _ = do(any_executor, batch.without({(batch.cells[0].key, "disc")}), workspace)
    assert "disc" not in [result.split for result in results]
    assert len(results) == 3


def test_losses_are_heard_and_every_unit_of_a_worker_starts_afresh(any_executor, workspace):
    for _ in range(2):
        results, losses = do(any_executor, training(workspace), workspace)
        assert sorted(result.split for result in results) == ["cross", "disc"]
        for split in ("disc", "cross"):
            assert [heard for heard in losses if heard[0] == split] == [
                (split, name, epoch)
                for name, epochs in (("pretrain_loss", 1), ("loss", 3))
                for epoch in range(1, epochs + 1)
            ]
        assert len(losses) == 8
        for result in results:
            Heard(workspace.home).forget(result)  # which removes the checkpoint


def test_losses_are_heard_while_the_training_goes_on(pool, workspace):
    first = []

    def note():
        first.append(time.monotonic())

    do(pool, training(workspace, epochs=[12]), workspace, at_loss=note)
    assert time.monotonic() - first[0] > 0.5


def test_an_error_of_a_unit_arrives_as_it_is_and_the_worker_lives_on(any_executor, workspace):
    with pytest.raises(
        SplitError, match=r"deep_svdd one_class on synthetic, \w+: TrainingDivergedError: .* epoch"
    ):
        do(any_executor, training(workspace, learning_rate=[1e30]), workspace)
    before = pids(any_executor) if isinstance(any_executor, processes.Processes) else []
    assert len(do(any_executor, batch_of(workspace), workspace)[0]) == 4
    assert not before or pids(any_executor) == before


def test_a_killed_worker_costs_no_result_and_none_comes_twice(two, workspace):
    killed = []

    def kill_once(result):
        if not killed:
            killed.append(result.split)
            kill_workers(two)

    results, losses = do(two, training(workspace, epochs=[8]), workspace, each=kill_once)
    assert sorted(result.split for result in results) == ["cross", "disc"]
    assert len(killed) == 1
    assert {("cross", "loss", 8), ("disc", "loss", 8)} <= set(losses)


def test_a_killed_worker_costs_its_own_unit_alone(two, workspace):
    killed, evaluated, evaluate = [], [], two.evaluate

    def note(unit, notices):
        evaluated.append(unit.splits[0].name if unit.splits else "")
        return evaluate(unit, notices)

    two.evaluate = note

    def kill_first():
        if not killed:
            killed.append(pids(two)[0])
            os.kill(killed[0], 9)

    # Long enough that both units are still at work when the first loss is heard.
    results, _ = do(two, training(workspace, epochs=[30]), workspace, at_loss=kill_first)
    assert sorted(result.split for result in results) == ["cross", "disc"]
    assert len(evaluated) == 3, "one of the two is done again, and the other is not"


def test_a_unit_that_kills_its_workers_at_once_is_given_up(two, workspace, monkeypatch):
    evaluated, evaluate = [], two.evaluate
    monkeypatch.setattr(processes, "evaluate_unit", die_at_once)
    monkeypatch.setattr(two, "evaluate", lambda *unit: evaluated.append(unit) or evaluate(*unit))
    batch = training(workspace)
    with pytest.raises(WorkerLostError, match=r"died \(exit code SIGKILL\(-9\)\).*lower --workers"):
        do(two, batch.only(batch.splits[:1]), workspace)
    assert len(evaluated) == executor.TRIES


@pytest.mark.slow
def test_a_unit_that_kills_every_worker_is_given_up(two, workspace, monkeypatch):
    started, start = [], two._start

    def start_and_count():
        started.append(start())
        return started[-1]

    monkeypatch.setattr(two, "_start", start_and_count)
    batch = training(workspace, epochs=[300])
    with pytest.raises(
        WorkerLostError,
        match=r"worker process of deep_svdd one_class on synthetic died "
        r"\(exit code SIGKILL\(-9\)\)",
    ):
        do(
            two,
            batch.only(batch.splits[:1]),
            workspace,
            at_loss=lambda: kill_workers(two),
        )
    assert len(started) == executor.TRIES
    monkeypatch.undo()
    assert len(do(two, batch_of(workspace), workspace)[0]) == 4, "the next batch finds new workers"


def test_a_closed_executor_starts_nobody(two, workspace):
    two.close()
    with pytest.raises(WorkerLostError, match="have been ended"):
        do(two, batch_of(workspace), workspace)


def threads_of(workspace, unit, notices):
    return [os.environ["OMP_NUM_THREADS"]]


@pytest.mark.parametrize(("cores", "workers", "share"), [(2, 2, 1), (8, 2, 4), (2, 5, 1)])
def test_a_worker_gets_its_part_of_the_cores(cores, workers, share, workspace, monkeypatch):
    monkeypatch.setattr(processes, "available_cores", lambda: cores)
    monkeypatch.setattr(processes, "evaluate_unit", threads_of)
    before = os.environ.get("OMP_NUM_THREADS")
    made = processes.Processes(workspace, workers)
    batch = training(workspace)
    found = list(made.work(batch.only(batch.splits[:1]), Heard(workspace.home), None))
    made.close()
    assert found == [str(share)]
    assert os.environ.get("OMP_NUM_THREADS") == before


@pytest.mark.parametrize(
    ("nodes", "workers", "each"),
    [([2], 2, 1), ([8], 2, 4), ([2, 2], 1, 2), ([4, 4, 4], 2, 4), ([0, 1, 1], 2, 1), ([], 3, 1)],
)
def test_a_ray_worker_is_not_promised_more_cores_than_a_node_has(nodes, workers, each):
    assert ray_cluster.cores_each(nodes, workers) == each


def test_a_worker_that_starts_while_the_executor_is_closed_is_ended(two, workspace):
    from joblib.externals.loky import process_executor

    made = []

    class Slow(process_executor.ProcessPoolExecutor):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(self)
            threading.Thread(target=two.close).start()
            time.sleep(0.2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process_executor, "ProcessPoolExecutor", Slow)
        with pytest.raises(WorkerLostError, match="have been ended"):
            do(two, batch_of(workspace), workspace)
    assert made
    assert all(started._flags.shutdown for started in made)


class OfTwoParts(Exception):
    """An error that cannot be unpickled, because its message alone does not rebuild it."""

    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")


def test_an_error_that_cannot_travel_arrives_as_text():
    sent = fit_to_travel(OfTwoParts(1, 2))
    assert (type(sent), str(sent)) == (RuntimeError, "OfTwoParts: 1 and 2")
    known = SplitError("said")
    assert fit_to_travel(known) is known


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


class InThisProcess(Pool):
    """A pool whose workers are threads of this process; it records the units it gets."""

    def __init__(self, workspace, workers=3, before=lambda unit: None):
        super().__init__(workspace, workers)
        self.units, self.before = [], before

    def evaluate(self, unit, notices):
        self.units.append(unit)
        self.before(unit)
        return list(Serial(self.workspace).work(unit, None, None))

    def given(self):
        """List the splits of each unit, without the units that only opened the input."""
        names = [tuple(split.name for split in unit.splits) for unit in self.units]
        return sorted(filter(None, names))


def work(pool, batch):
    return list(begin(pool, batch))


def begin(pool, batch):
    return pool.work(batch, Heard(pool.workspace.home), None)


@pytest.mark.parametrize("missing", [0, 1, 2, 9])
def test_workers_encode_an_input_together_and_once(workspace, missing):
    pool, batch = InThisProcess(workspace), batch_of(workspace, params={"k": [1, 2]})
    pool.worker.shards_missing = lambda *_: missing
    for expected in (min(3, missing) + 4, 4):
        pool.units.clear()
        work(pool, batch)
        assert len(pool.units) == expected
    pool.units.clear()
    work(pool, training(workspace))
    assert pool.given() == [("cross",), ("disc",)]
    assert len(pool.units) == 2, "pixels are not encoded"


def test_each_way_to_make_squares_has_features_of_its_own(workspace):
    crop, pad = (batch_of(workspace, fits=[fit]) for fit in ("crop", "pad"))
    pool = InThisProcess(workspace)
    work(pool, crop)
    assert pool.worker.shards_missing(crop) == 0
    assert pool.worker.shards_missing(pad) == 1
    pool.units.clear()
    work(pool, pad)
    assert len(pool.units) == 1 + 4
    assert pool.worker.shards_missing(pad) == 0


def test_workers_share_the_splits_of_a_batch(pool, workspace):
    do(pool, batch_of(workspace), workspace)
    assert len(pids(pool)) == 2


def test_what_is_done_is_dealt_to_nobody(workspace):
    pool, batch = InThisProcess(workspace), batch_of(workspace)
    finished = {(batch.cells[0].key, split.name) for split in batch.splits[1:]}
    assert [result.split for result in work(pool, batch.without(finished))] == ["disc"]
    assert pool.given() == [("disc",)]


def test_splits_that_are_searched_together_stay_together(workspace):
    pool, batch = InThisProcess(workspace), batch_of(workspace, protocol="leave_one_class_out")
    work(pool, batch)
    assert pool.given() == [tuple(split.name for split in batch.splits)]


@pytest.mark.parametrize("normalize", [("none",), ("none", "l2"), ("none", "l2", "power")])
def test_every_batch_of_a_session_is_dealt_to_all_workers(workspace, tracker, normalize):
    pool, said = InThisProcess(workspace), []
    session = Session(workspace, tracker, executor=pool, progress=lambda *call: said.append(call))
    outcome = run_session(session, make_experiments(datasets=["synthetic"], normalize=normalize))
    assert not outcome.failures
    assert len(pool.given()) == 4 * len(normalize)
    for name in normalize:
        assert [call[1:] for call in said if call[0] == f"dn2 on synthetic, {name}, results"] == [
            (done, 4) for done in range(5)
        ]


def test_a_unit_that_fails_costs_none_that_has_begun(workspace):
    all_begun = threading.Barrier(4)

    def fail(unit):
        if unit.splits:
            all_begun.wait(20)
            if unit.splits[0].name == "disc":
                raise SplitError("disc fails")

    found = []
    with pytest.raises(SplitError, match="disc fails"):
        found.extend(
            one.split for one in begin(InThisProcess(workspace, 4, fail), batch_of(workspace))
        )
    assert sorted(found) == ["cross", "square", "stripes"]


def test_units_that_have_not_begun_are_dropped_after_a_failure(workspace):
    def fail(unit):
        if unit.splits and unit.splits[0].name == "disc":
            raise SplitError("disc fails")
        time.sleep(0.5 if unit.splits else 0)

    pool = InThisProcess(workspace, 1, fail)
    with pytest.raises(SplitError, match="disc fails"):
        work(pool, batch_of(workspace))
    assert len(pool.given()) <= 2


def test_units_whose_results_nobody_takes_are_dropped(workspace):
    pool = InThisProcess(workspace, 1, lambda unit: time.sleep(0.2))
    results = begin(pool, batch_of(workspace))
    next(results)
    results.close()
    pool.close()
    assert len(pool.given()) < 4


def test_a_result_that_cannot_be_kept_drops_the_units_that_have_not_begun(workspace, tracker):
    pool = InThisProcess(workspace, 1, lambda unit: time.sleep(0.3 if unit.splits else 0))
    session = Session(workspace, tracker, executor=pool)

    def refuse(*_, **__):
        raise OutsideError("the disk is full")

    session.disk.save = refuse
    outcome = run_session(session, make_experiments(datasets=["synthetic"], classes=CLASSES))
    assert [str(error) for error in outcome.failures.values()] == ["the disk is full"]
    pool.close()
    assert len(pool.given()) < 4


def test_workers_end_without_a_word(workspace):
    """A killed process leaves semaphores: Python's warning of them would be the last line read."""
    code = """
import sys
from pathlib import Path
from batches import batch_of, do
from benchmarks.contracts import Workspace
from benchmarks.executors.processes import Processes
workspace = Workspace(Path(sys.argv[1]))
pool = Processes(workspace, 2)
assert len(do(pool, batch_of(workspace), workspace)[0]) == 4
pool.close()
"""
    out, err = start(code, workspace.home).communicate(timeout=120)
    assert (out, err) == ("", "")


def test_no_notices_are_left_behind(pool, workspace):
    do(pool, training(workspace), workspace)
    assert not list(workspace.home.glob("cells/*/*.notices"))


def test_a_batch_may_come_from_several_threads_at_once(pool, workspace):
    batches = [batch_of(workspace, normalize=[name]) for name in ("none", "l2", "power")]
    found = {}

    def take(batch):
        found[batch.cells[0].normalize] = do(pool, batch, workspace)[0]

    threads = [threading.Thread(target=partial(take, batch)) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: len(results) for name, results in found.items()} == {
        "none": 4,
        "l2": 4,
        "power": 4,
    }
