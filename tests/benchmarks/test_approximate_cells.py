"""A cell with an approximate index reports its cost: recall, and the change in ROCAUC."""

from itertools import count

import numpy as np
import pytest
from batches import evaluate

import benchmarks.scoring
from benchmarks.contracts import Dataset, Experiment
from benchmarks.detectors import detector_params
from benchmarks.evaluate import recall
from benchmarks.inputs import Rows
from benchmarks.metrics import auroc
from benchmarks.protocols import protocol_params
from dn2.detector import DN2
from dn2.search import APPROXIMATE, approximate

RNG = np.random.default_rng(0)
LABELS, IS_TRAIN = RNG.integers(0, 3, 1400), RNG.random(1400) < 0.7
FEATURES = (RNG.standard_normal((1400, 12)) + LABELS[:, None] * np.eye(12)[:3].sum(0)).astype(
    np.float32
)
TOY = Dataset("toy", [], LABELS, IS_TRAIN, ("a", "b", "c"), "f")
X = Rows([FEATURES], lambda rows: rows, ["x"])
SMALL = {"contamination": {"contamination": (0.0, 0.1)}}


@pytest.fixture(autouse=True)
def small_banks_have_an_index(monkeypatch):
    monkeypatch.setattr(approximate, "SMALLEST", 260)


def results(index, protocol="one_vs_rest", ks=(1, 4, 15), clean=0.0):
    experiments = [
        Experiment(
            "toy",
            protocol,
            "dn2",
            "features:x",
            detector_params=detector_params("dn2", "", {"k": k, "index": index, "clean": clean}),
            protocol_params=protocol_params(protocol, SMALL.get(protocol, {})),
        )
        for k in ks
    ]
    found = {(r.experiment.detector_params["k"], r.split): r for r in evaluate(experiments, TOY, X)}
    assert found
    return found


@pytest.mark.parametrize(
    ("protocol", "clean"),
    [
        ("one_vs_rest", 0.0),
        ("one_vs_rest", 0.1),
        ("contamination", 0.0),
        ("leave_one_class_out", 0.0),
    ],
)
def test_recall_and_change_are_those_of_the_same_cell_searched_exactly(protocol, clean):
    exact, approximate = (results(index, protocol, clean=clean) for index in ("exact", "ivf"))
    assert exact.keys() == approximate.keys()
    missed = 0
    for key, result in approximate.items():
        expected = exact[key]
        assert not {"recall", "rocauc_change"} & expected.metrics.keys()
        assert (
            result.metrics["rocauc_change"] == result.metrics["rocauc"] - expected.metrics["rocauc"]
        )
        assert result.metrics["rocauc"] == auroc(result.is_anomaly, result.scores)
        if key[0] <= 10:  # results keep the 10 nearest rows
            pairs = zip(result.nearest.tolist(), expected.nearest.tolist(), strict=True)
            share = np.mean([len(set(found) & set(true)) / key[0] for found, true in pairs])
            assert result.metrics["recall"] == pytest.approx(share)
        missed += result.metrics["recall"] < 1
    assert missed, "a toy on which nothing is missed shows nothing"


@pytest.mark.parametrize("index", APPROXIMATE)
def test_every_approximate_index_is_compared(index):
    for result in results(index, ks=(2,)).values():
        assert 0.5 < result.metrics["recall"] <= 1
        assert abs(result.metrics["rocauc_change"]) < 0.05


def test_recall_counts_all_k_neighbours_and_not_only_the_rows_that_are_kept():
    for (_, name), result in results("ivf", ks=(15,)).items():
        train = FEATURES[IS_TRAIN & (TOY.labels == "abc".index(name))]
        found, true = (
            list(DN2(15, i).fit(train).score_path(FEATURES[result.rows]))[-1][2]
            for i in ("ivf", "exact")
        )
        share = np.mean(
            [
                len(set(one) & set(other)) / 15
                for one, other in zip(found.tolist(), true.tolist(), strict=True)
            ]
        )
        assert result.metrics["recall"] == pytest.approx(share)
        assert result.nearest.shape[1] == 10


@pytest.mark.parametrize("protocol", ["one_vs_rest", "contamination"])
def test_the_exact_searchs_time_does_not_count(protocol, monkeypatch):
    """The clock advances a second whenever it is read, and a thousand in the exact twin."""
    clock, ahead = count(), [0]
    twin = DN2.reference

    def slow(self):
        ahead[0] += 1000
        return twin(self)

    monkeypatch.setattr(DN2, "reference", slow)
    for module in (benchmarks.scoring, benchmarks.scoring):
        monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock) + ahead[0])
    for result in results("ivf", protocol, ks=(2,)).values():
        assert result.score_seconds <= 1
        assert result.fit_seconds <= 1
    assert ahead[0] >= 3000


def test_recall_of_known_neighbours():
    assert recall(np.array([[1, 2], [3, 4]]), np.array([[2, 1], [4, 5]])) == 0.75
    assert recall(np.array([[1], [3]]), np.array([[3], [1]])) == 0
