"""Experiments that differ in one number, or in the encoder: which parameter that is, and where each value stands on its axis."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.report.table import Column

FEWEST_VALUES = 3
"""Two are compared, more are a curve."""

AXES = {"k": "neighbours k", "centres": "cluster centres", "clean": "share of the training images dropped"}
"""Parameters whose names do not say enough."""


@dataclass(frozen=True)
class Sweep:
    """A parameter to draw against, and where its values stand: numbers at themselves, names in order, side by side."""

    name: str
    places: Mapping[Any, float]

    @property
    def is_names(self) -> bool:
        """Whether the values are names, families in alphabetical order, each by the number its members end in."""
        return any(isinstance(value, str) for value in self.places)

    @property
    def label(self) -> str:
        """What the axis is called."""
        return AXES.get(self.name, self.name)

    @property
    def ticks(self) -> dict[float, str]:
        """Place -> how the value is written."""
        return {place: f"{value:,}" if isinstance(value, int) else str(value) for value, place in self.places.items()}

    def line(self, params: Mapping[str, Any]) -> str:
        """Label a line by the parameters that stay, and by the family of names if there are several; empty if nothing does."""
        families = {_family(value) for value in self.places}
        family = [f"{_family(params[self.name])}*"] if len(families) > 1 else []
        return ", ".join([*family, *(f"{name}={value}" for name, value in params.items() if name != self.name)])


def find_sweep(columns: Sequence[Column]) -> Sweep | None:
    """Return the parameter with the most values, three at least, of those that are numbers, and of the encoder; or None.

    Seeds do not count: they are repetitions.
    """
    values = {name: {column.params[name] for column in columns} for name in columns[0].params if name != "seed"}
    axes = {name: found for name, found in values.items() if name == "encoder" or all(map(_is_number, found))}
    name = max(axes, key=lambda name: len(axes[name]), default="")
    if len(axes.get(name, ())) < FEWEST_VALUES:
        return None
    if name == "encoder":
        return Sweep(name, {value: float(place) for place, value in enumerate(sorted(axes[name], key=_by_number))})
    return Sweep(name, {value: float(value) for value in axes[name]})


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _family(value: Any) -> str:
    """Return a name without the number it ends in: resnet18 is of the family resnet; numbers have none."""
    return re.sub(r"\d+$", "", value) if isinstance(value, str) else ""


def _by_number(name: str) -> tuple[str, int]:
    return _family(name), int(name[len(_family(name)) :] or 0)
