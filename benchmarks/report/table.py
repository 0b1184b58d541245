"""The table of a report: experiments side by side, a row a class, as data, CSV, JSON, text and figure."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from benchmarks import figures
from benchmarks.contracts import Interval

COLUMNS_THAT_FIT = 3
"""So many experiments stand side by side in 100 columns; of more, the means are listed."""


@dataclass(frozen=True)
class Column:
    """One experiment of a table: its key, and the parameters by which it differs from the others."""

    label: str
    key: str
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """What one experiment reached in one row, fractions in [0, 1]; of a mean, ``n_train`` and ``n_test`` are None if they differ.

    ``seconds`` is the time to fit and to score, without features.
    """

    rocauc: Interval
    average_precision: float
    prevalence: float
    n_train: int | None
    n_test: int | None
    seconds: float


@dataclass(frozen=True)
class Row:
    """A class (or the mean): one entry a column, None where the experiment has no such result, and the paper's value."""

    name: str
    entries: tuple[Entry | None, ...]
    paper: float | None

    def difference(self, column: int) -> float | None:
        """Ours minus the paper's, of the unrounded values."""
        entry = self.entries[column]
        return None if entry is None or self.paper is None else entry.rocauc.value - self.paper


@dataclass(frozen=True)
class Table:
    """Experiments side by side: a row a class, then the mean."""

    title: str
    settings: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    mean: Row
    notes: tuple[str, ...]

    def records(self) -> list[dict[str, Any]]:
        """One flat dict for each experiment and row, the mean last; fractions, not rounded."""
        return [
            {
                "key": column.key,
                **column.params,
                "class_name": row.name,
                "rocauc": entry.rocauc.value,
                "rocauc_low": entry.rocauc.low,
                "rocauc_high": entry.rocauc.high,
                **{name: value for name, value in asdict(entry).items() if name != "rocauc"},
                "paper": row.paper,
                "difference": row.difference(number),
            }
            for number, column in enumerate(self.columns)
            for row in (*self.rows, self.mean)
            if (entry := row.entries[number]) is not None
        ]

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
        return {"title": self.title, "settings": self.settings, "notes": list(self.notes), "records": self.records()}

    def print(self, file: TextIO | None = None) -> None:
        """Print title, settings, table and notes to a text stream (default: stdout), at least 100 columns wide.

        Up to three experiments stand side by side, class by class; of more, the means are listed. Bold only on a terminal.
        """
        console = Console(file=file, width=max(Console(file=file).width, 100))
        if len(self.columns) == 1:
            header, *body = self._one()
        else:
            header, *body = self._side_by_side() if len(self.columns) <= COLUMNS_THAT_FIT else self._means()
        grid = RichTable(box=box.SIMPLE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        for name in header:
            first = name == header[0]
            grid.add_column(
                Text(name), justify="left" if first else "right", vertical="bottom", overflow="fold", no_wrap=not first
            )
        for line in body:
            grid.add_row(*map(Text, line), end_section=line[0] == self.rows[-1].name)
        console.print(Text(self.title, "bold"))
        console.print(Text(self.settings), end="\n\n")
        console.print(grid)
        console.print()
        for note in self.notes:
            console.print(Text(note))

    def figure(self) -> figures.Figure:
        """Draw the mean against k if more than two values of k are there, else a bar for each experiment, class and mean."""
        title = f"{self.title}\n{self.settings}"
        if len({column.params.get("k") for column in self.columns}) > 2:
            lines: dict[str, dict[int, Interval]] = {}
            for column, entry in zip(self.columns, self.mean.entries, strict=True):
                if entry is not None:
                    label = ", ".join(f"{name}={value}" for name, value in column.params.items() if name != "k")
                    lines.setdefault(label or "mean over classes", {})[column.params["k"]] = entry.rocauc
            return figures.rocauc_by_k(title, lines, self.mean.paper)
        rows = [*self.rows, self.mean]
        series = {
            column.label: [entry.rocauc if (entry := row.entries[number]) else None for row in rows]
            for number, column in enumerate(self.columns)
        }
        return figures.class_bars(title, [row.name for row in rows], series, [row.paper for row in rows])

    def _one(self) -> list[list[str]]:
        """Header and lines for one experiment: a row a class, then the mean."""
        lines = [["class", self.columns[0].label, "paper", "diff", "AP", "n_train", "n_test", "seconds"]]
        for row in (*self.rows, self.mean):
            entry = row.entries[0]
            ours = [_with_interval(entry), percent(row.paper), percent(row.difference(0), sign=True)]
            lines.append([row.name, *ours, *_details(entry)])
        return lines

    def _side_by_side(self) -> list[list[str]]:
        """Header and lines for a few: a row a class, then the mean and what else is known of it."""
        numbers = range(len(self.columns))
        header = ["class", *(_stacked(column.label.replace("=", "= ")) for column in self.columns), "paper"]
        short = [" ".join(map(str, column.params.values())) for column in self.columns]
        if max(map(len, short)) > len("-10.0"):
            short = ["1st", "2nd", "3rd"][: len(short)]
        lines = [[*header, *(f"diff\n{values}" for values in short)]]
        for row in (*self.rows, self.mean):
            differences = (percent(row.difference(number), sign=True) for number in numbers)
            lines.append([row.name, *map(_with_interval, row.entries), percent(row.paper), *differences])
        for name, *values in zip(("mean AP", "n_train", "n_test", "seconds"), *map(_details, self.mean.entries), strict=True):
            lines.append([name, *values, "", *("" for _ in numbers)])
        return lines

    def _means(self) -> list[list[str]]:
        """Header and lines for many: a row an experiment."""
        lines = [["experiment", "mean", "paper", "diff", "AP", "n_train", "n_test", "seconds"]]
        for number, (column, entry) in enumerate(zip(self.columns, self.mean.entries, strict=True)):
            ours = [_with_interval(entry), percent(self.mean.paper), percent(self.mean.difference(number), sign=True)]
            lines.append([column.label, *ours, *_details(entry)])
        return lines


def percent(fraction: float | None, *, sign: bool = False) -> str:
    """Format a fraction as percent with one decimal, rounded once, half away from zero; "-" for None."""
    if fraction is None:
        return "-"
    rounded = (100 * Decimal(repr(float(fraction)))).quantize(Decimal("0.1"), ROUND_HALF_UP)
    return f"{rounded or abs(rounded):{'+' if sign and rounded else ''}.1f}"  # zero without a sign


def _stacked(label: str) -> str:
    """Break a label into lines, so that a header is no wider than the numbers below it."""
    return "\n".join(textwrap.wrap(label, len("99.9 [99.9, 99.9]"), break_on_hyphens=False)).replace("= ", "=")


def _with_interval(entry: Entry | None) -> str:
    if entry is None:
        return "-"
    value, low, high = map(percent, entry.rocauc)
    return f"{value} [{low}, {high}]"


def _details(entry: Entry | None) -> list[str]:
    """Average precision, images, seconds."""
    if entry is None:
        return ["-"] * 4
    counts = ("varies" if count is None else f"{count:,}" for count in (entry.n_train, entry.n_test))
    return [percent(entry.average_precision), *counts, f"{entry.seconds:.2f}"]
