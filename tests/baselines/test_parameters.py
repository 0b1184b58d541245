"""A bad parameter of a trained rival is known before any work, and the error says what would be good."""

import inspect
import re

import numpy as np
import pytest

from baselines._preparation import RULES
from baselines.deep_svdd import DeepSVDD
from baselines.geom import GEOM
from baselines.goad import GOAD
from baselines.mhrot import MHRot

RIVALS = [DeepSVDD, GEOM, GOAD, MHRot]
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
    "weight_decay": NEVER,
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
    "weight_decay": (0, 0.0, 0.1),
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


def parameters_of(rival):
    return list(inspect.signature(rival).parameters)


@pytest.mark.parametrize("rival", RIVALS)
def test_each_bad_value_of_each_parameter_is_refused_before_any_work(rival):
    for parameter in parameters_of(rival):
        for value in BAD[parameter]:
            with pytest.raises(ValueError, match=parameter) as caught:
                rival(**{parameter: value}).check_rows(100)
            assert repr(value) in str(caught.value)


@pytest.mark.parametrize("rival", RIVALS)
def test_each_good_value_is_taken(rival):
    rival().check_rows(2)
    for parameter in parameters_of(rival):
        for value in GOOD.get(parameter, (0, 1)):
            rival(**{parameter: value}).check_rows(2)


def test_every_parameter_has_a_rule_and_every_rule_a_parameter():
    assert {name for rival in RIVALS for name in parameters_of(rival)} == set(RULES) | {
        "device",
        "precision",
    }


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
            "GOAD's max_images must be a whole number of at least 2, or 0 for all, got 1: the default is 0",
        ),
        (GEOM(precision="half"), "unknown precision 'half'; there are auto, float32, bfloat16"),
        (GOAD(device="tpu"), "unknown device 'tpu'; there are cpu, cuda and cuda:<number>"),
    ],
)
def test_fit_refuses_with_the_rule_the_value_and_the_default(detector, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        detector.fit(np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8))
