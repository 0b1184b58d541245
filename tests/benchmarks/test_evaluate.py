"""Splits that share rows are scored together, and nothing but the time shows it."""

from collections import Counter
from itertools import count

import numpy as np
import pytest
from batches import evaluate

import benchmarks.scoring
from benchmarks.contracts import Dataset, Experiment, UsageError
from benchmarks.detectors import DETECTORS, defaults, detector_params, make_detector
from benchmarks.experiments import make_experiments
from benchmarks.inputs import Rows
from benchmarks.protocols import PROTOCOLS, make_splits, protocol_params
from benchmarks.scoring import share_rows
from dn2.detector import DN2

SMALL = {
    "small_train": {"n_train": (8, 20, "all")},
    "contamination": {"contamination": (0.0, 0.05, 0.2)},
    "groups": {"group_sizes": (2, 3), "n_groups": 20},
}


def toy(n=400, seed=0):
    """Make classes that overlap, and features with many duplicates and ties."""
    rng = np.random.default_rng(seed)
    labels, is_train = rng.integers(0, 4, n), rng.random(n) < 0.6
    features = (rng.integers(0, 3, (n, 6)) + labels[:, None] % 2).astype(np.float32)
    return Dataset("toy", [], labels, is_train, ("a", "b", "c", "d"), "f"), Rows(
        [features], lambda rows: rows, ["x"]
    )


DATASET, X = toy()


def cells(protocol, detector="dn2", **lists):
    """Make a cell for each k and clean."""
    asked = {"k": (1, 2, 5), **lists}
    names, params = list(asked), []
    for values in np.array(np.meshgrid(*asked.values())).T.reshape(-1, len(asked)).tolist():
        params.append(
            {
                name: int(value) if name != "clean" else value
                for name, value in zip(names, values, strict=True)
            }
        )
    of_protocol = protocol_params(protocol, SMALL.get(protocol, {}))
    return [
        Experiment(
            "toy",
            protocol,
            detector,
            "features:x",
            detector_params=detector_params(detector, "", p),
            protocol_params=of_protocol,
        )
        for p in params
    ]


def results(experiments, **options):
    found = {}
    for result in evaluate(experiments, DATASET, X, **options):
        assert (result.experiment.key, result.split) not in found
        found[result.experiment.key, result.split] = result
    return found


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if not PROTOCOLS[name].groups])
def test_together_equals_apart_to_the_last_bit(protocol, monkeypatch):
    experiments = cells(protocol, clean=(0.0, 0.3))
    together = results(experiments)
    monkeypatch.delattr(DN2, "score_subsets")
    apart = results(experiments)
    assert list(together) == list(apart)
    assert len(together) == len(experiments) * len(make_splits(experiments[0], DATASET))
    for key, result in together.items():
        for name in ("scores", "rows", "is_anomaly", "nearest"):
            np.testing.assert_array_equal(getattr(result, name), getattr(apart[key], name))
        assert (result.metrics, result.n_train, result.x, result.draw) == (
            apart[key].metrics,
            apart[key].n_train,
            apart[key].x,
            apart[key].draw,
        )


@pytest.mark.parametrize(
    ("protocol", "searches"),
    [("one_vs_rest", 0), ("leave_one_class_out", 1), ("small_train", 4), ("contamination", 4)],
)
def test_each_class_or_all_of_them_are_one_block_of_distances(protocol, searches, monkeypatch):
    banks, original = [], DN2.score_subsets
    monkeypatch.setattr(
        DN2,
        "score_subsets",
        lambda self, bank, subsets, X: banks.append(bank) or original(self, bank, subsets, X),
    )
    experiments = cells(protocol)
    results(experiments)
    assert len(banks) == searches
    if protocol == "leave_one_class_out":
        assert len(banks[0]) == DATASET.is_train.sum()


def test_no_more_than_so_many_splits_are_taken_together(monkeypatch):
    monkeypatch.setattr(benchmarks.scoring, "TOGETHER", 4)
    groups = share_rows(make_splits(cells("contamination")[0], DATASET))
    assert [len(group) for group in groups] == [4, 3] * 4
    assert all(len({split.class_name for split in group}) == 1 for group in groups)


def test_what_is_done_is_left_out_and_what_is_left_is_the_same():
    experiments = cells("contamination", clean=(0.0, 0.5))
    everything = results(experiments)
    done = {key for number, key in enumerate(everything) if number % 3}
    left = results(experiments, done=done)
    assert left.keys() == everything.keys() - done
    assert all(np.array_equal(left[key].scores, everything[key].scores) for key in left)
    assert not results(experiments, done=everything.keys())


def test_time_is_shared_out(monkeypatch):
    monkeypatch.setattr(benchmarks.scoring.time, "perf_counter", count().__next__)
    experiments = cells("small_train", k=(2,))
    first, *_ = make_splits(experiments[0], DATASET)
    found = results(experiments, done={(experiments[0].key, first.name)})
    assert Counter((r.class_name, r.score_seconds) for r in found.values()) == {
        ("a", 1 / 6): 6,
        **{(c, 1 / 7): 7 for c in "bcd"},
    }
    assert all(r.fit_seconds == 0 for r in found.values())


@pytest.mark.parametrize("pool", ["mean", "max", "concat"])
def test_groups_are_scored_and_have_no_nearest_images(pool):
    experiments = [e.with_params(pool=pool) for e in cells("groups", "dn2_group", k=(1, 2))]
    found = results(experiments)
    assert {(r.x, r.n_train, r.n_test) for r in found.values()} == {(2.0, 20, 40), (3.0, 20, 40)}
    assert all(r.nearest is None and r.rows.shape == (40, r.x) for r in found.values())


def test_a_detector_that_draws_has_the_experiment_s_seed():
    params = detector_params("dn2_kmeans", "", {})
    experiment = Experiment(
        "toy", "one_vs_rest", "dn2_kmeans", "features:x", detector_params=params, seed=7
    )
    made = make_detector(experiment)
    assert (made.k, made.centres, made.seed) == (2, 10, 7)
    assert len(results([experiment])) == 4


def test_every_variant_sets_known_parameters():
    for name, entry in DETECTORS.items():
        for variant in entry.variants:
            assert detector_params(name, variant, {}).keys() == defaults(name).keys()


@pytest.mark.parametrize(
    ("detector", "protocol", "complaint"),
    [
        (
            "dn2",
            "groups",
            "protocol 'groups' gives groups of images, which 'dn2' cannot score: "
            "take one of dn2_group",
        ),
        ("dn2_kmeans", "groups", "take one of dn2_group"),
        (
            "dn2_group",
            "one_vs_rest",
            "'one_vs_rest' gives single images, which 'dn2_group' cannot score: "
            "take one of dn2, dn2_plus, dn2_kmeans",
        ),
        ("dn2_grup", "groups", "Did you mean dn2_group"),
    ],
)
def test_groups_meet_only_detectors_on_groups(detector, protocol, complaint):
    with pytest.raises(UsageError, match=complaint):
        make_experiments(datasets=["synthetic"], detectors=[detector], protocol=protocol)
