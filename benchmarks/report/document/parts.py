"""The parts of a report: sections, tables, charts, pictures.

They hold what a reader sees, and know neither where it comes from nor how it is written. Values
are fractions in [0, 1] and become percentages when they are written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.contracts import Interval

# Tables


@dataclass(frozen=True)
class Entry:
    """One field of a table.

    Attributes
    ----------
    text : str
        As a reader sees it: plain text, which each format escapes for itself.
    value : float or None
        What it is sorted by, and what a CSV file holds; None for text.
    best : bool
        Whether it is the best of its row or column.
    runs : tuple of str
        MLflow runs that it comes from.
    code : bool
        Whether it is a command.
    """

    text: str
    value: float | None = None
    best: bool = False
    runs: tuple[str, ...] = ()
    code: bool = False


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes
    ----------
    name : str
        Unique in a report, and safe as a file name.
    title : str
    header : tuple of str
    numeric : tuple of bool
        Which columns hold numbers.
    rows : tuple of tuple of Entry
    notes : tuple of str
    lists_runs : bool
        Whether the runs of an entry are shown beside it; otherwise they show on hover.
    """

    name: str
    title: str
    header: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[Entry, ...], ...]
    notes: tuple[str, ...] = ()
    lists_runs: bool = False

    def __post_init__(self) -> None:
        """Check that all rows have the columns of the header."""
        widths = {len(self.header), len(self.numeric), *map(len, self.rows)}
        if len(widths) > 1:
            raise ValueError(f"table {self.name} has rows of {sorted(widths)} fields")


# Charts


@dataclass(frozen=True)
class ClassBars:
    """Bars with intervals: a group for each class, a bar for each method.

    ``series`` has, for each method, a value for each name or None; ``published`` likewise.
    """

    name: str
    title: str
    names: tuple[str, ...]
    series: Mapping[str, Sequence[Interval | None]]
    published: Mapping[str, Sequence[float | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Lines:
    """Curves with bands: for each method, x -> the value with its bounds.

    ``texts`` says how each x is written; ``spread`` what the bands are.
    """

    name: str
    title: str
    x_label: str
    series: Mapping[str, Mapping[float, Interval]]
    texts: Mapping[float, str]
    spread: str


@dataclass(frozen=True)
class RocCurves:
    """ROC curves: class -> method -> points (false alarms, hits)."""

    name: str
    title: str
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]


@dataclass(frozen=True)
class Histograms:
    """How scores are spread: panel -> (edges, normal share of each bin, anomalous share)."""

    name: str
    title: str
    panels: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]]


@dataclass(frozen=True)
class TradeOff:
    """ROCAUC against speed: method -> (images a second, ROCAUC, what the rate covers)."""

    name: str
    title: str
    points: Mapping[str, tuple[float, float, str]]


@dataclass(frozen=True)
class Ranks:
    """A critical-difference diagram: method -> mean rank."""

    name: str
    title: str
    mean_ranks: Mapping[str, float]
    critical: float
    n_datasets: int


Chart = ClassBars | Lines | RocCurves | Histograms | TradeOff | Ranks


# Pictures


@dataclass(frozen=True)
class Picture:
    """An encoded small image, and what stands below it."""

    content: bytes
    media: Literal["image/webp", "image/png"]
    caption: str
    alt: str


@dataclass(frozen=True)
class PictureRow:
    """A test image, and its nearest training images."""

    title: str
    image: Picture
    nearest: tuple[Picture, ...]


@dataclass(frozen=True)
class Gallery:
    """Rows of pictures under a heading: the worst false alarms of a class, or its misses."""

    title: str
    note: str
    groups: Mapping[str, tuple[PictureRow, ...]]


# The whole


@dataclass(frozen=True)
class Section:
    """A section of a report.

    Attributes
    ----------
    name : str
        Unique in a report; the address of the section.
    title : str
    text : tuple of str
        Paragraphs before the parts.
    parts : tuple of Grid, charts or Gallery
    missing : tuple of str
        What is not there, and why, a line each.
    commands : tuple of str
        How to get what is missing.
    """

    name: str
    title: str
    text: tuple[str, ...] = ()
    parts: tuple[Grid | Chart | Gallery, ...] = ()
    missing: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes
    ----------
    title : str
    about : tuple of str
        What it was made from, and when.
    sections : tuple of Section
    run_paths : dict of str to str
        Run id -> the run's place on the page of a tracking server.
    server : str
        The address of the tracking server's page; empty if none is known.
    """

    title: str
    about: tuple[str, ...]
    sections: tuple[Section, ...]
    run_paths: Mapping[str, str] = field(default_factory=dict)
    server: str = ""

    @property
    def grids(self) -> list[Grid]:
        """All tables."""
        return [part for one in self.sections for part in one.parts if isinstance(part, Grid)]

    @property
    def charts(self) -> list[Chart]:
        """All charts."""
        return [
            part
            for one in self.sections
            for part in one.parts
            if not isinstance(part, Grid | Gallery)
        ]
