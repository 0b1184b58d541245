"""Experiments that differ in one number: which number that is, and where each experiment stands on its axis."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report.table import Column

FEWEST_VALUES = 3
"""Two are compared, more are a curve."""

AXES = {"k": "neighbours k", "centres": "cluster centres", "clean": "share of the training images dropped"}
"""Parameters whose names do not say enough."""


def swept(columns: Sequence[Column]) -> str | None:
    """Return the parameter to draw against: the one with the most values, three at least, all on one axis; or None.

    Numbers are on one axis, and so are names that differ in the number at their end, as resnet18, resnet34 and resnet50.
    Seeds are not: they are repetitions.
    """
    values = {name: {column.params[name] for column in columns} for name in columns[0].params if name != "seed"}
    kinds = {name: {_kind(value) for value in found} for name, found in values.items()}
    counts = {name: len(values[name]) for name, found in kinds.items() if len(found) == 1 and None not in found}
    most = max(counts, key=lambda name: counts[name], default="")
    return most if counts.get(most, 0) >= FEWEST_VALUES else None


def place(value: Any) -> float:
    """Return where a value stands: a number at itself, a name at the number it ends in."""
    return float(re.findall(r"\d+$", value)[0]) if isinstance(value, str) else value


def others(params: Mapping[str, Any], name: str) -> str:
    """Label a line of the sweep by the parameters that stay; empty if there are none."""
    return ", ".join(f"{other}={value}" for other, value in params.items() if other != name)


def _kind(value: Any) -> str | None:
    """Return what values on one axis have in common; None if the value has no place on any."""
    if isinstance(value, str):
        found = re.fullmatch(r"(.*?)\d+", value)
        return found[1] if found else None
    return "a number" if isinstance(value, (int, float)) and not isinstance(value, bool) else None
