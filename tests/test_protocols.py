"""The protocol laws: what holds for every entry of PROTOCOLS; and what one_vs_rest means, by hand."""

import numpy as np
import pytest

from benchmarks.contracts import UsageError
from benchmarks.protocols import PROTOCOLS, one_vs_rest

CLASSES = ("cat", "dog", "ship")


def labelled(n=90, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 3, n), generator.random(n) < 0.6


def splits_of(name, seed=0, classes=()):
    labels, is_train = labelled()
    function = PROTOCOLS[name].function
    return list(function(labels, is_train, CLASSES, classes=classes, seed=seed, **PROTOCOLS[name].defaults))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_laws(name):
    _, is_train = labelled()
    splits = splits_of(name)
    assert splits
    assert len({split.name for split in splits}) == len(splits)
    for split in splits:
        assert not np.intersect1d(split.train, split.test).size
        assert is_train[split.train].all()
        assert not is_train[split.test].any()
        assert len(np.unique(split.test)) == len(split.test)
        assert split.is_anomaly.dtype == bool
        assert split.is_anomaly.shape == split.test.shape[:1]
        assert 0 < split.is_anomaly.sum() < len(split.is_anomaly)
        assert split.name.replace("-", "").replace("_", "").replace(".", "").isalnum()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_seed_determines_the_draw_and_global_state_is_untouched(name):
    before = np.random.get_state()[1].copy()
    for first, second in zip(splits_of(name, 3), splits_of(name, 3), strict=True):
        np.testing.assert_array_equal(first.train, second.train)
        np.testing.assert_array_equal(first.test, second.test)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


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


def test_of_many_classes_the_first_twenty_in_alphabetical_order():
    names = [f"c{number:02d}" for number in reversed(range(25))]
    labels, is_train = np.tile(np.arange(25), 2), np.repeat([True, False], 25)
    splits = list(one_vs_rest(labels, is_train, names))
    assert sorted(split.name for split in splits) == [f"c{number:02d}" for number in range(20)]
    assert all(len(split.test) == 25 for split in splits)


@pytest.mark.parametrize(("classes", "complaint"), [(("cta",), "Did you mean cat"), (("ship",), "no training image")])
def test_bad_classes(classes, complaint):
    labels = np.array([0, 1, 0, 1, 2])
    with pytest.raises(UsageError, match=complaint):
        list(one_vs_rest(labels, np.array([1, 1, 0, 0, 0], dtype=bool), CLASSES, classes=classes))


def test_a_class_without_test_images_is_refused():
    with pytest.raises(UsageError, match="no test image"):
        list(one_vs_rest(np.array([0, 1, 0]), np.array([1, 1, 0], dtype=bool), CLASSES, classes=("dog",)))
