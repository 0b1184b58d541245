"""The laws of every entry of PROTOCOLS, and what each protocol means, counted by hand."""

from dataclasses import replace
from inspect import signature

import numpy as np
import pytest

from benchmarks.contracts import Dataset, Experiment, UsageError
from benchmarks.protocols import PROTOCOLS, classes_left_out, make_splits, protocol_params
from benchmarks.protocols.contamination import contamination
from benchmarks.protocols.groups_of_images import groups
from benchmarks.protocols.one_class import leave_one_class_out, one_vs_rest
from benchmarks.protocols.small_train import small_train

CLASSES = ("cat", "dog", "ship", "tree")
SMALL = {
    "small_train": {"n_train": (2, 5, 1000, "all"), "draws": 3},
    "contamination": {"contamination": (0, 0.05, 0.2), "draws": 3},
    "groups": {"group_sizes": (2, 3, 4), "n_groups": 50, "draws": 2},
}


def labelled(n=160, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 4, n), generator.random(n) < 0.6


LABELS, IS_TRAIN = labelled()


def splits_of(name, seed=0, classes=(), **params):
    function = PROTOCOLS[name].function
    return list(
        function(
            LABELS,
            IS_TRAIN,
            CLASSES,
            classes=classes,
            seed=seed,
            **{**SMALL.get(name, {}), **params},
        )
    )


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
        for s in sorted(splits, key=lambda split: split.name)
    ]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_laws(name):
    splits = splits_of(name)
    assert splits
    assert len({split.name for split in splits}) == len(splits)
    for split in splits:
        assert not np.intersect1d(split.train, split.test).size
        assert IS_TRAIN[split.train].all()
        assert not IS_TRAIN[split.test].any()
        assert split.train.dtype == split.test.dtype == np.int64
        assert split.is_anomaly.dtype == bool
        assert split.is_anomaly.shape == split.test.shape[:1]
        assert 0 < split.is_anomaly.sum() < len(split.is_anomaly)
        assert split.name.replace("-", "").replace("_", "").replace(".", "").isalnum()
        assert (split.train.ndim == split.test.ndim == 2) == PROTOCOLS[name].groups
        if PROTOCOLS[name].groups:
            assert all(
                len(set(row)) == split.x
                for row in np.concatenate([split.train, split.test]).tolist()
            )
        else:
            assert (np.diff(split.train) > 0).all()
            np.testing.assert_array_equal(split.test, np.flatnonzero(~IS_TRAIN))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_seed_determines_the_draw_and_global_state_is_untouched(name):
    before = np.random.get_state()[1].copy()
    assert as_lists(splits_of(name, 3)) == as_lists(splits_of(name, 3))
    assert (as_lists(splits_of(name, 3)) != as_lists(splits_of(name, 4))) == (name in SMALL)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_no_draw_depends_on_the_order_or_number_of_classes_asked_for(name):
    everything = splits_of(name, group_sizes=(2,)) if name == "groups" else splits_of(name)
    assert as_lists(splits_of(name, classes=tuple(reversed(CLASSES)))) == as_lists(splits_of(name))
    asked = ("dog", "cat", "dog")
    two = (
        splits_of(name, classes=asked, group_sizes=(2,))
        if name == "groups"
        else splits_of(name, classes=asked)
    )
    assert as_lists(two) == as_lists(
        [split for split in everything if split.class_name in (*asked, "all")]
    )


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_parameter_has_a_default_and_definitions_fit_a_line(name):
    entry = PROTOCOLS[name]
    own = {**dict.fromkeys(("classes", "seed")), **entry.defaults}
    after_three = list(signature(entry.function).parameters)[3:]
    assert list(own) == after_three
    assert "\n" not in entry.definition


def test_one_vs_rest_by_hand():
    labels = np.array([0, 1, 0, 1, 2, 0, 1])
    is_train = np.array([1, 1, 1, 0, 0, 0, 0], dtype=bool)
    cat, dog = one_vs_rest(labels, is_train, CLASSES, classes=("cat", "dog"))
    assert cat.train.tolist() == [0, 2]
    assert cat.test.tolist() == [3, 4, 5, 6]
    assert cat.is_anomaly.tolist() == [True, True, False, True]
    assert dog.train.tolist() == [1]
    assert dog.is_anomaly.tolist() == [False, True, True, False]
    assert (cat.name, cat.class_name, cat.x, cat.draw) == ("cat", "cat", None, 0)


