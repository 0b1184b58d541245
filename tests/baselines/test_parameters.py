"""A bad parameter is refused before any work, and the error says what would be allowed."""

import inspect
import re
from typing import Annotated, get_type_hints

import numpy as np
import pytest

from baselines._parameters import Rule, check_parameters, whole
from baselines.deep_svdd import DeepSVDD
from baselines.geom import GEOM
from baselines.goad import GOAD
from baselines.mhrot import MHRot
from baselines.ocsvm import OCSVM

TRAINED = [DeepSVDD, GEOM, GOAD, MHRot]
BASELINES = [*TRAINED, OCSVM]
NEVER = ("nonsense", -3, True, None, (1, 2), [], float("nan"), float("inf"), np.ones(2))
WHOLE = (*NEVER, 1.5, 2.0)
BAD = {
    "objective": (*NEVER, "two_class"),
    "transformations": (*WHOLE, 36, "72", 72.0),
    "score": (*NEVER, "best"),
    "resolution": (*NEVER, "middle"),
    "epochs": (*WHOLE, 0),
    "pretrain_epochs": WHOLE,
    "drop_epoch": WHOLE,
    "pretrain_drop_epoch": WHOLE,
    "warm_up_epochs": WHOLE,
    "batch_size": (*WHOLE, 0, 1),
    "learning_rate": (*NEVER, 0, 0.0),
    "schedule": (*NEVER, "linear"),
    "weight_decay": NEVER,
    "pretrain_weight_decay": NEVER,
    "margin": NEVER,
    "nu": (*NEVER, 0, 0.0, 3, 1.0001),
    "dropout": (*NEVER, 1, 1.0),
    "depth": (*WHOLE, 4, 11, 12),
    "width": (*WHOLE, 0),
    "max_images": (*WHOLE, -5, 1),
    "seed": (*WHOLE, -1),
    "device": ("tpu", "cuda:one", "", 0, True),
    "precision": ("half", None, 16, True),
}
GOOD = {
    "objective": ("one_class", "soft_boundary"),
    "transformations": (72, "rotation"),
    "score": ("dirichlet", "simple"),
    "resolution": ("low", "high"),
    "epochs": (1, 1000),
    "pretrain_epochs": (0, 1),
    "batch_size": (2,),
    "learning_rate": (1e-30, 1, 1e30),
    "schedule": ("constant", "cosine"),
    "weight_decay": (0, 0.0, 0.1),
    "pretrain_weight_decay": (0, 0.0, 0.1),
    "margin": (0, 0.1, 1),
    "nu": (0.001, 1, 1.0),
    "dropout": (0, 0.0, 0.99),
    "depth": (10, 16, 22),
    "width": (1, 8),
    "max_images": (0, 2, 5000),
    "seed": (0, 7),
    "device": (None, "cpu"),
    "precision": ("auto", "float32", "bfloat16"),
}


def parameters_of(baseline):
    return list(inspect.signature(baseline).parameters)


def annotations_of(baseline):
    """Return the metadata of each parameter's annotation."""
    hints = get_type_hints(baseline.__init__, include_extras=True)
    return {name: hints[name].__metadata__ for name in parameters_of(baseline)}


@pytest.mark.parametrize("baseline", TRAINED)
def test_each_bad_value_of_each_parameter_is_refused_before_any_work(baseline):
    for parameter in parameters_of(baseline):
        for value in BAD[parameter]:
            with pytest.raises(ValueError, match=parameter) as caught:
                baseline(**{parameter: value}).check_rows(100)
            assert repr(value) in str(caught.value)


@pytest.mark.parametrize("baseline", TRAINED)
def test_each_good_value_is_taken(baseline):
    baseline().check_rows(2)
    for parameter in parameters_of(baseline):
        for value in GOOD.get(parameter, (0, 1)):
            baseline(**{parameter: value}).check_rows(2)


@pytest.mark.parametrize("baseline", BASELINES)
def test_every_parameter_has_one_rule_which_allows_its_default(baseline):
    defaults = inspect.signature(baseline).parameters
    for parameter, metadata in annotations_of(baseline).items():
        (rule,) = (entry for entry in metadata if isinstance(entry, Rule))
        assert rule.words
        assert rule.allows(defaults[parameter].default)


def test_the_tables_of_values_name_parameters_that_exist():
    existing = {name for baseline in TRAINED for name in parameters_of(baseline)}
    assert set(BAD) == existing
    assert set(GOOD) < existing


@pytest.mark.parametrize("baseline", BASELINES)
def test_whatever_a_sweep_tries_is_allowed(baseline):
    searched = {}
    for parameter, metadata in annotations_of(baseline).items():
        (rule,) = (entry for entry in metadata if isinstance(entry, Rule))
        for entry in metadata:
            if not isinstance(entry, dict):
                continue
            searched[parameter] = search = entry["search"]
            if isinstance(search, dict):
                assert set(search) == {"low", "high", "log"}
                assert (0 if search["log"] else -np.inf) < search["low"] < search["high"]
                search = (search["low"], search["high"])
            assert all(rule.allows(value) for value in search)
    assert searched


def test_a_parameter_without_a_rule_is_an_error_that_says_what_to_write():
    class Unruled:
        def __init__(self, epochs: Annotated[int, whole(1)] = 3, width: int = 4):
            self.epochs, self.width = epochs, width

    class Bare:
        def __init__(self, epochs=3):
            self.epochs = epochs

    for make, parameter in ((Unruled, "width"), (Bare, "epochs")):
        words = (
            f"{make.__name__}'s parameter {parameter} has no rule: annotate it in the constructor"
        )
        with pytest.raises(TypeError, match=re.escape(words)):
            check_parameters(make(), "one")


@pytest.mark.parametrize(
    ("detector", "words"),
    [
        (GEOM(36), "GEOM's transformations must be 72 or 'rotation', got 36: the default is 72"),
        (
            MHRot("middle"),
            "MHRot's resolution must be 'low' or 'high', got 'middle': the default is 'low'",
        ),
        (
            DeepSVDD(epochs=0),
            "Deep SVDD's epochs must be a whole number of at least 1, got 0: the default is 150",
        ),
        (
            GOAD(max_images=1),
            "GOAD's max_images must be a whole number of at least 2, or 0 for all, got 1:"
            " the default is 0",
        ),
        (GEOM(precision="half"), "unknown precision 'half'; there are auto, float32, bfloat16"),
        (GOAD(device="tpu"), "unknown device 'tpu'; there are cpu, cuda and cuda:<number>"),
    ],
)
def test_fit_refuses_with_the_rule_the_value_and_the_default(detector, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        detector.fit(np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8))
