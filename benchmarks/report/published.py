"""The published numbers, read from ``benchmarks/published.csv``.

No number is shown as published unless it is in that file.
"""

from __future__ import annotations

import csv
import io
from functools import cache
from importlib.resources import files
from typing import TypedDict, cast

PAPER = "DN2 2020"
"""The source that our numbers are compared with: arXiv 2002.10445."""


class PublishedRow(TypedDict):
    """One number as a paper prints it.

    ``rocauc`` is a fraction; ``spread`` is the paper's own, or None if it prints none.
    """

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
    """Return all rows of ``published.csv``; each is for a class, or for ``mean``."""
    return list(_read())


@cache
def _read() -> tuple[PublishedRow, ...]:
    rows = csv.DictReader(
        io.StringIO(files("benchmarks").joinpath("published.csv").read_text(encoding="utf-8"))
    )
    return tuple(
        cast(
            PublishedRow,
            {
                **row,
                "rocauc": float(row["rocauc"]),
                "spread": float(row["spread"]) if row["spread"] else None,
            },
        )
        for row in rows
    )


def group_of(row: PublishedRow) -> tuple[str, str, str, str, str]:
    """Return what rows must share to be shown together.

    That is (source, data set, protocol, detector, variant).
    """
    return row["source"], row["dataset"], row["protocol"], row["detector"], row["variant"]


def published(
    dataset: str, protocol: str, detector: str, variant: str | None = None, source: str = PAPER
) -> dict[str, float]:
    """Find what a source prints for one detector and variant.

    Returns class name (or ``mean``) -> ROCAUC, empty if the source prints nothing. ``variant`` None
    or empty selects the rows without a variant: an OC-SVM tuned in hindsight never stands in for a
    plain one.
    """
    wanted = (source, dataset, protocol, detector, variant or "")
    return {row["class_name"]: row["rocauc"] for row in published_rows() if group_of(row) == wanted}
