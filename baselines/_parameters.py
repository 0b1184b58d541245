"""Which values the parameters of the trained rivals can have. A name means the same in each of them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from baselines._device import pick_device, pick_precision


class Rule(NamedTuple):
    """Whether a value is allowed, and what is, in words."""

    allows: Callable[[Any], bool]
    words: str


def _whole(least: int) -> Rule:
    return Rule(lambda value: type(value) is int and value >= least, f"a whole number of at least {least}")


def _number(allows: Callable[[float], bool], words: str) -> Rule:
    return Rule(lambda value: type(value) in (int, float) and math.isfinite(value) and allows(value), words)


def _one_of(*choices: Any) -> Rule:
    return Rule(lambda value: type(value) in (int, str) and value in choices, " or ".join(map(repr, choices)))


RULES = {
    "objective": _one_of("one_class", "soft_boundary"),
    "transformations": _one_of(72, "rotation"),
    "score": _one_of("dirichlet", "simple"),
    "resolution": _one_of("low", "high"),
    "epochs": _whole(1),
    "pretrain_epochs": _whole(0),
    "drop_epoch": _whole(0),
    "pretrain_drop_epoch": _whole(0),
    "warm_up_epochs": _whole(0),
    "batch_size": _whole(2),  # BatchNorm cannot normalise one vector
    "learning_rate": _number(lambda value: value > 0, "a number above 0"),
    "weight_decay": _number(lambda value: value >= 0, "a number of at least 0"),
    "margin": _number(lambda value: value >= 0, "a number of at least 0"),
    "nu": _number(lambda value: 0 < value <= 1, "a share in (0, 1]"),
    "dropout": _number(lambda value: 0 <= value < 1, "a share in [0, 1)"),
    "depth": Rule(lambda value: type(value) is int and value >= 10 and value % 6 == 4, "6 n + 4, as 10, 16 or 22"),
    "width": _whole(1),
    "max_images": Rule(
        lambda value: type(value) is int and (value == 0 or value >= 2), "a whole number of at least 2, or 0 for all"
    ),
    "seed": _whole(0),
}


def check_parameters(detector: object, name: str) -> None:
    """Refuse a detector with a parameter that is out of range, of another type or unknown.

    Parameters
    ----------
    detector : object
        A trained rival: each parameter of its constructor is stored under its own name.
    name : str
        For the message.

    Raises
    ------
    ValueError
        Naming the parameter, what it can be, what it is, and its default.
    """
    values = vars(detector)
    for parameter, of_signature in inspect.signature(type(detector)).parameters.items():
        if parameter in ("device", "precision"):  # checked below: what there is depends on the machine
            continue
        value, rule = values[parameter], RULES[parameter]
        if not rule.allows(value):
            raise ValueError(f"{name}'s {parameter} must be {rule.words}, got {value!r}: the default is {of_signature.default!r}")
    pick_precision(values["precision"], pick_device(values["device"]))
