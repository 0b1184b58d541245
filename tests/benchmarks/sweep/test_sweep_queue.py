"""Trials that still have to run: points that fail, processes that die, studies interrupted."""

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from small_studies import run_study, small

from benchmarks.executors import Serial, WorkerLostError
from benchmarks.session import Session
from benchmarks.sweep import StudyPlan, studies, sweep
from benchmarks.sweep.studies import (
    GridDoneError,
    choose_sampler,
    is_taken,
    make_sampler,
    point_text,
    queue_grid,
    suggest_point,
    trials_left,
)
from dn2.detector import DN2


def stored(workspace):
    storage = optuna.storages.JournalStorage(
        JournalFileBackend(str(workspace.home / "studies" / "toy.journal"))
    )
    return optuna.load_study(study_name="toy", storage=storage)


def test_a_space_in_which_everything_fails_comes_to_an_end(workspace, tracker, monkeypatch):
    """Five trials of three points; when they are run again, five more."""

    def broken(*_, **__):
        raise ValueError("broken on purpose")

    monkeypatch.setattr(DN2, "fit", broken)
    for begun in (5, 10):
        found, said = run_study(small(), workspace, tracker, sampler="random", trials=5)
        assert (found.best, found.winner) == (None, None)
        assert len(stored(workspace).trials) <= begun
    assert any("run again" in line for line in said)


def test_a_trial_whose_process_died_before_it_said_who_it_is_is_run_again(
    workspace, tracker, monkeypatch
):
    run_study(small(), workspace, tracker, trials=1)
    study = stored(workspace)
    queue_grid(study, small(), 3)
    study.ask()
    monkeypatch.setattr(studies, "GRACE_SECONDS", 2)
    found, said = run_study(small(), workspace, tracker)
    assert len(found.table.trials) == 3
    assert any("waiting for trials of other processes: 1" in line for line in said)


class Endless(Serial):
    """Have two workers that never finish."""

    workers = 2

    def __init__(self, workspace):
        super().__init__(workspace)
        self.begun, self.closed = threading.Semaphore(0), threading.Event()

    def work(self, batch, watch, progress):
        self.begun.release()
        self.in_time = self.closed.wait(20)
        raise WorkerLostError("the workers have been ended")

    def close(self):
        self.closed.set()


@contextmanager
def interrupted(executor):
    """Send Ctrl-C to another thread once the executor works.

    It does not end what the main thread waits for.
    """

    def interrupt():
        executor.begun.acquire()
        signal.raise_signal(signal.SIGINT)

    # A shell's background jobs ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGINT, before)
    assert executor.in_time


def test_an_interrupted_study_does_not_wait_for_its_trials(workspace, tracker):
    executor = Endless(workspace)
    session = Session(workspace, tracker, suite="toy", executor=executor)
    with interrupted(executor):
        sweep(small(), StudyPlan("toy", "brute", 3), session)
    assert not session.failures
    assert not any("error" in trial.user_attrs for trial in stored(workspace).trials)
    found, _ = run_study(small(), workspace, tracker)
    assert len(found.table.trials) == 3


def test_an_interrupted_session_does_not_wait_for_its_cells(workspace, tracker):
    executor = Endless(workspace)
    session = Session(workspace, tracker, suite="toy", executor=executor)
    cells = session.resolve([small().cell(params) for params in small().grid()])
    batches = session.plan(cells)
    with interrupted(executor), session:
        session.run(batches)
    assert not session.failures


def test_what_comes_along_with_a_trial_is_left_on_no_disk(workspace, tracker):
    """k = 1 is finished in another study, and comes with the search for k = 5."""
    run_study(small(k_values=(1,)), workspace, tracker, study="first")
    run_study(small(k_values=(1, 5)), workspace, tracker)
    assert not list(workspace.home.glob("cells/*/*.result"))


@pytest.mark.filterwarnings("ignore:.*[Hh]eartbeat")
def test_no_two_take_one_trial_from_a_database(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(study_name="toy", storage=studies._database(url))
    for x in range(30):
        study.enqueue_trial({"x": x})
    opened = [optuna.load_study(study_name="toy", storage=studies._database(url)) for _ in range(3)]
    with ThreadPoolExecutor(3) as threads:
        taken = [threads.submit(one.ask) for _ in range(10) for one in opened]
    assert sorted(task.result().number for task in taken) == list(range(30))


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp"])
def test_a_sampler_asks_for_each_point_of_a_grid_once(sampler):
    question = small(k_values=(1, 2), normalize=("none", "l2"))
    assert choose_sampler(sampler, question, 10) == (sampler, 4)
    make = make_sampler(sampler, question)
    study = optuna.create_study(direction="maximize", sampler=make(0))
    other = optuna.load_study(study_name=study.study_name, storage=study._storage)
    other.sampler = make(1)
    points = []
    for process in (study, other, study, other):
        trial = process.ask()
        points.append(point_text(suggest_point(trial, question.space)))
        assert not is_taken(study, trial.number, suggest_point(trial, question.space))
        if len(points) % 2:
            process.tell(trial, 0.5)  # others are left running
    assert len(set(points)) == 4
    with pytest.raises(GridDoneError):
        suggest_point(study.ask(), question.space)
    assert trials_left(study, sampler, 4) == 0


def test_of_two_that_chose_one_point_at_once_the_first_keeps_it():
    question = small()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    params = {"encoder": "efficientnet_lite0", "normalize": "none", "k": 1, "clean": 0.0}
    study.enqueue_trial(params)
    study.enqueue_trial(params)
    first, second = study.ask(), study.ask()
    for trial in (first, second):
        suggest_point(trial, question.space)
    assert not is_taken(study, first.number, first.params)
    assert is_taken(study, second.number, second.params)
