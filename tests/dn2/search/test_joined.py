"""Joins of the same parts share a search, which changes nothing but the time."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from batches import evaluate

from benchmarks.contracts import Dataset, join_inputs
from benchmarks.detectors import DETECTORS, Method, make_detector
from benchmarks.experiments import make_experiments, same_fit
from benchmarks.inputs import Rows
from benchmarks.protocols import PROTOCOLS, make_splits
from dn2.detector import DN2
from dn2.search import joined, nearest, nearest_joined

JOINS = tuple(join for size in (1, 2, 3) for join in combinations(range(3), size))
RNG = np.random.default_rng(0)


def parts(n, change=lambda rows: rows, widths=(5, 40, 7)):
    return [change(RNG.normal(size=(n, width))).astype(np.float32) for width in widths]


KINDS = {
    "drawn": lambda rows: rows,
    "far from zero": lambda rows: rows + 1000,
    "whole numbers, so that many distances are equal": lambda rows: rows.round(),
    "all alike": lambda rows: rows * 0 + 3,
    "tiny": lambda rows: rows * 1e-30,
    "huge": lambda rows: rows * 1e15,
    "nearly alike": lambda rows: 1 + rows * 1e-6,
}


@pytest.mark.parametrize("k", [1, 4, 60])
@pytest.mark.parametrize("kind", KINDS)
def test_each_join_has_the_neighbours_of_its_parts_side_by_side(kind, k):
    banks, queries = parts(60, KINDS[kind]), parts(33, KINDS[kind])
    queries = [
        np.concatenate([query, bank[:7]]) for query, bank in zip(queries, banks, strict=True)
    ]
    found = nearest_joined(queries, banks, JOINS, k)
    for join, (distances, rows) in zip(JOINS, found, strict=True):
        expected = nearest(
            np.concatenate([queries[part] for part in join], axis=1),
            np.concatenate([banks[part] for part in join], axis=1),
            k,
        )
        np.testing.assert_array_equal(distances, expected[0])
        np.testing.assert_array_equal(rows, expected[1])


@pytest.mark.parametrize("kind", ["drawn", "whole numbers, so that many distances are equal"])
def test_float64_will_do_and_nothing_given_is_changed(kind):
    banks, queries = ([part.astype(np.float64) for part in parts(n, KINDS[kind])] for n in (60, 33))
    for array in (*banks, *queries):
        array.flags.writeable = False
    ((distances, rows),) = nearest_joined(queries, banks, [(0, 2)], 4)
    expected = nearest(
        np.concatenate([queries[0], queries[2]], axis=1),
        np.concatenate([banks[0], banks[2]], axis=1),
        4,
    )
    np.testing.assert_array_equal(distances, expected[0])
    np.testing.assert_array_equal(rows, expected[1])


@pytest.mark.parametrize("stride", [1, 2, 4, 8, 16, 32, 64])
def test_what_the_exact_search_rounds_away_is_rounded_away_here(stride):
    """The first square lies between two float32 numbers: added one by one, the rest are lost."""
    queries = [np.float32([[1 + 2**-12]]), np.zeros((1, 1280), np.float32)]
    queries[1][0, stride - 1 :: stride] = np.sqrt(0.9 * 2.0**-53)
    banks = [np.zeros_like(query) for query in queries]
    ((distances, _),) = nearest_joined(queries, banks, [(0, 1)], 1)
    np.testing.assert_array_equal(
        distances, nearest(np.concatenate(queries, axis=1), np.concatenate(banks, axis=1), 1)[0]
    )


@pytest.mark.parametrize("count", [1, 2, 7, 61])
@pytest.mark.parametrize("n", [61, 97, 500])
def test_the_lowest_values_are_found_wherever_they_are(n, count):
    values = RNG.permuted(np.tile(np.arange(n) // 2, (200, 1)), axis=1).astype(
        np.float64
    )  # each but the last twice
    lowest, columns = joined._lowest(torch.from_numpy(values), count)
    np.testing.assert_array_equal(lowest, np.sort(values, axis=1)[:, :count])
    np.testing.assert_array_equal(np.take_along_axis(values, columns, axis=1), lowest)
    assert all(len(set(row)) == count for row in columns)


def test_many_blocks_are_one(monkeypatch):
    banks, queries = parts(50), parts(400)
    whole = nearest_joined(queries, banks, JOINS, 3)
    monkeypatch.setattr(joined, "BLOCK_DISTANCES", 50 * 16)
    for one, other in zip(whole, nearest_joined(queries, banks, JOINS, 3), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_hardly_a_pair_is_measured(monkeypatch):
    """Or the search would be no faster than one for each join."""
    measured, original = [], joined.measure
    monkeypatch.setattr(
        joined, "measure", lambda *pairs: measured.append(len(pairs[-1])) or original(*pairs)
    )
    nearest_joined(
        parts(300, widths=(300, 200, 100)), parts(500, widths=(300, 200, 100)), JOINS, 20
    )
    assert sum(measured) < 0.02 * 300 * 20 * len(JOINS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"k": 11}, "at least 11 bank rows, got 10"),
        ({"k": 0}, "k must be an integer"),
        ({"queries": [np.zeros((3, 2), np.float32)]}, "parts must agree"),
        ({"queries": [np.full((3, 4), np.nan, np.float32)]}, "must be finite"),
        ({"banks": [np.full((10, 4), 1e30, np.float32)]}, "must fit in float32"),
    ],
)
def test_bad_input(change, said):
    given = {
        "queries": [np.zeros((3, 4), np.float32)],
        "banks": [np.ones((10, 4), np.float32)],
        "joins": [(0,)],
        "k": 2,
    }
    with pytest.raises(ValueError, match=said):
        nearest_joined(**(given | change))


@pytest.mark.parametrize("detector", [DN2(index="hnsw"), DN2(clean=0.5)])
def test_what_cannot_be_joined_is_refused(detector):
    with pytest.raises(ValueError, match="exact index without cleaning"):
        detector.score_joined(parts(30), parts(3), JOINS)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_that_scores_joins_says_so(name):
    (cell,) = make_experiments(
        datasets=["synthetic"],
        detectors=[name],
        protocol="groups" if DETECTORS[name].groups else "one_vs_rest",
    )
    assert hasattr(make_detector(cell), "score_joined") == Method.of(cell).joins


N = 240
DATASET = Dataset("synthetic", [], np.arange(N) % 4, RNG.random(N) < 0.6, ("a", "b", "c", "d"), "f")
WIDE = Rows(
    parts(N, widths=(6, 9)),
    lambda rows: rows / 2,
    ("efficientnet_lite0", "efficientnet_lite1"),
    (100.0, 50.0),
)
ENCODERS = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite0+efficientnet_lite1")
PROTOCOL_PARAMS = {
    "small_train": {"n_train": (8, 20)},
    "contamination": {"contamination": (0.0, 0.2)},
}


def cells(protocol="one_vs_rest", ks=(1, 2, 5), **params):
    params = {name: (value,) for name, value in params.items()}
    return make_experiments(
        datasets=["synthetic"],
        protocol=protocol,
        encoders=ENCODERS,
        params={"k": ks, **params},
        protocol_params=PROTOCOL_PARAMS.get(protocol, {}),
    )


def results(experiments, X=WIDE):
    return {
        (result.experiment.key, result.split): result
        for result in evaluate(experiments, DATASET, X)
    }


@pytest.mark.parametrize("partition", ["test", "validation"])
@pytest.mark.parametrize(
    "protocol", [name for name, entry in PROTOCOLS.items() if not entry.groups]
)
def test_together_equals_apart_to_the_last_bit(protocol, partition):
    experiments = [replace(cell, partition=partition) for cell in cells(protocol)]
    together = results(experiments)
    assert len(together) == len(experiments) * len(make_splits(experiments[0], DATASET))
    for experiment in experiments:
        for key, apart in results([experiment], WIDE.only(experiment.encoders)).items():
            for name in ("scores", "rows", "is_anomaly", "nearest"):
                np.testing.assert_array_equal(getattr(together[key], name), getattr(apart, name))
            assert together[key].metrics == apart.metrics


def test_one_search_a_split_serves_all_joins(monkeypatch):
    searches, original = [], DN2.score_joined
    monkeypatch.setattr(
        DN2,
        "score_joined",
        lambda self, banks, X, joins: searches.append(joins) or original(self, banks, X, joins),
    )
    results(cells())
    assert [sorted(joins) for joins in searches] == [[(0,), (0, 1), (1,)]] * 4


def test_cells_that_share_a_fit():
    experiments = cells()
    assert same_fit(experiments) == [
        sorted(experiments, key=lambda cell: cell.detector_params["k"])
    ]
    assert join_inputs(experiments) == "features:efficientnet_lite0+efficientnet_lite1"
    without_join = [cell for cell in experiments if len(cell.encoders) == 1]
    assert [{cell.encoders for cell in group} for group in same_fit(without_join)] == [
        {(ENCODERS[0],)},
        {(ENCODERS[1],)},
    ]
    assert len(same_fit(cells(clean=0.5))) == len(cells())
    assert len(same_fit(cells(index="hnsw"))) == len(ENCODERS)
    assert (
        len(same_fit([*experiments, *(replace(cell, normalize="l2") for cell in experiments)])) == 2
    )


def test_each_encoder_says_how_fast_it_was():
    assert [WIDE.only(name.split("+")).images_per_second for name in ENCODERS] == [
        100,
        50,
        pytest.approx(100 / 3),
    ]
    np.testing.assert_array_equal(
        np.concatenate(WIDE.apart(np.arange(5)), axis=1), WIDE[np.arange(5)]
    )
    assert [part.shape for part in WIDE.apart(np.arange(5))] == [(5, 6), (5, 9)]
