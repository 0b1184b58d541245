"""What all tables of a report have in common.

In this order: the table itself with its outputs (records, CSV, JSON, text, a figure, points for
MLflow); text; labels of columns; runs that differ only in the seed; a parameter that varies from
column to column.
"""

from __future__ import annotations

import csv
import io
import re
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
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
"""Every table fits into this many columns of text."""

Lines = list[list[str]]
"""A grid of text: the header, then the rows; an empty row is a rule."""


@dataclass(frozen=True)
class Column:
    """One experiment of a table.

    ``params`` are the parameters that tell it from the other columns.
    """

    label: str
    key: str
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Table(ABC):
    """Experiments side by side, one per column."""

    title: str
    settings: str
    columns: tuple[Column, ...]
    notes: tuple[str, ...]

    @abstractmethod
    def records(self) -> list[dict[str, Any]]:
        """Return one flat dict per number, all with the same names.

        Fractions are in [0, 1], not rounded.
        """

    @abstractmethod
    def figure(self) -> Figure:
        """Draw the table."""

    @abstractmethod
    def points(self) -> list[tuple[str, float, int]]:
        """Return (metric, value, step) for the summary run in MLflow.

        Empty unless the experiments differ in a number.
        """

    @abstractmethod
    def grids(self) -> list[Lines]:
        """Return the table as text, in one part or several."""

    def to_csv(self) -> str:
        """Write `records` as CSV with a header; None becomes an empty field."""
        records = self.records()
        text = io.StringIO()
        writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return text.getvalue()

    def to_json(self) -> dict[str, Any]:
        """Return title, settings, notes and `records`, ready for ``json.dumps``."""
        return {
            "title": self.title,
            "settings": self.settings,
            "notes": list(self.notes),
            "records": self.records(),
        }

    def print(self, file: TextIO | None = None) -> None:
        """Print title, settings, table and notes: see `print_page`."""
        print_page(self.title, self.settings, self.grids(), self.notes, file)


# Text


def print_page(
    title: str,
    settings: str,
    grids: Iterable[Lines],
    notes: Iterable[str],
    file: TextIO | None = None,
    *,
    after: bool = False,
) -> None:
    """Print title, settings, tables and notes to a text stream, by default stdout.

    An empty line comes first if the page stands after another.
    The output may use 100 columns, or the terminal's width if that is more. The title is bold on a
    terminal only. No text is taken for markup.
    """
    console = Console(file=file, width=max(Console(file=file).width, WIDTH))
    console.print(Text("\n" * after + title, "bold"))
    console.print(Text(settings), end="\n\n" if settings else "\n")
    for lines in grids:
        console.print(_grid(lines))
        console.print()
    for note in notes:
        console.print(Text(note))


def is_curve(cell: Cell) -> bool:
    """Tell whether a run has several x or several draws.

    A table of one row per class cannot show these.
    """
    return any(result.x is not None or result.draw > 0 for result in cell.results)


def percent(fraction: float | None, *, decimals: int = 1, sign: bool = False) -> str:
    """Format a fraction as a percentage; None becomes "-".

    It is rounded once, half away from zero.
    """
    if fraction is None:
        return "-"
    rounded = (100 * Decimal(repr(float(fraction)))).quantize(
        Decimal(10) ** -decimals, ROUND_HALF_UP
    )
    shown = rounded or abs(rounded)  # zero gets no minus sign
    return f"{shown:{'+' if sign and rounded else ''}.{decimals}f}"


def stacked(label: str) -> str:
    """Break a column's label into lines no wider than the numbers below it.

    A word that is too long breaks after its =.
    """
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


# Labels of columns

USUAL = {"variant": "none", "preset": "none", "classes": "all", "partition": "test"}
"""Values that settings leave out."""


def make_columns(
    experiments: Sequence[Experiment], in_title: Collection[str]
) -> tuple[Column, ...]:
    """Label each experiment by the parameters in which the experiments differ.

    Where that does not tell them apart, the label gets the experiment's key. A preset is always
    named.

    Parameters
    ----------
    experiments : sequence of Experiment
    in_title : collection of str
        Parameters that the title names.
    """
    each = [_params(experiment, in_title) for experiment in experiments]
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


