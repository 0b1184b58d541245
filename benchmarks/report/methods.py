"""All methods on one data set and protocol side by side.

A row per class, a column per method, and each method's published mean below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks import figures
from benchmarks.report.class_table import ClassRow, ClassScore, ClassTable, spread_of
from benchmarks.report.notes import BEWARE
from benchmarks.report.tables import Column, Lines, Table, percent, stacked

COLUMNS_THAT_FIT = 5
"""Up to this many methods stand side by side; more are continued in another part."""


@dataclass(frozen=True)
class MethodTable(Table):
    """Several class tables joined into one.

    Attributes
    ----------
    tables : tuple of ClassTable
    rows : tuple of ClassRow
        Their scores are in the order of ``columns``.
    mean : ClassRow
    paper : tuple of float or None
        The published mean of each column.
    """

    tables: tuple[ClassTable, ...]
    rows: tuple[ClassRow, ...]
    mean: ClassRow
    paper: tuple[float | None, ...]

    def records(self) -> list[dict[str, Any]]:
        """Return the records of the joined tables, with the method's name first."""
        each = [
            {"method": table.method, **record}
            for table in self.tables
            for record in table.records()
        ]
        names = dict.fromkeys(name for record in each for name in record)
        return [{name: record.get(name) for name in names} for record in each]

    def figure(self) -> figures.Figure:
        """Draw each method's mean as a bar next to the published mean."""
        measured = [None if score is None else score.rocauc for score in self.mean.scores]
        names = [column.label for column in self.columns]
        spread = spread_of(score for score in self.mean.scores if score is not None)
        return figures.class_bars(
            f"{self.title}: means over classes", names, {"measured": measured}, self.paper, spread
        )

    def points(self) -> list[tuple[str, float, int]]:
        """Return nothing: methods are not numbers."""
        return []

    def grids(self) -> list[Lines]:
        """Show up to five methods side by side; continue more in another part."""
        numbers = range(len(self.columns))
        return [
            self._part(numbers[start : start + COLUMNS_THAT_FIT])
            for start in numbers[::COLUMNS_THAT_FIT]
        ]

    def _part(self, numbers: Sequence[int]) -> Lines:
        lines = [["class", *(stacked(self.columns[number].label) for number in numbers)]]
        lines += [
            [row.name, *(_value(row.scores[number]) for number in numbers)] for row in self.rows
        ]
        lines += [[], ["mean", *(_value(self.mean.scores[number]) for number in numbers)]]
        if all(self.paper[number] is None for number in numbers):
            return lines
        lines.append(["paper's mean", *(percent(self.paper[number]) for number in numbers)])
        differences = [
            _difference(self.mean.scores[number], self.paper[number]) for number in numbers
        ]
        return [*lines, ["difference", *(percent(value, sign=True) for value in differences)]]


def method_table(tables: Sequence[ClassTable]) -> MethodTable:
    """Join tables of one data set, protocol and partition.

    Each has another detector or variant. A method that lacks some of the classes gets no mean,
    since means over different classes cannot be compared.

    Parameters
    ----------
    tables : sequence of ClassTable
        Their notes on budgets and hindsight are repeated here.
    """
    classes = list(dict.fromkeys(row.name for table in tables for row in table.rows))
    rows = tuple(_join(name, [_row(table, name) for table in tables]) for name in classes)
    complete = [len(table.rows) == len(classes) for table in tables]
    means = [
        table.mean if is_complete else _nothing(table)
        for table, is_complete in zip(tables, complete, strict=True)
    ]
    columns = [
        replace(column, label=_label(table, column)) for table in tables for column in table.columns
    ]
    paper = [mean.paper for table, mean in zip(tables, means, strict=True) for _ in table.columns]
    notes = dict.fromkeys(
        note
        for table in tables
        for note in table.notes
        if note.startswith(("preset=", "selection=", BEWARE))
    )
    own = (
        "Values are percentages. Each method's own table has the intervals, the times and the "
        "paper's remarks on its numbers."
    )
    return MethodTable(
        title=f"ROCAUC of {len(tables)} methods on {tables[0].subject}",
        settings="",
        columns=tuple(columns),
        notes=(own, *notes),
        tables=tuple(tables),
        rows=rows,
        mean=_join("mean", means),
        paper=tuple(paper),
    )


def _join(name: str, rows: Sequence[ClassRow]) -> ClassRow:
    return ClassRow(name, tuple(score for row in rows for score in row.scores), None)


def _row(table: ClassTable, name: str) -> ClassRow:
    return next((row for row in table.rows if row.name == name), _nothing(table))


def _nothing(table: ClassTable) -> ClassRow:
    return ClassRow("", tuple(None for _ in table.columns), None)


def _label(table: ClassTable, column: Column) -> str:
    """Name the method, and what tells its columns apart."""
    differing = column.label.removeprefix(table.method.split()[0]).removeprefix(", ")
    return f"{table.method}, {differing}" if differing else table.method


def _value(score: ClassScore | None) -> str:
    return "-" if score is None else percent(score.rocauc.value)


def _difference(score: ClassScore | None, paper: float | None) -> float | None:
    return None if score is None or paper is None else score.rocauc.value - paper
