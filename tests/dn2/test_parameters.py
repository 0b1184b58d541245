"""A parameter is described once, in the constructor: its rule is the one that `fit` holds."""

import doctest
from typing import Annotated, get_type_hints

import numpy as np
import pytest
from sklearn.base import clone

from dn2 import parameters
from dn2.detector import DN2, DN2Plus
from dn2.groups import GroupDN2
from dn2.kmeans import KMeansDN2
from dn2.parameters import Parameters, Rule, one_of, whole

DETECTORS = [DN2, DN2Plus, GroupDN2, KMeansDN2]

BAD = {
    "k": [0, -1, 2.0, True, np.bool_(True), "2", None],
    "index": ["flatt", "", None, ["exact"]],
    "clean": [-0.1, 1, 1.5, float("nan"), "0.1", True, None],
    "pool": ["avg", None],
    "centres": [0, 2.5, True],
    "seed": [-1, 0.5],
    "false_alarms": [-0.1, 1, float("nan"), "auto", True, None],
}
GOOD = {
    "k": [1, np.int64(2)],
    "index": ["exact", "pq"],
    "clean": [0, 0.5, np.float32(0.1)],
    "pool": ["mean", "max"],
    "centres": [1, np.int32(7)],
    "seed": [0, 5],
    "false_alarms": [0, 0.01, np.float32(0.5)],
}


def metadata(kind):
    hints = get_type_hints(kind.__init__, include_extras=True)
    return {
        name: hints[name].__metadata__
        for name in parameters._names(kind)
        if hasattr(hints[name], "__metadata__")
    }


def rule_of(kind, name):
    return next(part for part in metadata(kind)[name] if isinstance(part, Rule))


def search(kind):
    return {
        name: part["search"]
        for name, parts in metadata(kind).items()
        for part in parts
        if isinstance(part, dict) and "search" in part
    }


@pytest.mark.parametrize("kind", DETECTORS)
def test_every_parameter_has_a_rule_that_its_default_and_searched_values_keep(kind):
    assert set(metadata(kind)) == set(kind().get_params())
    for name, value in kind().get_params().items():
        assert rule_of(kind, name).allows(value)
        assert all(rule_of(kind, name).allows(tried) for tried in search(kind).get(name, ()))


@pytest.mark.parametrize("kind", DETECTORS)
def test_fit_holds_each_rule_and_says_its_words(kind):
    for name in kind().get_params():
        rule = rule_of(kind, name)
        for value in GOOD[name]:
            assert rule.allows(value)
            kind(**{name: value}).check_rows(10**6)
        for value in BAD[name]:
            assert not rule.allows(value)
            with pytest.raises(ValueError, match=f"^{name} ") as error:
                kind(**{name: value}).check_rows(10**6)
            assert repr(value) in str(error.value)
            assert "\n" not in str(error.value)


def test_what_a_sweep_tries():
    ks = (1, 2, 3, 5, 10, 20, 50)
    assert search(DN2) == search(DN2Plus) == {"k": ks, "clean": (0.0,)}
    assert search(GroupDN2) == {"k": ks}
    assert search(KMeansDN2) == {"k": (1, 2, 3), "centres": (1, 3, 5, 10, 30, 100)}


@pytest.mark.parametrize("kind", DETECTORS)
def test_a_detector_can_be_copied_changed_and_printed(kind):
    made = kind(k=3)
    assert clone(made).get_params() == made.get_params()
    assert clone(made) is not made
    assert eval(repr(made), {kind.__name__: kind}).get_params() == made.get_params()
    assert made.set_params(k=4) is made
    assert made.k == 4
    with pytest.raises(ValueError, match=f"{kind.__name__} has no parameter 'kk': there are k, "):
        made.set_params(k=5, kk=1)
    assert made.k == 4


def test_repr():
    assert repr(DN2()) == "DN2(k=2, index='exact', clean=0.0, false_alarms=0.05)"
    assert repr(KMeansDN2(centres=3)) == "KMeansDN2(k=2, centres=3, seed=0, false_alarms=0.05)"


def test_a_subclass_has_its_own_rules_and_plain_parameters_have_none():
    class Mine(Parameters):
        def __init__(self, a: Annotated[int, whole(2)] = 2, b: str = "x") -> None:
            self.a, self.b = a, b

    class Yours(Mine):
        def __init__(self, b: Annotated[str, one_of(("x", "yes"))] = "x") -> None:
            super().__init__(b=b)

    # of a class in a function: names in its annotations are looked up in the module alone
    assert list(parameters._rules(Mine)) == ["a"]
    assert Yours("yes").check_params() is None
    with pytest.raises(ValueError, match="b 'yess' is unknown: did you mean 'yes'"):
        Yours("yess").check_params()
    with pytest.raises(ValueError, match="a must be an integer of at least 2, got 1"):
        Mine(1).check_params()


def test_examples_in_the_docstrings():
    assert doctest.testmod(parameters) == (0, 1)
