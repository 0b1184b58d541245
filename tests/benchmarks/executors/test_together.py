"""Workers share the splits of a job, whichever executor they are of."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from forked import stored_features

from benchmarks.contracts import SplitError
from benchmarks.datasets import load_dataset
from benchmarks.executors import Serial, Together, processes
from benchmarks.experiments import make_experiments
from benchmarks.protocols import make_splits
from benchmarks.session import Session, run_session
from benchmarks.work import Worker
from tests.benchmarks.executors.test_executors import Heard, do, job_of, training


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, weights_home):
    return stored_features(tmp_path_factory.mktemp("home"), weights_home)


@pytest.fixture
def two(workspace):
    executor = processes.Processes(workspace, 2)
    yield executor
    executor.close()


class Three(Serial):
    """Three workers by name, that keep what they are given."""

    workers = 3

    def __init__(self, workspace):
        super().__init__(workspace)
        self.jobs = []

    def work(self, job, watch, progress):
        self.jobs.append(job)
        return Worker(self.worker.workspace).work(
            job, watch, progress
        )  # one of its own, as a worker does one job at a time

    def left(self):
        """The splits that each job was given, but those that had nothing to do."""
        names = [
            tuple(split.name for split in splits_of(job) if not done(job, split))
            for job in self.jobs
        ]
        return sorted(filter(None, names))


def done(job, split):
    return all((cell.key, split.name) in job.done for cell in job.experiments)


def splits_of(job):
    return make_splits(job.experiments[-1], load_dataset("synthetic", home=Path()))


def together(executor, job, workspace, share=3):
    return list(begin(Together(executor), job, workspace, share))


def begin(dealer, job, workspace, share=3):
    return dealer.work(job, splits_of(job), share, Heard(workspace.home, lambda: None), None)


def test_all_workers_encode_an_input_together_and_once(workspace):
    executor, job = Three(workspace), job_of(workspace, params={"k": [1, 2]})
    dealer = Together(executor)
    for expected in (3 + 3, 3):
        executor.jobs.clear()
        list(begin(dealer, job, workspace))
        assert len(executor.jobs) == expected
    executor.jobs.clear()
    list(begin(dealer, training(workspace), workspace))
    assert executor.left() == [("cross",), ("disc",)]
    assert len(executor.jobs) == 2, "pixels are not encoded"


def test_workers_share_the_splits_of_a_job_and_results_are_the_serial_ones(two, workspace):
    job = job_of(workspace, params={"k": [1, 2, 5]}, normalize=["l2"])
    expected, _ = do(Serial(workspace), job, workspace)
    found = together(two, job, workspace)
    assert len(two._started) == 2
    found.sort(
        key=lambda result: [(one.experiment, one.split) for one in expected].index(
            (result.experiment, result.split)
        )
    )
    assert [(one.split, one.metrics) for one in found] == [
        (one.split, one.metrics) for one in expected
    ]
    assert all(
        np.array_equal(one.scores, other.scores) for one, other in zip(found, expected, strict=True)
    )


def test_what_is_done_is_dealt_to_nobody(workspace):
    executor, job = Three(workspace), job_of(workspace)
    finished = frozenset((job.experiments[0].key, split.name) for split in splits_of(job)[1:])
    assert [
        result.split for result in together(executor, replace(job, done=finished), workspace)
    ] == ["disc"]
    assert executor.left() == [("disc",)]


def test_splits_that_are_searched_together_stay_together(workspace):
    executor, job = Three(workspace), job_of(workspace, protocol="leave_one_class_out")
    together(executor, job, workspace)
    assert executor.left() == [tuple(split.name for split in splits_of(job))]


def test_a_job_has_no_more_parts_than_it_is_given_workers(workspace):
    for share, parts in ((0, 1), (1, 1), (2, 2), (9, 4)):
        executor = Three(workspace)
        assert len(together(executor, job_of(workspace), workspace, share)) == 4
        assert len(executor.left()) == parts


@pytest.mark.parametrize(
    ("normalize", "shares"),
    [(("none",), [3]), (("none", "l2"), [1, 3]), (("none", "l2", "power"), [1, 1, 3])],
)
def test_the_last_job_of_a_session_shares_the_workers(
    workspace, tracker, monkeypatch, normalize, shares
):
    asked, told, work = [], [], Together.work

    def note(self, job, splits, share, *rest):
        asked.append((job.experiments[0].normalize, share))
        return work(self, job, splits, share, *rest)

    monkeypatch.setattr(Together, "work", note)
    session = Session(
        workspace, tracker, executor=Three(workspace), progress=lambda *call: told.append(call)
    )
    outcome = run_session(session, make_experiments(datasets=["synthetic"], normalize=normalize))
    assert not outcome.failures
    assert sorted(share for _, share in asked) == shares
    for name in normalize:
        assert [call[1:] for call in told if call[0] == f"dn2 on synthetic, {name}"] == [
            (done, 4) for done in range(1, 5)
        ]


def test_a_part_that_fails_costs_no_other_part(workspace, monkeypatch):
    job = job_of(workspace)
    dealer = Together(Three(workspace))
    work = Three.work

    def fail(self, part, *rest):
        if not done(part, splits_of(part)[0]):
            raise SplitError("disc fails")
        yield from work(self, part, *rest)

    monkeypatch.setattr(Three, "work", fail)
    monkeypatch.setattr(Together, "_encode", lambda *_: None)
    found = []
    with pytest.raises(SplitError, match="disc fails"):
        found.extend(one.split for one in begin(dealer, job, workspace))
    assert len(found) == 3


def test_parts_whose_results_nobody_takes_end_soon(workspace, monkeypatch):
    made = []

    def work(*_):
        for number in range(100):
            made.append(number)
            yield number
            time.sleep(0.01)

    monkeypatch.setattr(Three, "work", work)
    monkeypatch.setattr(Together, "_encode", lambda *_: None)
    dealer, job = Together(Three(workspace)), job_of(workspace)
    results = begin(dealer, job, workspace)
    next(results)
    results.close()
    assert len(made) < 100
