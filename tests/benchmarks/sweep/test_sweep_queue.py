"""Which trials have yet to be run: of points that fail, of processes that die, of a study that is interrupted."""

import signal
import threading
from contextlib import contextmanager

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

from benchmarks.executors import Serial, WorkerLostError
from benchmarks.session import Session
from benchmarks.sweep import Plan, studies, sweep
from benchmarks.sweep.studies import queue_grid
from dn2.detector import DN2
from tests.benchmarks.sweep.test_sweep import run, small, workspace

__all__ = ["workspace"]


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
        found, said = run(small(), workspace, tracker, sampler="random", trials=5)
        assert (found.best, found.winner) == (None, None)
        assert len(stored(workspace).trials) <= begun
    assert any("run again" in line for line in said)


def test_a_trial_whose_process_died_before_it_said_who_it_is_is_run_again(
    workspace, tracker, monkeypatch
):
    run(small(), workspace, tracker, trials=1)
    study = stored(workspace)
    queue_grid(study, small(), 3)
    study.ask()
    monkeypatch.setattr(studies, "GRACE_SECONDS", 5)
    found, said = run(small(), workspace, tracker)
    assert len(found.table.trials) == 3
    assert any("waiting for 1 trials" in line for line in said)


class Endless(Serial):
    """Two workers that are never ready."""

    workers = 2

    def __init__(self, workspace):
        super().__init__(workspace)
        self.begun, self.closed = threading.Semaphore(0), threading.Event()

    def work(self, job, watch, progress):
        self.begun.release()
        self.in_time = self.closed.wait(20)
        raise WorkerLostError("the workers have been ended")

    def close(self):
        self.closed.set()


@contextmanager
def interrupted(executor):
    """Ctrl-C, once the executor is at work, that comes to another thread: it does not end what the main thread waits for."""

    def interrupt():
        executor.begun.acquire()
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background jobs ignore it
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
        sweep(small(), Plan("toy", "brute", 3), session)
    assert not session.failures
    assert not any("error" in trial.user_attrs for trial in stored(workspace).trials)
    found, _ = run(small(), workspace, tracker)
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
    run(small(k_values=(1,)), workspace, tracker, study="first")
    run(small(k_values=(1, 5)), workspace, tracker)
    assert not list(workspace.home.glob("cells/*/*.result"))
