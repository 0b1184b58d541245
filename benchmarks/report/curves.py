"""The table of a curve: one row per value of x, one column per experiment.

Each number is a mean over classes and draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from benchmarks import figures
from benchmarks.contracts import Cell, Result
from benchmarks.report import notes
from benchmarks.report.published import PAPER
from benchmarks.report.tables import (
    Lines,
    Table,
    join_seeds,
    label_seeds,
    make_columns,
    percent,
    results_of_seeds,
    settings,
    stacked,
)
from benchmarks.tracking import split_records

COLUMNS_THAT_FIT = 4
"""Up to this many experiments stand side by side; of more, each is a row."""
VALUES_THAT_FIT = 10
"""A row holds up to this many values of x; more are continued in another part."""

IN_TITLE = ("dataset", "protocol")
"""Parameters that the title names."""


class Axis(NamedTuple):
    """What x stands for.

    Attributes
    ----------
    name : str
        The heading of the table's column.
    label : str
        The label of the figure's axis.
    text : callable
        Formats a value.
    """

    name: str
    label: str
    text: Callable[[float], str]


PROTOCOL_AXES = {
    "small_train": Axis("images", "training images", "{:,.0f}".format),
    "contamination": Axis(
        "anomalies", "anomalies among the training images", lambda x: f"{100 * x:g} %"
    ),
    "groups": Axis("size", "images in a group", "{:.0f}".format),
}
"""The axis of each protocol that has a curve."""


class CurvePoint(NamedTuple):
    """A mean over classes and draws, as a fraction in [0, 1].

    A single draw has no standard error.
    """

    rocauc: float
    standard_error: float | None
    n_draws: int
    n_classes: int


@dataclass(frozen=True)
class CurveTable(Table):
    """Experiments side by side: one row per value of x.

    Attributes
    ----------
    axis : Axis
    results : tuple of tuple of Result
        Every split's result, for each column.
    curves : tuple of dict
        The mean at each x, for each column. If the protocol has no curve, only draws, the single x
        is None.
    """

    axis: Axis
    results: tuple[tuple[Result, ...], ...]
    curves: tuple[Mapping[float | None, CurvePoint], ...]

    @property
    def xs(self) -> list[float | None]:
        """All values of x, ascending."""
        return sorted({x for curve in self.curves for x in curve}, key=lambda x: x or 0)

    def records(self) -> list[dict[str, Any]]:
        """Return one flat dict per experiment and split, then one per experiment and x.

        In the latter, the class is ``mean``.
        """
        of_splits = [
            {"key": column.key, **column.params, **record}
            for column, results in zip(self.columns, self.results, strict=True)
            for record in split_records(results)
        ]
        of_means = [
            {"key": column.key, **column.params, "class_name": "mean", "x": x, **point._asdict()}
            for column, curve in zip(self.columns, self.curves, strict=True)
            for x, point in sorted(curve.items(), key=lambda item: item[0] or 0)
        ]
        names = dict.fromkeys(name for record in (*of_splits, *of_means) for name in record)
        return [{**names, **record} for record in (*of_splits, *of_means)]

    def figure(self) -> figures.Figure:
        """Draw the means against x: a line per experiment, standard errors as bars."""
        ticks = {x or 0.0: self._text(x) for x in self.xs}
        series = {
            column.label: {x or 0.0: _bounds(point) for x, point in curve.items()}
            for column, curve in zip(self.columns, self.curves, strict=True)
        }
        return figures.curves(
            f"{self.title}\n{self.settings}",
            self.axis.label,
            ticks,
            series,
            "standard error over draws",
        )

    def points(self) -> list[tuple[str, float, int]]:
        """Return nothing: each run logs its own curve, and MLflow draws them in one chart."""
        return []

    def grids(self) -> list[Lines]:
        """Show up to four experiments side by side; of more, show each as a row.

        A row then holds up to ten values of x.
        """
        if len(self.columns) <= COLUMNS_THAT_FIT:
            header = [self.axis.name, *(stacked(column.label) for column in self.columns)]
            rows = [
                [self._text(x), *(_mean(curve.get(x), " ") for curve in self.curves)]
                for x in self.xs
            ]
            counts = self._counts(self.xs)
            return [
                [
                    [*line, *more]
                    for line, more in zip([header, *rows], zip(*counts, strict=True), strict=True)
                ]
            ]
        return [
            self._transposed(self.xs[start : start + VALUES_THAT_FIT])
            for start in range(0, len(self.xs), VALUES_THAT_FIT)
        ]

    def _transposed(self, xs: list[float | None]) -> Lines:
        """Make a grid of one row per experiment and one column per value of x.

        The standard error stands under the mean.
        """
        rows = [
            [column.label, *(_mean(curve.get(x), "\n") for x in xs)]
            for column, curve in zip(self.columns, self.curves, strict=True)
        ]
        return [[self.axis.name, *map(self._text, xs)], *rows, [], *self._counts(xs)]

    def _text(self, x: float | None) -> str:
        return "all" if x is None else self.axis.text(x)

    def _counts(self, xs: list[float | None]) -> Lines:
        """Count the draws behind the means at each x and, if there are any, the classes.

        A range goes from the fewest to the most of any column.
        """
        here = [[curve[x] for curve in self.curves if x in curve] for x in xs]
        draws = ["draws", *(_range(point.n_draws for point in points) for points in here)]
        if all(result.class_name == "all" for results in self.results for result in results):
            return [draws]
        return [
            draws,
            ["classes", *(_range(point.n_classes for point in points) for points in here)],
        ]


def curve_table(cells: Sequence[Cell], definitions: Mapping[str, str]) -> CurveTable:
    """Set the curves of runs side by side.

    Parameters
    ----------
    cells : sequence of Cell
        Runs of one data set, protocol and partition.
    definitions : mapping of protocol to text
    """
    groups = join_seeds(cells)
    experiments = [group[0].experiment for group in groups]
    protocol = experiments[0].protocol
    hidden = (*IN_TITLE, "seed") if any(len(group) > 1 for group in groups) else IN_TITLE
    columns = label_seeds(make_columns(experiments, hidden), groups)
    results = tuple(results_of_seeds(group) for group in groups)
    remarks = [
        *notes.warnings(groups, columns),
        *(f"{name}: {text}." for name, text in definitions.items() if name == protocol),
        *notes.hindsight([group[0] for group in groups]),
        *notes.budgets(experiments),
        *notes.seeds(
            [group for group in groups if len(group) > 1],
            "each draw of each seed counts as one draw",
        ),
        "Values are percentages: means over classes and draws; the standard error over draws is in "
        "brackets. A draw's value is its mean over classes. A single draw has no standard error.",
        f"paper: {PAPER} reports no number for this.",
    ]
    return CurveTable(
        title=f"ROCAUC on {experiments[0].dataset}, {protocol}",
        settings=settings(experiments, hidden),
        columns=columns,
        notes=tuple(dict.fromkeys(remarks)),
        axis=PROTOCOL_AXES.get(protocol, Axis("x", "x", "{:g}".format)),
        results=results,
        curves=tuple(map(mean_curve, results)),
    )


def mean_curve(results: Sequence[Result]) -> dict[float | None, CurvePoint]:
    """Average over classes and draws at each x.

    The value v_d of a draw is its mean over the classes; the point is mean(v), with standard error
    std(v, ddof=1) / sqrt(n_draws). If a class lacks a draw that others have (all its images can be
    taken in one way only), its mean stands in for the draw.
    """
    at: dict[float | None, dict[str, dict[int, float]]] = {}
    for result in results:
        at.setdefault(result.x, {}).setdefault(result.class_name, {})[result.draw] = result.metrics[
            "rocauc"
        ]
    curve = {}
    for x, classes in at.items():
        draws = sorted({draw for values in classes.values() for draw in values})
        means = {name: float(np.mean(list(values.values()))) for name, values in classes.items()}
        of_draws = np.array(
            [[values.get(draw, means[name]) for name, values in classes.items()] for draw in draws]
        ).mean(axis=1)
        error = float(of_draws.std(ddof=1) / len(draws) ** 0.5) if len(draws) > 1 else None
        curve[x] = CurvePoint(float(of_draws.mean()), error, len(draws), len(classes))
    return curve


def _mean(point: CurvePoint | None, between: str) -> str:
    if point is None:
        return "-"
    error = "" if point.standard_error is None else f"({percent(point.standard_error, decimals=2)})"
    return f"{percent(point.rocauc, decimals=2)}{between}{error}".rstrip(" ")


def _range(counts: Iterable[int]) -> str:
    found = sorted(set(counts))
    return f"{found[0]}" if len(found) == 1 else f"{found[0]}-{found[-1]}"


def _bounds(point: CurvePoint) -> figures.ValueWithInterval:
    error = point.standard_error or 0.0
    return point.rocauc, point.rocauc - error, point.rocauc + error
