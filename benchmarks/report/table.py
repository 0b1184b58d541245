"""What every table of a report is: experiments side by side, as records, CSV, JSON, text, figure and points for MLflow."""

from __future__ import annotations

import csv
import io
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

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
        return {"title": self.title, "settings": self.settings, "notes": list(self.notes), "records": self.records()}

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
    rounded = (100 * Decimal(repr(float(fraction)))).quantize(Decimal(10) ** -decimals, ROUND_HALF_UP)
    return f"{rounded or abs(rounded):{'+' if sign and rounded else ''}.{decimals}f}"  # zero without a sign


def stacked(label: str) -> str:
    """Break a column's label into lines, no wider than the numbers below it; a long word breaks after its =."""
    wide = len("99.9 [99.9, 99.9]") + 1
    words = [word if len(word) <= wide else word.replace("=", "= ") for word in label.split()]
    return "\n".join(textwrap.wrap(" ".join(words), wide, break_on_hyphens=False)).replace("= ", "=")


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
