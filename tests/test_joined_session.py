"""A session shares a search among inputs joined of the same encoders, whatever of them is finished already."""

import numpy as np
import pytest

import benchmarks.work
from benchmarks.contracts import Workspace
from benchmarks.datasets import load_dataset
from benchmarks.experiments import make_experiments, resolve
from benchmarks.inputs import Rows, encoder_names
from benchmarks.ledger import Ledger
from benchmarks.session import Session
from dn2.detector import DN2

A, B, C, D = "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "resnet18"


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """Features are drawn; no network is needed."""
    drawn = {name: np.random.default_rng(i).normal(size=(240, 6 + i)).astype(np.float32) for i, name in enumerate((A, B, C, D))}

    def load_input(_, name, *__):
        names = encoder_names(name)
        return Rows([drawn[encoder] for encoder in names], lambda rows: rows, names)

    monkeypatch.setattr(benchmarks.work, "load_input", load_input)
    return Workspace(tmp_path)


def cells(workspace, *encoders, ks=(1, 3)):
    dataset = load_dataset("synthetic", home=workspace.home)
    found = make_experiments(datasets=["synthetic"], encoders=encoders, params={"k": ks}, classes=("disc", "square"))
    return [resolve(cell, dataset, {}) for cell in found]


def run(workspace, tracker, asked, beside=()):
    session = Session(workspace, tracker, suite="toy")
    with session:
        session.run(asked, beside)
        session.close(asked)
    assert not session.failures
    return {cell.key: [result.metrics for result in session.finished[cell.key].results] for cell in asked}


@pytest.mark.parametrize(
    ("before", "asked", "beside"),
    [
        ((f"{A}+{B}",), (A, B, f"{A}+{B}"), ()),
        ((f"{A}+{B}",), (A,), (A, B, f"{A}+{B}")),
        ((), (A, B, f"{A}+{B}"), (f"{A}+{C}+{D}",)),
    ],
    ids=["the widest is finished", "the widest beside is finished", "a wider one beside holds some"],
)
def test_any_of_them_may_be_there_already(workspace, tracker, before, asked, beside):
    if before:
        run(workspace, tracker, cells(workspace, *before))
    together = run(workspace, tracker, cells(workspace, *asked), cells(workspace, *beside))
    for cell in cells(workspace, *asked):
        alone = benchmarks.work.Worker(workspace).work(benchmarks.work.Job((cell,), {}))
        assert together[cell.key] == [result.metrics for result in alone]


def test_what_was_computed_beside_is_taken_from_the_disk_and_nothing_else_is_looked_up(workspace, tracker, monkeypatch):
    looked_up, find = [], Ledger.find
    space = cells(workspace, A, B, f"{A}+{B}")
    run(workspace, tracker, space[:1], space)
    monkeypatch.setattr(DN2, "score_joined", None)  # nothing is searched again
    monkeypatch.setattr(Ledger, "find", lambda self, cell: looked_up.append(cell.key) or find(self, cell))
    run(workspace, tracker, space[-1:], space)
    assert set(looked_up) == {space[-1].key}
