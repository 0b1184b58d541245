"""The table of a curve: a row a value of x, a column an experiment, means over classes and draws."""

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
"""So many experiments stand side by side; of more, each is a row."""
VALUES_THAT_FIT = 10
"""So many values of x fit into such a row; more are continued in another part."""

SAID = ("dataset", "protocol")
"""Parameters that the title says."""


class Axis(NamedTuple):
    """What x is: its name above the table's column, on the figure's axis, and how a value is written."""

    name: str
    label: str
    text: Callable[[float], str]


AXES = {
    "small_train": Axis("images", "training images", "{:,.0f}".format),
    "contamination": Axis(
        "anomalies", "anomalies among the training images", lambda x: f"{100 * x:g} %"
    ),
    "groups": Axis("size", "images in a group", "{:.0f}".format),
}
"""The axes of the protocols by name."""


class Point(NamedTuple):
    """A mean over classes and draws, fractions in [0, 1]; one draw has no standard error."""

    rocauc: float
    standard_error: float | None
    n_draws: int
    n_classes: int


@dataclass(frozen=True)
class CurveTable(Table):
    """Experiments side by side: a row a value of x (None: the protocol has no curve, only draws).

    ``results`` and ``curves`` hold, for each column, every split's result and the mean at each x.
    """

    axis: Axis
    results: tuple[tuple[Result, ...], ...]
    curves: tuple[Mapping[float | None, Point], ...]

    @property
    def xs(self) -> list[float | None]:
        """All values of x, ascending."""
        return sorted({x for curve in self.curves for x in curve}, key=lambda x: x or 0)

    def records(self) -> list[dict[str, Any]]:
        """One flat dict for each experiment and split, then one for each experiment and x, the class being ``mean``."""
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
        """Draw the means against x, a line an experiment, standard errors as bars."""
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
        """Return nothing: each cell's own run has its curve, and MLflow draws them in one chart."""
        return []

    def grids(self) -> list[Lines]:
        """Up to four experiments stand side by side; of more, each is a row, and ten values of x stand side by side."""
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
        """A row an experiment, a column a value of x; the standard error under the mean."""
        rows = [
            [column.label, *(_mean(curve.get(x), "\n") for x in xs)]
            for column, curve in zip(self.columns, self.curves, strict=True)
        ]
        return [[self.axis.name, *map(self._text, xs)], *rows, [], *self._counts(xs)]

    def _text(self, x: float | None) -> str:
        return "all" if x is None else self.axis.text(x)

    def _counts(self, xs: list[float | None]) -> Lines:
        """Draws of the means at each x, and classes where there are any: from the fewest to the most of any column."""
        here = [[curve[x] for curve in self.curves if x in curve] for x in xs]
        draws = ["draws", *(_range(point.n_draws for point in points) for points in here)]
        if all(result.class_name == "all" for results in self.results for result in results):
            return [draws]
        return [
            draws,
            ["classes", *(_range(point.n_classes for point in points) for points in here)],
        ]


def is_curve(cell: Cell) -> bool:
    """Tell whether a cell's results lie on a curve or are several draws, so that a row a class cannot show them."""
    return any(result.x is not None or result.draw > 0 for result in cell.results)


def curve_table(cells: Sequence[Cell], definitions: Mapping[str, str]) -> CurveTable:
    """Set the curves of cells side by side.

    Parameters
    ----------
    cells : sequence of Cell
        Of one data set, protocol and partition.
    definitions : mapping of protocol to text
    """
    groups = join_seeds(cells)
    experiments = [group[0].experiment for group in groups]
    protocol = experiments[0].protocol
    unsaid = (*SAID, "seed") if any(len(group) > 1 for group in groups) else SAID
    columns = label_seeds(make_columns(experiments, unsaid), groups)
    results = tuple(results_of_seeds(group) for group in groups)
    said = [
        *(f"{name}: {text}." for name, text in definitions.items() if name == protocol),
        *notes.hindsight([group[0] for group in groups]),
        *notes.budgets(experiments),
        *notes.seeds(
            [group for group in groups if len(group) > 1], "each draw of a seed counts as a draw"
        ),
        "Percent: means over classes and draws; in brackets the standard error over draws, a draw's value being its mean "
        "over classes. One draw has none.",
        f"paper: {PAPER} prints no number for this.",
    ]
    return CurveTable(
        title=f"ROCAUC on {experiments[0].dataset}, {protocol}",
        settings=settings(experiments, unsaid),
        columns=columns,
        notes=tuple(dict.fromkeys(said)),
        axis=AXES.get(protocol, Axis("x", "x", "{:g}".format)),
        results=results,
        curves=tuple(map(mean_curve, results)),
    )


def mean_curve(results: Sequence[Result]) -> dict[float | None, Point]:
    """Average over classes and draws at each x.

    A draw's value v_d is its mean over the classes; the point is mean(v) with standard error std(v, ddof=1) / sqrt(n_draws). A
    class that lacks a draw the others have (there is one way only to take all its images) stands in it with its mean.
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
        curve[x] = Point(float(of_draws.mean()), error, len(draws), len(classes))
    return curve


def _mean(point: Point | None, between: str) -> str:
    if point is None:
        return "-"
    error = "" if point.standard_error is None else f"({percent(point.standard_error, decimals=2)})"
    return f"{percent(point.rocauc, decimals=2)}{between}{error}".rstrip(" ")


def _range(counts: Iterable[int]) -> str:
    found = sorted(set(counts))
    return f"{found[0]}" if len(found) == 1 else f"{found[0]}-{found[-1]}"


def _bounds(point: Point) -> figures.ValueWithInterval:
    error = point.standard_error or 0.0
    return point.rocauc, point.rocauc - error, point.rocauc + error