def test_leave_one_class_out_by_hand():
    labels = np.array([0, 1, 0, 1, 2, 0, 1])
    is_train = np.array([1, 1, 1, 0, 0, 0, 0], dtype=bool)
    (dog,) = leave_one_class_out(labels, is_train, CLASSES, classes=("dog",))
    assert dog.train.tolist() == [0, 2]
    assert dog.test.tolist() == [3, 4, 5, 6]
    assert dog.is_anomaly.tolist() == [True, False, False, True]
    assert (dog.name, dog.class_name, dog.x, dog.draw) == ("dog", "dog", None, 0)


def test_small_train_counts_and_nests():
    of_cat = np.flatnonzero((LABELS == 0) & IS_TRAIN)
    splits = {split.name: split for split in splits_of("small_train", classes=("cat",))}
    draws = {
        "cat-n2-draw0",
        "cat-n2-draw1",
        "cat-n2-draw2",
        "cat-n5-draw0",
        "cat-n5-draw1",
        "cat-n5-draw2",
    }
    assert splits.keys() == {*draws, f"cat-n{len(of_cat)}-draw0"}  # with "all", 1000 is left out
    for split in splits.values():
        assert len(split.train) == split.x
        assert set(split.train) <= set(of_cat)
        np.testing.assert_array_equal(split.is_anomaly, LABELS[split.test] != 0)
    assert all(
        set(splits[f"cat-n2-draw{d}"].train) < set(splits[f"cat-n5-draw{d}"].train)
        for d in range(3)
    )
    assert len({tuple(splits[f"cat-n5-draw{d}"].train) for d in range(3)}) == 3


def test_classes_of_one_size_are_drawn_apart():
    labels, is_train = np.repeat(np.arange(4), 30), np.tile(np.arange(30) < 25, 4)
    few = small_train(labels, is_train, CLASSES, n_train=(5,), draws=1)
    assert len({tuple(split.train % 30) for split in few}) == 4
    spoilt = list(contamination(labels, is_train, CLASSES, contamination=(0.2,), draws=1))
    others = [
        np.setdiff1d(np.flatnonzero(is_train), np.flatnonzero(labels == number))
        for number in range(4)
    ]
    assert (
        len(
            {
                tuple(np.flatnonzero(np.isin(rows, split.train)))
                for rows, split in zip(others, spoilt, strict=True)
            }
        )
        == 4
    )


def test_as_many_images_as_there_are_and_all_of_them_are_one_split():
    there = int(((LABELS == 0) & IS_TRAIN).sum())
    assert [
        split.name for split in splits_of("small_train", classes=("cat",), n_train=(there, "all"))
    ] == [f"cat-n{there}-draw0"]


def test_contamination_counts_and_nests():
    normal = np.flatnonzero((LABELS == 1) & IS_TRAIN)
    splits = {
        split.name: split
        for split in splits_of("contamination", classes=("dog",), contamination=(0, 0.05, 0.2))
    }
    others = {f"dog-c{fraction}-draw{d}" for fraction in (0.05, 0.2) for d in range(3)}
    assert splits.keys() == {"dog-c0.0-draw0", *others}
    for split in splits.values():
        added = np.setdiff1d(split.train, normal)
        assert set(normal) <= set(split.train)
        assert len(added) == round(split.x / (1 - split.x) * len(normal))
        assert (LABELS[added] != 1).all()
        np.testing.assert_array_equal(split.is_anomaly, LABELS[split.test] != 1)
    assert all(
        set(splits[f"dog-c0.05-draw{d}"].train) < set(splits[f"dog-c0.2-draw{d}"].train)
        for d in range(3)
    )
    assert len({tuple(splits[f"dog-c0.2-draw{d}"].train) for d in range(3)}) == 3


def test_contamination_of_five_thousand_images_as_in_cifar():
    labels, is_train = np.repeat(np.arange(4), 5001), np.tile(np.arange(5001) < 5000, 4)
    sizes = {
        s.x: len(s.train) - 5000
        for s in contamination(labels, is_train, CLASSES, classes=("cat",), draws=1)
    }
    assert sizes == {0: 0, 0.01: 51, 0.02: 102, 0.05: 263, 0.1: 556, 0.2: 1250}


