"""A session shares a search among inputs that join the same encoders, finished or not."""

from dataclasses import replace

import numpy as np
import optuna
import pytest

import benchmarks.evaluate
from benchmarks.contracts import Workspace
from benchmarks.datasets import load_dataset
from benchmarks.evaluate import Worker
from benchmarks.experiments import make_experiments, plan, resolve
from benchmarks.inputs import Rows, encoder_names
from benchmarks.ledger import Ledger
from benchmarks.session import Session
from benchmarks.sweep import Question
from benchmarks.sweep.studies import queue_grid
from dn2.detector import DN2
from dn2.features import NORMALIZATIONS

A, B, C, D = "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "resnet18"


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """Draw features at random, so that no network is needed."""
    drawn = {
        name: np.random.default_rng(i).normal(size=(240, 6 + i)).astype(np.float32)
        for i, name in enumerate((A, B, C, D))
    }

    def load_input(_, name, *__):
        names = encoder_names(name)
        return Rows([drawn[encoder] for encoder in names], lambda rows: rows, names)

    monkeypatch.setattr(benchmarks.evaluate, "load_input", load_input)
    return Workspace(tmp_path)


def cells(workspace, *encoders, ks=(1, 3)):
    dataset = load_dataset("synthetic", home=workspace.home)
    found = make_experiments(
        datasets=["synthetic"], encoders=encoders, params={"k": ks}, classes=("disc", "square")
    )
    return [resolve(cell, dataset, {}) for cell in found]


def run_in(session, asked, along=()):
    """Run cells in a session that expects other cells, as if all features were stored."""
    session._is_stored = lambda _: True
    session.expect(along)
    batches = session.plan(asked)
    with session:
        session.run(batches)
        session.close(asked)


def run(workspace, tracker, asked, along=()):
    session = Session(workspace, tracker, suite="toy")
    run_in(session, asked, along)
    assert not session.failures
    return {
        cell.key: [result.metrics for result in session.finished[cell.key].results]
        for cell in asked
    }


@pytest.mark.parametrize(
    ("before", "asked", "along"),
    [
        ((f"{A}+{B}",), (A, B, f"{A}+{B}"), ()),
        ((f"{A}+{B}",), (A,), (A, B, f"{A}+{B}")),
        ((), (A, B, f"{A}+{B}"), (f"{A}+{C}+{D}",)),
    ],
    ids=[
        "the widest is finished",
        "the widest that comes along is finished",
        "a wider one that comes along holds some",
    ],
)
def test_any_of_them_may_be_there_already(workspace, tracker, before, asked, along):
    if before:
        run(workspace, tracker, cells(workspace, *before))
    together = run(workspace, tracker, cells(workspace, *asked), cells(workspace, *along))
    for cell in cells(workspace, *asked):
        dataset = load_dataset("synthetic", home=workspace.home)
        (batch,) = plan([cell], {"synthetic": dataset}, {})
        alone = Worker(workspace).work(batch)
        assert together[cell.key] == [result.metrics for result in alone]


@pytest.mark.parametrize(("asked", "along"), [(6, 0), (1, 6), (2, 6)])
def test_progress_ends_where_it_says(workspace, tracker, asked, along):
    space, told = cells(workspace, A, B, f"{A}+{B}"), []
    session = Session(
        workspace,
        tracker,
        progress=lambda what, *call: told.append(call) if "dn2 on" in what else None,
    )
    run_in(session, space[:asked], space[:along])
    results = len(space) * 2  # two classes of every cell, because one search serves all
    assert told == [(done, results) for done in range(results + 1)]


def test_what_came_along_is_taken_from_the_disk_and_nothing_else_is_looked_up(
    workspace, tracker, monkeypatch
):
    looked_up, find = [], Ledger.find
    space = cells(workspace, A, B, f"{A}+{B}")
    run(workspace, tracker, space[:1], space)
    monkeypatch.setattr(DN2, "score_joined", None)  # nothing is searched again
    monkeypatch.setattr(
        Ledger, "find", lambda self, cell: looked_up.append(cell.key) or find(self, cell)
    )
    run(workspace, tracker, space[-1:], space)
    assert set(looked_up) == {space[-1].key}


def test_an_encoder_whose_features_are_no_numbers_fails_alone(workspace, tracker, monkeypatch):
    whole = benchmarks.evaluate.load_input

    def load_input(*given):
        X = whole(*given)
        for name, part in zip(X.names, X.parts, strict=True):
            if name == B:
                part[:] = np.nan
        return X

    monkeypatch.setattr(benchmarks.evaluate, "load_input", load_input)
    asked = cells(workspace, A, B, f"{A}+{B}")
    session = Session(workspace, tracker, suite="toy")
    run_in(session, asked, asked)
    assert session.finished.keys() == {cell.key for cell in asked if cell.encoders == (A,)}
    assert len(session.failures) == 4


def test_features_are_opened_once_for_all_normalisations(workspace, monkeypatch):
    opened, load = [], benchmarks.evaluate.load_input
    monkeypatch.setattr(
        benchmarks.evaluate, "load_input", lambda *given: opened.append(given) or load(*given)
    )
    (cell,) = cells(workspace, f"{A}+{B}", ks=(1,))
    worker, rows = Worker(workspace), np.array([4, 0, 3])
    for name, normalize in NORMALIZATIONS.items():
        (batch,) = plan(
            [replace(cell, normalize=name)], {"synthetic": worker.dataset("synthetic")}, {}
        )
        X = worker.input(batch)
        np.testing.assert_array_equal(
            X[rows], np.concatenate([normalize(part[rows]) for part in X.parts], axis=1)
        )
    assert len(opened) == 1


def test_a_cell_comes_along_only_if_no_image_has_to_be_encoded(workspace, monkeypatch):
    import benchmarks.session

    asked = []

    class Store:
        def __init__(self, name):
            self.name = name

        def missing(self):
            asked.append(self.name)
            return [] if self.name == A else [0]

    monkeypatch.setattr(benchmarks.session, "feature_store", lambda dataset, name, *_: Store(name))
    session = Session(workspace, None)
    space = cells(workspace, A, B, f"{A}+{B}", ks=(1, 2))
    session.expect(space)
    (wanted,) = [c for c in space if c.encoders == (B,) and c.detector_params["k"] == 1]
    (batch,) = session.plan([wanted])
    assert batch.asked == (wanted,)
    (other,) = session.plan([space[0]])
    assert {c.encoders for c in other.cells} == {(A,)}
    assert {c.detector_params["k"] for c in other.cells} == {1, 2}
    assert asked.count(A) == 1


def test_trials_that_one_search_serves_are_far_apart():
    study = optuna.create_study()
    space = {"encoder": (A, B), "normalize": ("l2", "none", "power"), "k": (1, 2, 3)}
    question = Question("synthetic", "one_vs_rest", "dn2", "", "paper", (), 0, "validation", space)
    queue_grid(study, question, 18)
    waiting = [trial.system_attrs["fixed_params"] for trial in study.get_trials()]
    assert len({str(params) for params in waiting}) == 18
    for turn in range(0, 18, 3):
        assert {params["normalize"] for params in waiting[turn : turn + 3]} == {
            "l2",
            "none",
            "power",
        }