def settings(experiments: Sequence[Experiment], in_title: Collection[str]) -> str:
    """Name the parameters that are equal in all experiments, then those that differ.

    A parameter that only some detectors have is followed by their names.
    """
    each = [_params(experiment, in_title) for experiment in experiments]
    equal, different = [], []
    for name in sorted(_names(each), key="seed".__eq__):  # the seed comes last
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


def _params(experiment: Experiment, in_title: Collection[str]) -> dict[str, Any]:
    """Select an experiment's parameters to show.

    Lists are left out, because a curve's values are the rows of the table. Of encoder and input,
    only the one that carries information is kept.
    """
    hidden = (*in_title, "encoder" if experiment.params["encoder"] == "none" else "input")
    return {
        name: value
        for name, value in experiment.params.items()
        if name not in hidden and not isinstance(value, (list, tuple))
    }


# Runs that differ only in the seed


def join_seeds(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Group runs that differ only in the seed, in order of first appearance.

    Runs of a deterministic detector are not grouped: with another seed, they are not repetitions.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        seed = 0 if draws(cell.experiment.detector) else cell.experiment.seed
        groups.setdefault(replace(cell.experiment, seed=seed).key, []).append(cell)
    return list(groups.values())


def label_seeds(columns: Sequence[Column], groups: Sequence[Sequence[Cell]]) -> tuple[Column, ...]:
    """Add the number of seeds to the label of each column that averages several.

    The key of such a column lists the keys of all its runs.
    """
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
    """Average over seeds; the bounds are one standard error away on both sides.

    The standard error is std(ddof=1) / sqrt(n).

    Examples
    --------
    >>> mean_of_seeds([0.8, 0.9, 1.0])
    Interval(value=0.9, low=0.8422649730810374, high=0.9577350269189626)
    """
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5)
    return Interval(mean, mean - error, mean + error)


def results_of_seeds(group: Sequence[Cell]) -> tuple[Result, ...]:
    """Return the results of all seeds as if they came from one run.

    The draws are numbered consecutively, seed after seed.
    """
    results: list[Result] = []
    for cell in group:
        first = 1 + max((result.draw for result in results), default=-1)
        results += [replace(result, draw=first + result.draw) for result in cell.results]
    return tuple(results)


# A parameter that varies from column to column

FEWEST_VALUES = 3
"""Two values are compared; three or more are drawn as a curve."""

AXIS_LABELS = {
    "k": "neighbours k",
    "centres": "cluster centres",
    "clean": "share of the training images dropped",
}
"""Axis labels for parameters whose names do not say enough."""


@dataclass(frozen=True)
class Sweep:
    """A parameter to draw against, and the place of each value on the axis.

    A number stands at its own value; names are evenly spaced, in order.
    """

    name: str
    places: Mapping[Any, float]

    @property
    def is_names(self) -> bool:
        """Whether the values are names.

        Names are in alphabetical order of their families, then by the number they end in.
        """
        return any(isinstance(value, str) for value in self.places)

    @property
    def label(self) -> str:
        """The label of the axis."""
        return AXIS_LABELS.get(self.name, self.name)

    @property
    def ticks(self) -> dict[float, str]:
        """Place -> how the value is written."""
        return {
            place: f"{value:,}" if isinstance(value, int) else str(value)
            for value, place in self.places.items()
        }

    def line(self, params: Mapping[str, Any]) -> str:
        """Label a line by the other parameters, and by the family if there are several.

        The label is empty if there is nothing to tell apart.
        """
        families = {_family(value) for value in self.places}
        family = [f"{_family(params[self.name])}*"] if len(families) > 1 else []
        return ", ".join(
            [*family, *(f"{name}={value}" for name, value in params.items() if name != self.name)]
        )


def find_sweep(columns: Sequence[Column]) -> Sweep | None:
    """Find the parameter to draw against, or return None.

    It is the one with the most values, and at least three, among the numeric parameters and the
    encoder. Seeds do not count: they are repetitions.
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
    """Return a name without the number it ends in; empty for a number.

    So resnet18 belongs to the family resnet.
    """
    return re.sub(r"\d+$", "", value) if isinstance(value, str) else ""


def _by_number(name: str) -> tuple[str, int]:
    return _family(name), int(name[len(_family(name)) :] or 0)
