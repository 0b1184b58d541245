"""Tables of a report as CSV files: the numbers as fractions, beside what a reader sees."""

from __future__ import annotations

import csv
import io

from benchmarks.report.document.parts import Grid

FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""A text that begins so would be run by a spreadsheet."""


def csv_table(grid: Grid) -> str:
    """Write a table as CSV.

    A numeric column has a second one beside it, whose name ends in ``, value``, with the number
    that is not rounded: a fraction, not a percentage.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header: list[str] = []
    for name, numeric in zip(grid.header, grid.numeric, strict=True):
        header += [name, f"{name}, value"] if numeric else [name]
    writer.writerow(map(_plain, header))
    for row in grid.rows:
        fields: list[str] = []
        for entry, numeric in zip(row, grid.numeric, strict=True):
            value = "" if entry.value is None else repr(float(entry.value))
            fields += [entry.text, value] if numeric else [_plain(entry.text)]
        writer.writerow(fields)
    return text.getvalue()


def _plain(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULAS) and text != "-" else text
