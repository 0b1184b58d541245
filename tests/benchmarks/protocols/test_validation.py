"""Validation splits lie inside the training partition and do not depend on the test rows."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.contracts import Dataset, Experiment, UsageError
from benchmarks.protocols import PROTOCOLS, make_splits
from benchmarks.protocols.one_class import one_vs_rest
from benchmarks.protocols.validation import ANOMALIES_PER_NORMAL, FOLDS, deal, validation_splits

CLASSES = ("cat", "dog", "ship", "tree")
SMALL = {
    "small_train": {"n_train": (2, 5, "all"), "draws": 2},
    "contamination": {"contamination": (0, 0.1), "draws": 2},
    "groups": {"group_sizes": (2, 3), "n_groups": 30, "draws": 2},
}


def labelled(n=400, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 4, n), generator.random(n) < 0.6


LABELS, IS_TRAIN = labelled()


def splits_of(
    protocol, *, labels=LABELS, is_train=IS_TRAIN, seed=0, classes=(), partition="validation"
):
    dataset = Dataset("toy", (), labels, is_train, CLASSES, "0" * 64)
    params = {**PROTOCOLS[protocol].defaults, **SMALL.get(protocol, {})}
    cell = Experiment(
        "toy",
        protocol,
        "dn2",
        "pixels",
        protocol_params=params,
        seed=seed,
        classes=tuple(classes),
        partition=partition,
    )
    return make_splits(cell, dataset)


def as_lists(splits):
    return [
        (
            s.name,
            s.class_name,
            s.x,
            s.draw,
            s.train.tolist(),
            s.test.tolist(),
            s.is_anomaly.tolist(),
        )
        for s in splits
    ]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_row_of_the_test_partition_is_in_a_validation_split(protocol):
    splits = splits_of(protocol)
    assert len({split.name for split in splits}) == len(splits)
    for split in splits:
        assert IS_TRAIN[split.train].all()
        assert IS_TRAIN[split.test].all()
        assert not np.intersect1d(split.train, split.test).size
        assert 0 < split.is_anomaly.sum() < len(split.is_anomaly)
        assert split.is_anomaly.shape == split.test.shape[:1]
        assert split.train.dtype == split.test.dtype == np.int64


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_the_test_rows_are_changes_nothing(protocol):
    shuffled = LABELS.copy()
    shuffled[~IS_TRAIN] = np.random.default_rng(1).integers(0, 4, (~IS_TRAIN).sum())
    assert as_lists(splits_of(protocol, labels=shuffled)) == as_lists(splits_of(protocol))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_seed_makes_the_same_splits_and_another_seed_others(protocol):
    assert as_lists(splits_of(protocol)) == as_lists(splits_of(protocol))
    assert as_lists(splits_of(protocol)) != as_lists(splits_of(protocol, seed=1))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_protocol_s_own_splits_are_there_once_a_fold(protocol):
    names = [split.name for split in splits_of(protocol)]
    counts = {fold: sum(name.endswith(f"-fold{fold}") for name in names) for fold in range(FOLDS)}
    assert set(counts.values()) == {len(names) // FOLDS}
    draws = [(split.class_name, split.x, split.draw) for split in splits_of(protocol)]
    if protocol != "small_train":  # there "all" is as many as a fold leaves, which differs by one
        assert len(set(draws)) == len(draws)


@pytest.mark.parametrize("protocol", ["one_vs_rest", "leave_one_class_out"])
def test_every_training_row_is_tested_at_most_once_a_class_and_every_normal_one_once(protocol):
    for name in CLASSES:
        of_class = [split for split in splits_of(protocol) if split.class_name == name]
        tested = np.concatenate([split.test for split in of_class])
        assert len(np.unique(tested)) == len(tested)
        normal = np.concatenate([split.test[~split.is_anomaly] for split in of_class])
        is_class = CLASSES.index(name) == LABELS
        expected = IS_TRAIN & (is_class if protocol == "one_vs_rest" else ~is_class)
        assert np.array_equal(np.sort(normal), np.flatnonzero(expected))


def test_counts_are_exact():
    labels = np.repeat(np.arange(4), 60)
    is_train = np.tile(np.arange(60) < 50, 4)
    for split in splits_of("one_vs_rest", labels=labels, is_train=is_train):
        assert len(split.train) == 40
        assert (~split.is_anomaly).sum() == 10
        assert split.is_anomaly.sum() == ANOMALIES_PER_NORMAL * 10
        assert np.array_equal(
            labels[split.test] != CLASSES.index(split.class_name), split.is_anomaly
        )
        assert (np.diff(split.train) > 0).all()
    for split in splits_of("leave_one_class_out", labels=labels, is_train=is_train):
        assert (len(split.train), (~split.is_anomaly).sum(), split.is_anomaly.sum()) == (
            120,
            30,
            10,
        )


def test_folds_are_even_in_every_class_and_do_not_depend_on_the_classes_asked_for():
    folds = deal(LABELS, 4, 0)
    for number in range(4):
        counts = np.bincount(folds[number == LABELS], minlength=FOLDS)
        assert counts.max() - counts.min() <= 1
    alone = splits_of("one_vs_rest", classes=("dog",))
    assert as_lists(alone) == as_lists(
        [split for split in splits_of("one_vs_rest") if split.class_name == "dog"]
    )


def test_all_points_of_a_class_s_curve_are_scored_on_the_same_rows():
    for split in splits_of("contamination"):
        first = next(
            one
            for one in splits_of("contamination")
            if one.class_name == split.class_name and one.name[-1] == split.name[-1]
        )
        assert np.array_equal(split.test, first.test)


def test_the_test_partition_s_splits_are_what_they_were():
    own = list(one_vs_rest(LABELS, IS_TRAIN, CLASSES))
    assert as_lists(splits_of("one_vs_rest", partition="test")) == as_lists(own)


def test_too_few_training_images_of_a_class_is_said():
    labels = np.where((LABELS == 3) & IS_TRAIN, 0, LABELS)
    labels[np.flatnonzero(IS_TRAIN)[:3]] = 3
    with pytest.raises(UsageError, match=r"class 'tree' has 3 training images.*--classes.*oracle"):
        splits_of("one_vs_rest", labels=labels)
    assert splits_of("one_vs_rest", labels=labels, classes=("cat", "dog"))


def test_training_images_of_one_class_alone_cannot_validate():
    labels = np.where(IS_TRAIN, 0, LABELS)
    with pytest.raises(UsageError, match=r"all training images are of one class.*oracle"):
        list(validation_splits(one_vs_rest, labels, IS_TRAIN, CLASSES))


def test_the_partition_is_part_of_the_key():
    cell = Experiment("toy", "one_vs_rest", "dn2", "pixels")
    assert cell.key != replace(cell, partition="validation").key
