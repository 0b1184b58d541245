"""What every table of a report is: experiments side by side, as records, CSV, JSON, text, figure and points for MLflow."""

from __future__ import annotations

import csv
import io
import re
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, TextIO

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from benchmarks.contracts import Cell, Experiment, Interval, Result
from benchmarks.detectors import draws
from benchmarks.figures import Figure

WIDTH = 100
"""So many columns of text every table fits into."""

Lines = list[list[str]]
"""A grid of text: the header, then the rows; an empty row is a rule."""


@dataclass(frozen=True)
class Column:
    """One experiment of a table: its key, and the parameters by which it differs from the others."""

    label: str
    key: str
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Table(ABC):
    """Experiments side by side, one a column."""

    title: str
    settings: str
    columns: tuple[Column, ...]
    notes: tuple[str, ...]

    @abstractmethod
    def records(self) -> list[dict[str, Any]]:
        """Return one flat dict a number, all with the same names; fractions in [0, 1], not rounded."""

    @abstractmethod
    def figure(self) -> Figure:
        """Draw what the table says."""

    @abstractmethod
    def points(self) -> list[tuple[str, float, int]]:
        """Return (metric, value, step) for the summary run in MLflow, if the experiments differ in a number; else nothing."""

    @abstractmethod
    def grids(self) -> list[Lines]:
        """Return the table as text, in one part or several."""

    def to_csv(self) -> str:
        """Write `records` as CSV with a header; None is an empty field."""
        records = self.records()
        text = io.StringIO()
        writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return text.getvalue()

    def to_json(self) -> dict[str, Any]:
        """Return what ``json.dumps`` takes: title, settings, notes and `records`."""
        return {
            "title": self.title,
            "settings": self.settings,
            "notes": list(self.notes),
            "records": self.records(),
        }

    def print(self, file: TextIO | None = None) -> None:
        """Print title, settings, table and notes to a text stream (default: stdout), at least 100 columns wide.

        Bold only on a terminal.
        """
        console = Console(file=file, width=max(Console(file=file).width, WIDTH))
        console.print(Text(self.title, "bold"))
        console.print(Text(self.settings), end="\n\n" if self.settings else "\n")
        for lines in self.grids():
            console.print(_grid(lines))
            console.print()
        for note in self.notes:
            console.print(Text(note))


def percent(fraction: float | None, *, decimals: int = 1, sign: bool = False) -> str:
    """Format a fraction as percent, rounded once, half away from zero; "-" for None."""
    if fraction is None:
        return "-"
    rounded = (100 * Decimal(repr(float(fraction)))).quantize(
        Decimal(10) ** -decimals, ROUND_HALF_UP
    )
    return f"{rounded or abs(rounded):{'+' if sign and rounded else ''}.{decimals}f}"  # zero without a sign


def stacked(label: str) -> str:
    """Break a column's label into lines, no wider than the numbers below it; a long word breaks after its =."""
    wide = len("99.9 [99.9, 99.9]") + 1
    words = [word if len(word) <= wide else word.replace("=", "= ") for word in label.split()]
    return "\n".join(textwrap.wrap(" ".join(words), wide, break_on_hyphens=False)).replace(
        "= ", "="
    )


def _grid(lines: Lines) -> RichTable:
    header, *body = lines
    grid = RichTable(box=box.SIMPLE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for number, name in enumerate(header):
        if number == 0:
            grid.add_column(Text(name), overflow="fold")
        else:
            grid.add_column(Text(name), justify="right", overflow="fold", no_wrap=True)
    for line in body:
        if line:
            grid.add_row(*map(Text, line))
        else:
            grid.add_section()
    return grid


USUAL = {"variant": "none", "preset": "none", "classes": "all", "partition": "test"}
"""Values that need not be said."""


def make_columns(experiments: Sequence[Experiment], said: Collection[str]) -> tuple[Column, ...]:
    """Label each experiment by the parameters in which they differ; by its key too if that does not tell them apart.

    A preset is said in any case.

    Parameters
    ----------
    experiments : sequence of Experiment
    said : collection of str
        Parameters that the title says.
    """
    each = [_params(experiment, said) for experiment in experiments]
    varied = [name for name in _names(each) if len({str(params.get(name)) for params in each}) > 1]
    telling = [name for name in varied if len(_values(name, each)) > 1]
    labels = [
        ", ".join(f"{name}={params[name]}" for name in telling if name in params)
        or experiment.detector
        for params, experiment in zip(each, experiments, strict=True)
    ]
    labels = [
        label
        if experiment.preset == "none" or "preset=" in label
        else f"{label}, preset={experiment.preset}"
        for label, experiment in zip(labels, experiments, strict=True)
    ]
    if len(set(labels)) < len(labels):
        labels = [
            f"{label} {experiment.key[:6]}"
            for label, experiment in zip(labels, experiments, strict=True)
        ]
    return tuple(
        Column(label, experiment.key, {name: params.get(name) for name in varied})
        for label, experiment, params in zip(labels, experiments, each, strict=True)
    )


def settings(experiments: Sequence[Experiment], said: Collection[str]) -> str:
    """Name the parameters that are equal in all experiments that have them, whose they are if not all do, and which differ."""
    each = [_params(experiment, said) for experiment in experiments]
    equal, different = [], []
    for name in sorted(_names(each), key="seed".__eq__):  # the seed last
        value, *more = _values(name, each)
        owners = [
            experiment.detector
            for experiment, params in zip(experiments, each, strict=True)
            if name in params
        ]
        whose = f" ({', '.join(dict.fromkeys(owners))})" if len(owners) < len(experiments) else ""
        if more:
            different.append(name)
        elif USUAL.get(name) != value:
            equal.append(f"{name}={value}{whose}")
    return "; ".join(
        filter(
            None, [", ".join(equal), f"side by side: {', '.join(different)}" if different else ""]
        )
    )


def _names(each: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for params in each for name in params))