def test_groups_by_their_definition():
    for split in splits_of("groups"):
        size = int(split.x)
        assert (split.class_name, split.name) == ("all", f"m{size}-draw{split.draw}")
        assert split.train.shape == (50, size)
        assert split.test.shape == (100, size)
        normal = np.concatenate([split.train, split.test[~split.is_anomaly]])
        assert (np.sort(LABELS[normal], axis=1) == np.arange(size)).all()
        kinds = [sorted(set(row)) for row in LABELS[split.test[split.is_anomaly]].tolist()]
        assert all(max(kind) < size and len(kind) < size for kind in kinds)
        assert len({tuple(row) for row in LABELS[normal].tolist()}) > 1  # shuffled
    first, second = (
        next(s for s in splits_of("groups") if s.name == f"m3-draw{draw}") for draw in (0, 1)
    )
    assert first.train.tolist() != second.train.tolist()


def test_anomalous_groups_are_uniform_over_the_choices_left():
    labels, is_train = np.array([0, 1, 0, 0, 1, 1]), np.array([1, 1, 0, 0, 0, 0], dtype=bool)
    (split,) = groups(labels, is_train, CLASSES[:2], group_sizes=(2,), n_groups=2000)
    pairs, counts = np.unique(
        np.sort(split.test[split.is_anomaly], axis=1), axis=0, return_counts=True
    )
    assert pairs.tolist() == [[2, 3], [4, 5]]
    assert counts.min() > 900


def test_groups_take_the_first_classes_of_those_asked_for():
    (split,) = splits_of("groups", classes=("tree", "dog"), group_sizes=(2,), draws=1)
    assert set(LABELS[split.train].ravel()) == {1, 3}


def test_all_of_many_classes_take_turns():
    names = [f"c{number:02d}" for number in reversed(range(25))]
    labels, is_train = np.tile(np.arange(25), 2), np.repeat([True, False], 25)
    splits = list(one_vs_rest(labels, is_train, names))
    assert sorted(split.name for split in splits) == [f"c{number:02d}" for number in range(25)]
    assert all(len(split.test) == 25 for split in splits)
    without = is_train & (labels == 24 - 3)  # c03 is an anomaly only
    splits = list(one_vs_rest(labels[~without], is_train[~without], names))
    assert sorted(split.name for split in splits) == [
        f"c{number:02d}" for number in range(25) if number != 3
    ]


def test_of_the_papers_data_sets_the_first_twenty_classes_take_turns_and_that_is_said():
    names = tuple(f"c{number:02d}" for number in reversed(range(25)))
    labels, is_train = np.tile(np.arange(25), 2), np.repeat([True, False], 25)
    own = Dataset("d", np.zeros((50, 2, 2), np.uint8), labels, is_train, names, "f")
    of_paper = replace(own, default_classes=20)
    cell = Experiment("d", "one_vs_rest", "dn2", "pixels")
    assert len(make_splits(cell, own)) == 25
    assert not classes_left_out([cell], {"d": own})
    splits = make_splits(cell, of_paper)
    assert sorted(split.name for split in splits) == [f"c{number:02d}" for number in range(20)]
    assert all(len(split.test) == 25 for split in splits)
    (line,) = classes_left_out([cell], {"d": of_paper})
    assert "the first 20 of its 25 classes" in line
    asked = replace(cell, classes=("c24",))
    assert [split.name for split in make_splits(asked, of_paper)] == ["c24"]
    assert not classes_left_out([asked], {"d": of_paper})


BAD = {
    "small_train": [
        (
            {"n_train": (0,)},
            "n_train, unless it is 'all', must be a whole number of at least 1, got 0",
        ),
        ({"n_train": (2.5,)}, r"got 2\.5"),
        ({"n_train": ("some",)}, "got 'some'"),
        ({"n_train": ()}, "at least one number"),
        (
            {"n_train": (5, 1000)},
            "has [0-9]+ training images, n_train=1000 needs more: lower it",
        ),
        ({"draws": 0}, "draws must be a whole number of at least 1, got 0"),
    ],
    "contamination": [
        ({"contamination": (0.1, 1.0)}, r"in \[0, 1\), got 1\.0"),
        ({"contamination": (-0.1,)}, r"in \[0, 1\), got -0\.1"),
        ({"contamination": (float("nan"),)}, "got nan"),
        ({"contamination": ()}, "at least one fraction"),
        (
            {"contamination": (0.99,)},
            "needs [0-9]+ anomalies, but the other classes have only [0-9]+ training images: "
            "lower it",
        ),
        ({"draws": 0}, "draws"),
    ],
    "groups": [
        ({"group_sizes": (5,)}, "one of each of 5 classes, but there are 4: lower group_sizes"),
        ({"group_sizes": (3,), "classes": ("cat", "dog")}, "there are 2"),
        ({"group_sizes": (1,)}, "at least 2, got 1"),
        ({"group_sizes": ()}, "at least one size"),
        ({"n_groups": 0}, "n_groups"),
        ({"draws": 0}, "draws"),
        ({"classes": ("cta",)}, "Did you mean cat"),
    ],
}


