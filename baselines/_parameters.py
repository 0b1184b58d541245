"""Rules for parameters, and the check of a detector against them.

A constructor annotates each of its parameters with a rule and, where a sweep may tune it, with what
the sweep tries::

    epochs: Annotated[int, whole(1)] = 3
    margin: Annotated[float, AT_LEAST_ZERO, {"search": {"low": 0.03, "high": 3.0, "log": True}}] = 1
    nu: Annotated[float, NU, {"search": (0.1, 0.5, 0.9)}] = 0.1

What follows "search" is either a tuple of values, or a range: its ends ``low`` and ``high``, both
included, and whether its scale is logarithmic.

This file imports no torch, so that OC-SVM starts without it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """Which values a parameter can have.

    Attributes
    ----------
    allows : callable
        Returns whether a value is allowed. It takes objects of any type and never raises.
    words : str
        What is allowed, as it follows "must be" in an error.
    """

    allows: Callable[[Any], bool]
    words: str


def whole(least: int) -> Rule:
    """Make a rule for whole numbers from ``least`` on."""
    return Rule(
        lambda value: type(value) is int and value >= least, f"a whole number of at least {least}"
    )


def number(allows: Callable[[float], bool], words: str) -> Rule:
    """Make a rule for finite numbers that also satisfy ``allows``."""
    return Rule(
        lambda value: type(value) in (int, float) and math.isfinite(value) and allows(value), words
    )


def one_of(*choices: int | str) -> Rule:
    """Make a rule for a choice."""
    return Rule(
        lambda value: type(value) in (int, str) and value in choices,
        " or ".join(map(repr, choices)),
    )


ABOVE_ZERO = number(lambda value: value > 0, "a number above 0")
AT_LEAST_ZERO = number(lambda value: value >= 0, "a number of at least 0")
FRACTION_ABOVE_ZERO = number(lambda value: 0 < value <= 1, "a fraction in (0, 1]")
FRACTION_BELOW_ONE = number(lambda value: 0 <= value < 1, "a fraction in [0, 1)")
BATCH_SIZE = whole(2)  # BatchNorm cannot normalise one vector
DEPTH = Rule(  # of a Wide ResNet: three stages of n blocks with two convolutions each
    lambda value: type(value) is int and value >= 10 and value % 6 == 4, "6 n + 4, as 10, 16 or 22"
)
MAX_IMAGES = Rule(
    lambda value: type(value) is int and (value == 0 or value >= 2),
    "a whole number of at least 2, or 0 for all",
)
ON_THIS_MACHINE = Rule(lambda _value: True, "something that this machine has")
"""For a device or precision. `baselines._preparation.name_arithmetic` checks these, because what is
allowed depends on the machine."""


def check_parameters(detector: object, name: str) -> None:
    """Refuse a detector with a parameter that is out of range, of another type or unknown.

    Parameters
    ----------
    detector : object
        It stores each parameter of its constructor under the parameter's own name.
    name : str
        The detector's name, for the message.

    Raises
    ------
    ValueError
        Naming the parameter, what it can be, what it is, and its default.
    TypeError
        If the constructor annotates a parameter without a rule.
    """
    make = type(detector)
    for parameter, of_signature in inspect.signature(make, eval_str=True).parameters.items():
        metadata = getattr(of_signature.annotation, "__metadata__", ())
        rule = next((entry for entry in metadata if isinstance(entry, Rule)), None)
        if rule is None:
            raise TypeError(
                f"{make.__name__}'s parameter {parameter} has no rule: annotate it in the"
                " constructor, for example with Annotated[int, whole(1)]"
            )
        value = getattr(detector, parameter)
        if not rule.allows(value):
            raise ValueError(
                f"{name}'s {parameter} must be {rule.words}, got {value!r}:"
                f" the default is {of_signature.default!r}"
            )
