"""All methods on one data set and protocol side by side.

A row per class, a column per method, and each method's published mean below.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from benchmarks import figures
from benchmarks.contracts import BEWARE, Interval
from benchmarks.metrics import Resampled
from benchmarks.paired import LEVEL, holm, paired_mean
from benchmarks.report.class_table import ClassRow, ClassScore, ClassTable, spread_of, with_interval
from benchmarks.report.tables import Column, Lines, Table, percent, stacked

COLUMNS_THAT_FIT = 4
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
    worse : frozenset of int
        The columns whose mean is really below the best one.
    """

    tables: tuple[ClassTable, ...]
    rows: tuple[ClassRow, ...]
    mean: ClassRow
    paper: tuple[float | None, ...]
    worse: frozenset[int] = frozenset()

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
        """Show up to four methods side by side; continue more in another part."""
        numbers = range(len(self.columns))
        return [
            self._part(numbers[start : start + COLUMNS_THAT_FIT])
            for start in numbers[::COLUMNS_THAT_FIT]
        ]

    def _part(self, numbers: Sequence[int]) -> Lines:
        lines = [["class", *(stacked(self.columns[number].label) for number in numbers)]]
        room = "  " if self.worse else ""  # for the marks of the mean
        lines += [
            [row.name, *(f"{with_interval(row.scores[number])}{room}" for number in numbers)]
            for row in self.rows
        ]
        means = (
            f"{with_interval(self.mean.scores[number])}{MARK if number in self.worse else room}"
            for number in numbers
        )
        lines += [[], ["mean", *means]]
        if all(self.paper[number] is None for number in numbers):
            return lines
        lines.append(["paper's mean", *(f"{percent(self.paper[n])}{room}" for n in numbers)])
        differences = [
            _difference(self.mean.scores[number], self.paper[number]) for number in numbers
        ]
        shown = (f"{percent(value, sign=True)}{room}" for value in differences)
        return [*lines, ["difference", *shown]]


MARK = " *"
"""Stands behind a mean that is really below the best one."""


def method_table(
    tables: Sequence[ClassTable], resampled: Callable[[str], Resampled | None]
) -> MethodTable:
    """Join tables of one data set, protocol and partition.

    Each has another detector or variant. A method that lacks some of the classes gets no mean,
    since means over different classes cannot be compared.

    Parameters
    ----------
    tables : sequence of ClassTable
        Their notes on budgets and hindsight are repeated here.
    resampled : callable
        From a cell's key to its mean under many weightings of the test images, or to None if that
        is not known.
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
    mean = _join("mean", means)
    worse, says = _worse(columns, mean, resampled)
    spread = spread_of(score for score in mean.scores if score is not None)
    own = (
        f"Values are percentages, with {spread}. Each method's own table has the times and the "
        "paper's remarks on its numbers."
    )
    return MethodTable(
        title=f"ROCAUC of {len(tables)} methods on {tables[0].subject}",
        settings="",
        columns=tuple(columns),
        notes=(own, *says, *notes),
        tables=tuple(tables),
        rows=rows,
        mean=mean,
        paper=tuple(paper),
        worse=worse,
    )


def _worse(
    columns: Sequence[Column], mean: ClassRow, resampled: Callable[[str], Resampled | None]
) -> tuple[frozenset[int], list[str]]:
    """Find the columns whose mean is really below the best one, and explain their mark.

    A column that was tested on other images than the best one is not tested against it.
    """
    known = {
        number: one
        for number, (column, score) in enumerate(zip(columns, mean.scores, strict=True))
        if score is not None and (one := _of_column(column, resampled)) is not None
    }
    if len(known) < 2:
        return frozenset(), []
    value = {
        number: float(np.mean([split.value for split in known[number].each])) for number in known
    }
    best = max(known, key=lambda number: value[number])
    others = [
        number
        for number in known
        if number != best and known[number].test_set == known[best].test_set
    ]
    # All pairs count, as in `compare`: which mean is the best was seen in the same numbers.
    pairs = list(combinations(sorted([best, *others]), 2))
    corrected = holm([paired_mean(known[a], known[b]).p for a, b in pairs])
    worse = frozenset(
        number
        for pair, p in zip(pairs, corrected, strict=True)
        for number in pair
        if best in pair and number != best and p < LEVEL
    )
    if not others:
        return worse, []
    how = (
        f"(paired bootstrap over the test images, p below {LEVEL} after Holm's correction for all "
        "pairs; another training may change more)"
    )
    name = columns[best].label
    if worse:
        return worse, [f"*: the mean is really below the best one, that of {name} {how}."]
    return worse, [f"No mean is really below the best one, that of {name} {how}."]


def _of_column(column: Column, resampled: Callable[[str], Resampled | None]) -> Resampled | None:
    """Return what is known of a column; of several seeds, their average."""
    each = [one for key in column.key.split(",") if (one := resampled(key)) is not None]
    if len(each) < len(column.key.split(",")) or len({one.test_set for one in each}) > 1:
        return None
    splits = [np.mean(values, axis=0) for values in zip(*(one.each for one in each), strict=True)]
    return Resampled(
        tuple(Interval(*map(float, values)) for values in splits),
        np.mean([one.means for one in each], axis=0),
        each[0].test_set,
        each[0].smaller,
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


def _difference(score: ClassScore | None, paper: float | None) -> float | None:
    return None if score is None or paper is None else score.rocauc.value - paper
