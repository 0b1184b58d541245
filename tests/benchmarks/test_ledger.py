"""A store that does not answer is left alone for a while, and has everything in the end."""

from dataclasses import replace

import numpy as np
import pytest
from handmade import CLASSES, EXPERIMENT, FINGERPRINT, make_cell

from benchmarks import ledger
from benchmarks.contracts import Cell, Dataset, Interval
from benchmarks.ledger import Ledger
from benchmarks.result_store import ResultStore
from benchmarks.tracking import TrackingError


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


class Away:
    """A tracker that counts requests, and answers when it is told to."""

    def __init__(self):
        self.there, self.requests, self.probes, self.logged = True, 0, 0, []

    def answers(self):
        self.probes += 1
        return self.there

    def _ask(self):
        self.requests += 1
        if not self.there:
            raise TrackingError("it does not answer")

    def start_summary(self, *_):
        return "summary"

    def start_cell(self, experiment, **_):
        self._ask()
        return experiment.key

    def find_finished(self, key):
        self._ask()

    def log_points(self, *_):
        self._ask()

    def finish_cell(self, run_id, results, **_):
        self._ask()
        self.logged.append(run_id)

    def end(self, *_):
        self._ask()


@pytest.fixture
def away(tmp_path, monkeypatch):
    clock, tracker, said = Clock(), Away(), []
    monkeypatch.setattr(ledger, "time", clock)
    monkeypatch.setattr(ledger, "_figures", lambda _: {})
    monkeypatch.setattr(ledger, "usual_values", lambda _: {})
    kept = Ledger(tracker, ResultStore(tmp_path), "suite", False, {}, said.append)
    return clock, tracker, kept, said


def cell_of(number):
    experiment = replace(EXPERIMENT, seed=number)
    return Cell(experiment, "", "none", tuple(make_cell()), Interval(0.5, 0.4, 0.6))


ROWS = np.arange(60)
DATASET = Dataset("cifar10", [], ROWS % 3, ROWS < 40, CLASSES, FINGERPRINT)


def test_a_store_that_is_away_costs_one_request_and_then_probes(away):
    clock, tracker, kept, said = away
    tracker.there = False
    for number in range(9):
        assert kept.find(cell_of(number).experiment) is None
        kept.start(cell_of(number).experiment, DATASET)
        kept.finish(cell_of(number), DATASET, {})
        clock.now += 0.01
    assert (tracker.requests, tracker.probes) == (1, 0)
    assert said == ["not logged for now: it does not answer"]
    for _ in range(100):
        clock.now += 10
        kept.log_pending()
    assert tracker.requests == 1
    assert tracker.probes < 12  # after 5, 10, 20 ... and then every 300 s
    tracker.there = True
    clock.now += 300
    kept.finish(cell_of(9), DATASET, {})
    assert tracker.logged == [cell_of(number).experiment.key for number in range(10)]
    assert kept.error is None
    assert said[-1] == "the tracking store answers again"


def test_an_interrupt_does_not_wait_for_a_store_that_is_away(away):
    _, tracker, kept, _ = away
    for number in range(3):
        kept.start(cell_of(number).experiment, DATASET)
    tracker.there, tracker.requests = False, 0
    kept.break_off("KILLED", "interrupted")
    assert tracker.requests == 1


def test_a_store_that_answers_probes_and_no_request_is_left_alone_for_longer_and_longer(away):
    clock, tracker, kept, _ = away

    def refuse(*_, **__):
        tracker.requests += 1
        raise TrackingError("it is read-only")

    tracker.start_cell = refuse
    asked = []
    for _ in range(400):
        before = tracker.requests
        kept.start(EXPERIMENT, DATASET)
        asked += [clock.now] * (tracker.requests - before)
        clock.now += 1
    assert np.diff(asked).tolist() == [5, 10, 20, 40, 80, 160]
