"""A parameter's type, rule and values to try, said once: in the annotation of its constructor.

    def __init__(self, k: Annotated[int, whole(1), {"search": (1, 2, 5)}] = 2) -> None:
        self.k = k

`Parameters` reads the annotations to check values, and gives a class the interface by which
scikit-learn copies, changes and prints its estimators.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any, Self, get_type_hints

import numpy as np


@dataclass(frozen=True)
class Rule:
    """What the values of a parameter must be.

    Attributes
    ----------
    words : str
        The rule as a message says it: "an integer of at least 1".
    allows : callable
        ``allows(value)`` is true if the value keeps the rule. It takes any object.
    """

    words: str
    allows: Callable[[Any], bool]

    def check(self, name: str, value: object) -> None:
        """Raise ValueError unless the value keeps the rule; ``name`` is the parameter's."""
        if not self.allows(value):
            raise ValueError(f"{name} must be {self.words}, got {value!r}")


@dataclass(frozen=True)
class Choice(Rule):
    """A rule that lists the allowed values, all of them text."""

    options: tuple[str, ...]

    def check(self, name: str, value: object) -> None:
        """Raise ValueError unless the value is one of the options; name a similar one."""
        if not self.allows(value):
            near = get_close_matches(str(value), self.options, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(
                f"{name} {value!r} is unknown: {hint}there are {', '.join(self.options)}"
            )


def whole(least: int) -> Rule:
    """Make the rule of an integer of at least ``least``; NumPy's integers will do, bool not.

    Examples
    --------
    >>> whole(1).allows(np.int64(3)), whole(1).allows(True), whole(1).allows(0)
    (True, False, False)
    """
    return Rule(
        f"an integer of at least {least}",
        lambda value: (
            isinstance(value, int | np.integer)
            and not isinstance(value, bool)
            and int(value) >= least
        ),
    )


def one_of(options: Iterable[str]) -> Choice:
    """Make the rule of one text among several."""
    options = tuple(options)
    return Choice(
        f"one of {', '.join(options)}",
        lambda value: isinstance(value, str) and value in options,
        options,
    )


class Parameters:
    """A class whose constructor stores each argument under its own name, and does nothing else."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002 - nothing is nested
        """Return the parameters by name, in the constructor's order; ``deep`` changes nothing."""
        return {name: getattr(self, name) for name in _names(type(self))}

    def set_params(self, **params: Any) -> Self:
        """Change parameters; what was learned stays until the next ``fit``.

        Raises
        ------
        ValueError
            If there is no parameter of a name: the message lists those there are.
        """
        names = _names(type(self))
        for name in params:
            if name not in names:
                raise ValueError(
                    f"{type(self).__name__} has no parameter {name!r}: there are {', '.join(names)}"
                )
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def check_params(self) -> None:
        """Raise ValueError if a parameter breaks the rule in its annotation."""
        for name, rule in _rules(type(self)).items():  # type: ignore[arg-type]  # mypy: not hashable
            rule.check(name, getattr(self, name))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"{type(self).__name__}({shown})"


def _names(kind: type) -> tuple[str, ...]:
    """List the parameters of a class's constructor."""
    return tuple(inspect.signature(kind).parameters)


@cache
def _rules(kind: type) -> dict[str, Rule]:
    """Find the rule of each parameter whose annotation has one."""
    hints = get_type_hints(kind.__init__, include_extras=True)  # type: ignore[misc]
    return {
        name: part
        for name, hint in hints.items()
        for part in getattr(hint, "__metadata__", ())
        if isinstance(part, Rule)
    }
