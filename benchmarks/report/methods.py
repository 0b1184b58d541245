"""All methods on one data set and protocol side by side: a row a class, a column a method, each method's published mean below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks import figures
from benchmarks.report.class_table import ClassTable, Entry, Row, spread_of
from benchmarks.report.tables import Column, Lines, Table, percent, stacked

COLUMNS_THAT_FIT = 5
"""So many methods stand side by side; more are continued in another part."""


@dataclass(frozen=True)
class MethodTable(Table):
    """Class tables joined. ``rows`` and ``mean`` are in the order of ``columns``; ``paper`` has each column's published mean."""

    tables: tuple[ClassTable, ...]
    rows: tuple[Row, ...]
    mean: Row
    paper: tuple[float | None, ...]

    def records(self) -> list[dict[str, Any]]:
        """Those of the joined tables, with the method's name first."""
        each = [
            {"method": table.method, **record}
            for table in self.tables
            for record in table.records()
        ]
        names = dict.fromkeys(name for record in each for name in record)
        return [{name: record.get(name) for name in names} for record in each]

    def figure(self) -> figures.Figure:
        """Draw each method's mean as a bar, the published one beside it."""
        measured = [None if entry is None else entry.rocauc for entry in self.mean.entries]
        names = [column.label for column in self.columns]
        spread = spread_of(entry for entry in self.mean.entries if entry is not None)
        return figures.class_bars(
            f"{self.title}: means over classes", names, {"measured": measured}, self.paper, spread
        )

    def points(self) -> list[tuple[str, float, int]]:
        """Return nothing: methods are no numbers."""
        return []

    def grids(self) -> list[Lines]:
        """Up to five methods stand side by side; more are continued in another part."""
        numbers = range(len(self.columns))
        return [
            self._part(numbers[start : start + COLUMNS_THAT_FIT])
            for start in numbers[::COLUMNS_THAT_FIT]
        ]

    def _part(self, numbers: Sequence[int]) -> Lines:
        lines = [["class", *(stacked(self.columns[number].label) for number in numbers)]]
        lines += [
            [row.name, *(_value(row.entries[number]) for number in numbers)] for row in self.rows
        ]
        lines += [[], ["mean", *(_value(self.mean.entries[number]) for number in numbers)]]
        if all(self.paper[number] is None for number in numbers):
            return lines
        lines.append(["paper's mean", *(percent(self.paper[number]) for number in numbers)])
        differences = [
            _difference(self.mean.entries[number], self.paper[number]) for number in numbers
        ]
        return [*lines, ["difference", *(percent(value, sign=True) for value in differences)]]


def method_table(tables: Sequence[ClassTable]) -> MethodTable:
    """Join tables of one data set, protocol and partition, of which each has another detector or variant.

    Parameters
    ----------
    tables : sequence of ClassTable
        What they note of budgets and of hindsight is noted here too.
    """
    classes = list(dict.fromkeys(row.name for table in tables for row in table.rows))
    rows = tuple(_join(name, [_row(table, name) for table in tables]) for name in classes)
    whole = [
        len(table.rows) == len(classes) for table in tables
    ]  # means over other classes cannot be compared
    means = [
        table.mean if all_there else _nothing(table)
        for table, all_there in zip(tables, whole, strict=True)
    ]
    columns = [
        replace(column, label=_label(table, column)) for table in tables for column in table.columns
    ]
    paper = [mean.paper for table, mean in zip(tables, means, strict=True) for _ in table.columns]
    notes = dict.fromkeys(
        note
        for table in tables
        for note in table.notes
        if note.startswith(("preset=", "selection="))
    )
    own = "Percent. Intervals, times and what the paper says of its numbers are in each method's own table."
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


def _join(name: str, rows: Sequence[Row]) -> Row:
    return Row(name, tuple(entry for row in rows for entry in row.entries), None)


def _row(table: ClassTable, name: str) -> Row:
    return next((row for row in table.rows if row.name == name), _nothing(table))


def _nothing(table: ClassTable) -> Row:
    return Row("", tuple(None for _ in table.columns), None)


def _label(table: ClassTable, column: Column) -> str:
    """Return the method, and what tells its columns apart."""
    differing = column.label.removeprefix(table.method.split()[0]).removeprefix(", ")
    return f"{table.method}, {differing}" if differing else table.method


def _value(entry: Entry | None) -> str:
    return "-" if entry is None else percent(entry.rocauc.value)


def _difference(entry: Entry | None, paper: float | None) -> float | None:
    return None if entry is None or paper is None else entry.rocauc.value - paper
