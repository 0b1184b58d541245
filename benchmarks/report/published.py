"""The published numbers, as ``benchmarks/published.csv`` holds them: no number is shown as published that is not in it."""

from __future__ import annotations

import csv
import io
from importlib.resources import files
from typing import TypedDict, cast

PAPER = "DN2 2020"
"""The source whose numbers stand beside ours: arXiv 2002.10445."""


class PublishedRow(TypedDict):
    """One number as a paper prints it: a fraction, with its own spread where it prints one."""

    source: str
    where: str
    dataset: str
    protocol: str
    class_name: str
    detector: str
    variant: str
    rocauc: float
    spread: float | None
    note: str


def published_rows() -> list[PublishedRow]:
    """Read all of ``published.csv``: a line a class, or ``mean``."""
    rows = csv.DictReader(
        io.StringIO(files("benchmarks").joinpath("published.csv").read_text(encoding="utf-8"))
    )
    return [
        cast(
            PublishedRow,
            {
                **row,
                "rocauc": float(row["rocauc"]),
                "spread": float(row["spread"]) if row["spread"] else None,
            },
        )
        for row in rows
    ]


def group_of(row: PublishedRow) -> tuple[str, str, str, str, str]:
    """Return what rows must share to be set side by side: source, data set, protocol, detector, variant."""
    return row["source"], row["dataset"], row["protocol"], row["detector"], row["variant"]


def published(
    dataset: str, protocol: str, detector: str, variant: str | None = None, source: str = PAPER
) -> dict[str, float]:
    """Find what one source prints for one detector and variant: class name (or ``mean``) -> ROCAUC; empty if it prints nothing.

    ``variant`` None or empty means the rows without one: a hindsight OC-SVM never stands in for a plain one.
    """
    wanted = (source, dataset, protocol, detector, variant or "")
    return {row["class_name"]: row["rocauc"] for row in published_rows() if group_of(row) == wanted}
