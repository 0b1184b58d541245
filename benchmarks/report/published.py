"""The published numbers, as ``benchmarks/published.csv`` holds them: no number is shown as published that is not in it."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

PAPER = "DN2 2020"
"""The source whose numbers stand beside ours: arXiv 2002.10445."""


@dataclass(frozen=True)
class PublishedRow:
    """One number as a paper prints it, a fraction; ``spread`` is its own, where it prints one."""

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

    @property
    def group(self) -> tuple[str, str, str, str, str]:
        """What rows must share to be set side by side: source, data set, protocol, detector, variant."""
        return self.source, self.dataset, self.protocol, self.detector, self.variant


@cache
def published_rows() -> tuple[PublishedRow, ...]:
    """All of ``published.csv``."""
    text = files("benchmarks").joinpath("published.csv").read_text(encoding="utf-8")
    rows = []
    for line in csv.DictReader(io.StringIO(text)):
        rocauc, spread = float(line.pop("rocauc")), line.pop("spread")
        rows.append(PublishedRow(rocauc=rocauc, spread=float(spread) if spread else None, **line))
    return tuple(rows)


def published(dataset: str, protocol: str, detector: str, variant: str | None = None, source: str = PAPER) -> dict[str, float]:
    """Find what one source prints for one detector and variant: class name (or ``mean``) -> ROCAUC; empty if it prints nothing.

    ``variant`` None or empty means the rows without one: a hindsight OC-SVM never stands in for a plain one.
    """
    wanted = (source, dataset, protocol, detector, variant or "")
    return {row.class_name: row.rocauc for row in published_rows() if row.group == wanted}