def _values(name: str, each: Sequence[Mapping[str, Any]]) -> set[str]:
    return {str(params[name]) for params in each if name in params}


def _params(experiment: Experiment, said: Collection[str]) -> dict[str, Any]:
    """Take the single values (those of a curve are the table's rows), and of encoder and input the one that tells."""
    unsaid = (*said, "encoder" if experiment.params["encoder"] == "none" else "input")
    return {
        name: value
        for name, value in experiment.params.items()
        if name not in unsaid and not isinstance(value, (list, tuple))
    }


def join_seeds(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Group cells that differ in the seed alone, in order of first appearance. Without a draw, seeds are no repetitions."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        seed = 0 if draws(cell.experiment.detector) else cell.experiment.seed
        groups.setdefault(replace(cell.experiment, seed=seed).key, []).append(cell)
    return list(groups.values())


def label_seeds(columns: Sequence[Column], groups: Sequence[Sequence[Cell]]) -> tuple[Column, ...]:
    """Say in a column's heading how many seeds it is the mean of; its key names all of them."""
    return tuple(
        column
        if len(group) == 1
        else replace(
            column,
            label=f"{column.label}, {len(group)} seeds",
            key=",".join(cell.experiment.key for cell in group),
        )
        for column, group in zip(columns, groups, strict=True)
    )


def mean_of_seeds(values: Sequence[float]) -> Interval:
    """Mean over seeds, with the standard error, std(ddof=1) / sqrt(n), to both sides.

    Examples
    --------
    >>> mean_of_seeds([0.8, 0.9, 1.0])
    Interval(value=0.9, low=0.8422649730810374, high=0.9577350269189626)
    """
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5)
    return Interval(mean, mean - error, mean + error)


def results_of_seeds(group: Sequence[Cell]) -> tuple[Result, ...]:
    """The results of all seeds, each seed's draws counted on from the last one's."""
    results: list[Result] = []
    for cell in group:
        first = 1 + max((result.draw for result in results), default=-1)
        results += [replace(result, draw=first + result.draw) for result in cell.results]
    return tuple(results)


FEWEST_VALUES = 3
"""Two are compared, more are a curve."""

AXES = {
    "k": "neighbours k",
    "centres": "cluster centres",
    "clean": "share of the training images dropped",
}
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
        return {
            place: f"{value:,}" if isinstance(value, int) else str(value)
            for value, place in self.places.items()
        }

    def line(self, params: Mapping[str, Any]) -> str:
        """Label a line by the parameters that stay, and by the family of names if there are several; empty if nothing does."""
        families = {_family(value) for value in self.places}
        family = [f"{_family(params[self.name])}*"] if len(families) > 1 else []
        return ", ".join(
            [*family, *(f"{name}={value}" for name, value in params.items() if name != self.name)]
        )


def find_sweep(columns: Sequence[Column]) -> Sweep | None:
    """Return the parameter with the most values, three at least, of those that are numbers, and of the encoder; or None.

    Seeds do not count: they are repetitions.
    """
    values = {
        name: {column.params[name] for column in columns}
        for name in columns[0].params
        if name != "seed"
    }
    axes = {
        name: found
        for name, found in values.items()
        if name == "encoder" or all(map(_is_number, found))
    }
    name = max(axes, key=lambda name: len(axes[name]), default="")
    if len(axes.get(name, ())) < FEWEST_VALUES:
        return None
    if name == "encoder":
        return Sweep(
            name,
            {value: float(place) for place, value in enumerate(sorted(axes[name], key=_by_number))},
        )
    return Sweep(name, {value: float(value) for value in axes[name]})


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _family(value: Any) -> str:
    """Return a name without the number it ends in: resnet18 is of the family resnet; numbers have none."""
    return re.sub(r"\d+$", "", value) if isinstance(value, str) else ""


def _by_number(name: str) -> tuple[str, int]:
    return _family(name), int(name[len(_family(name)) :] or 0)