@pytest.mark.parametrize(
    ("name", "params", "complaint"),
    [(name, *case) for name, cases in BAD.items() for case in cases],
)
def test_bad_parameters(name, params, complaint):
    with pytest.raises(UsageError, match=complaint) as error:
        splits_of(name, **params)
    assert "\n" not in str(error.value)


FEW = np.array([0, 1, 0, 1, 2, 2, 0]), np.array([1, 1, 0, 0, 0, 0, 0], dtype=bool)  # no ship trains
ONE_TEST_CLASS = np.array([0, 1, 0]), np.array([1, 1, 0], dtype=bool)
SINGLE = np.array([0, 1, 0, 1]), np.array([1, 1, 0, 0], dtype=bool)


@pytest.mark.parametrize(
    ("function", "rows", "classes", "complaint"),
    [
        (one_vs_rest, FEW, ("cta",), "Did you mean cat"),
        (one_vs_rest, FEW, ("ship",), "class 'ship' has no training image"),
        (one_vs_rest, FEW, ("tree",), "class 'tree' has no test image"),
        (one_vs_rest, ONE_TEST_CLASS, ("dog",), "class 'dog' has no test image"),
        (one_vs_rest, ONE_TEST_CLASS, ("cat",), "all test images are of class 'cat'"),
        (
            leave_one_class_out,
            (np.array([0, 0, 1]), np.array([1, 0, 0], dtype=bool)),
            ("cat",),
            "no class other than 'cat' has a training image",
        ),
        (leave_one_class_out, FEW, ("tree",), "class 'tree' has no test image"),
        (small_train, FEW, ("ship",), "no training image"),
        (small_train, FEW, ("tree",), "no test image"),
        (contamination, FEW, ("ship",), "no training image"),
        (contamination, FEW, ("tree",), "no test image"),
        (groups, FEW, ("cat", "ship"), "class 'ship' has no training image"),
        (groups, ONE_TEST_CLASS, ("cat", "dog"), "class 'dog' has no test image"),
        (groups, SINGLE, ("cat", "dog"), "two test images of one class"),
    ],
)
def test_classes_without_images(function, rows, classes, complaint):
    params = {"group_sizes": (2,)} if function is groups else {}
    with pytest.raises(UsageError, match=complaint):
        list(function(*rows, CLASSES, classes=classes, **params))


def test_parameters_of_a_protocol():
    assert protocol_params("small_train", {"draws": 1}) == {
        "n_train": (10, 25, 50, 100, 250, 500, 1000, 2500, "all"),
        "draws": 1,
    }
    with pytest.raises(
        UsageError, match="protocol 'one_vs_rest' has no parameter 'draws': take --protocol small_"
    ):
        protocol_params("one_vs_rest", {"draws": 1})
    with pytest.raises(UsageError, match="Did you mean groups"):
        protocol_params("group", {})


def test_an_experiment_s_splits_follow_its_seed_classes_and_parameters():
    dataset = Dataset("toy", [], LABELS, IS_TRAIN, CLASSES, "")
    params = protocol_params("small_train", {"n_train": (3,), "draws": 1})
    cell = Experiment(
        "toy", "small_train", "dn2", "features:x", protocol_params=params, classes=("dog",), seed=5
    )
    assert as_lists(make_splits(cell, dataset)) == as_lists(
        splits_of("small_train", 5, ("dog",), n_train=(3,), draws=1)
    )


def test_a_class_without_training_images_is_an_anomaly_only():
    """Cover the usual layout of a user's own data: train/good, test/good, test/scratch."""
    labels, is_train = np.array([0, 0, 0, 1]), np.array([1, 1, 0, 0], dtype=bool)
    (split,) = PROTOCOLS["one_vs_rest"].function(labels, is_train, ("good", "scratch"))
    assert split.class_name == "good"
    assert split.is_anomaly.tolist() == [False, True]
    with pytest.raises(UsageError, match="no training image"):
        list(
            PROTOCOLS["one_vs_rest"].function(
                labels, is_train, ("good", "scratch"), classes=("scratch",)
            )
        )
