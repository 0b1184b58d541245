"""A table with a row a class, then the mean, and the paper's numbers beside ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks import figures
from benchmarks.contracts import Interval
from benchmarks.report.tables import Lines, Sweep, Table, find_sweep, percent, stacked

COLUMNS_THAT_FIT = 3
"""So many experiments stand side by side; of more, the means are listed."""


@dataclass(frozen=True)
class Entry:
    """What one experiment reached in one row, fractions in [0, 1]; of a mean, ``n_train`` and ``n_test`` are None if they differ.

    ``seconds`` is the time to fit and to score, without features. Of several seeds, all are means, and the bounds of ``rocauc``
    are one standard error away. ``extra`` holds what only some detectors have: accuracies, and what an oracle chose.
    """

    rocauc: Interval
    average_precision: float
    prevalence: float
    n_train: int | None
    n_test: int | None
    seconds: float
    n_seeds: int = 1
    extra: Mapping[str, float] = field(default_factory=dict)

    def bounds(self) -> dict[str, float | None]:
        """Return what is known of the ROCAUC's spread, by name: the 95 % interval, or the standard error over seeds."""
        value, low, high = self.rocauc
        if self.n_seeds > 1:
            return {"rocauc_low": None, "rocauc_high": None, "standard_error": value - low}
        return {"rocauc_low": low, "rocauc_high": high, "standard_error": None}


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
class ClassTable(Table):
    """Experiments side by side: a row a class, then the mean.

    ``method`` is the detector with its variant, ``subject`` the data set and the protocol; ``metric`` is what the mean is called
    in MLflow: ``rocauc``, or ``rocauc_validation`` on that partition.
    """

    method: str
    subject: str
    rows: tuple[Row, ...]
    mean: Row
    metric: str

    def records(self) -> list[dict[str, Any]]:
        """One flat dict for each experiment and row, the mean last; fractions, not rounded."""
        extra = dict.fromkeys(self._extra())
        return [
            {
                "key": column.key,
                **column.params,
                "class_name": row.name,
                "rocauc": entry.rocauc.value,
                **entry.bounds(),
                **{
                    name: value
                    for name, value in asdict(entry).items()
                    if name not in ("rocauc", "extra")
                },
                **extra,
                **entry.extra,
                "paper": row.paper,
                "difference": row.difference(number),
            }
            for number, column in enumerate(self.columns)
            for row in (*self.rows, self.mean)
            if (entry := row.entries[number]) is not None
        ]

    def figure(self) -> figures.Figure:
        """Draw the mean against the number, or encoder, in which three or more experiments differ; else bars for each class."""
        title = f"{self.title}\n{self.settings}"
        sweep = find_sweep(self.columns)
        if sweep is not None:
            series = {
                label or "mean over classes": values for label, values in self._lines(sweep).items()
            }
            paper = self.mean.paper
            return figures.curves(
                title, sweep.label, sweep.ticks, series, self._bars(), paper, names=sweep.is_names
            )
        rows = [*self.rows, self.mean]
        bars_of = {
            column.label: [entry.rocauc if (entry := row.entries[number]) else None for row in rows]
            for number, column in enumerate(self.columns)
        }
        return figures.class_bars(
            title, [row.name for row in rows], bars_of, [row.paper for row in rows], self._bars()
        )

    def _bars(self) -> str:
        """What the figure's whiskers are."""
        return spread_of(entry for entry in self.mean.entries if entry is not None)

    def points(self) -> list[tuple[str, float, int]]:
        """Return the mean against the number in which the experiments differ, as ``rocauc_by_k`` with k as step.

        If other parameters differ too, each line has its label in the name: ``rocauc_by_k/normalize_l2``. A step is a whole
        number: fractions and encoders have no points.
        """
        sweep = find_sweep(self.columns)
        if sweep is None or sweep.is_names or any(place % 1 for place in sweep.places.values()):
            return []
        return [
            (
                f"{self.metric}_by_{sweep.name}" + (f"/{slug(label)}" if label else ""),
                float(value.value),
                int(x),
            )
            for label, line in self._lines(sweep).items()
            for x, value in sorted(line.items())
        ]

    def grids(self) -> list[Lines]:
        """Up to three experiments stand side by side, class by class; of more, the means are listed.

        Where the paper prints nothing, nothing is beside them.
        """
        if len(self.columns) == 1:
            lines = self._one()
        else:
            lines = self._side_by_side() if len(self.columns) <= COLUMNS_THAT_FIT else self._means()
        if any(row.paper is not None for row in (*self.rows, self.mean)):
            return [lines]
        kept = [
            number
            for number, title in enumerate(lines[0])
            if title != "paper" and not title.startswith("diff")
        ]
        return [[[line[number] for number in kept] if line else [] for line in lines]]

    def _lines(self, sweep: Sweep) -> Mapping[str, Mapping[float, Interval]]:
        """Return label -> {place on the axis: mean}."""
        lines: dict[str, dict[float, Interval]] = {}
        for column, entry in zip(self.columns, self.mean.entries, strict=True):
            if entry is not None:
                lines.setdefault(sweep.line(column.params), {})[
                    sweep.places[column.params[sweep.name]]
                ] = entry.rocauc
        return lines

    def _extra(self) -> list[str]:
        """Names of what only some detectors have."""
        entries = [
            entry for row in (*self.rows, self.mean) for entry in row.entries if entry is not None
        ]
        return list(dict.fromkeys(name for entry in entries for name in entry.extra))

    def _one(self) -> Lines:
        """Header and lines for one experiment: a row a class, then the mean."""
        extra = self._extra()
        titles = [name.removeprefix("chosen_").replace("accuracy_", "acc\n") for name in extra]
        lines = [
            [
                "class",
                stacked(self.columns[0].label),
                "paper",
                "diff",
                *titles,
                "AP",
                "n_train",
                "n_test",
                "seconds",
            ]
        ]
        for row in (*self.rows, self.mean):
            entry = row.entries[0]
            ours = [
                _with_interval(entry),
                percent(row.paper),
                percent(row.difference(0), sign=True),
            ]
            lines += [
                [row.name, *ours, *(_extra_text(entry, name) for name in extra), *_details(entry)]
            ]
        return [*lines[:-1], [], lines[-1]]

    def _side_by_side(self) -> Lines:
        """Header and lines for a few: a row a class, then the mean and what else is known of it."""
        numbers = range(len(self.columns))
        header = ["class", *(stacked(column.label) for column in self.columns), "paper"]
        short = [" ".join(map(str, column.params.values())) for column in self.columns]
        if max(map(len, short)) > len("-10.0"):
            short = ["1st", "2nd", "3rd"][: len(short)]
        lines = [[*header, *(f"diff\n{values}" for values in short)]]
        for row in (*self.rows, self.mean):
            if row is self.mean:
                lines.append([])
            differences = (percent(row.difference(number), sign=True) for number in numbers)
            lines.append(
                [row.name, *map(_with_interval, row.entries), percent(row.paper), *differences]
            )
        for name, *values in zip(
            ("mean AP", "n_train", "n_test", "seconds"),
            *map(_details, self.mean.entries),
            strict=True,
        ):
            lines.append([name, *values, "", *("" for _ in numbers)])
        for name in self._extra():
            if any(entry is not None and name in entry.extra for entry in self.mean.entries):
                values = [_extra_text(entry, name) for entry in self.mean.entries]
                lines.append([name.replace("_", " "), *values, "", *("" for _ in numbers)])
        return lines

    def _means(self) -> Lines:
        """Header and lines for many: a row an experiment."""
        lines = [["experiment", "mean", "paper", "diff", "AP", "n_train", "n_test", "seconds"]]
        for number, (column, entry) in enumerate(zip(self.columns, self.mean.entries, strict=True)):
            ours = [
                _with_interval(entry),
                percent(self.mean.paper),
                percent(self.mean.difference(number), sign=True),
            ]
            lines.append([column.label, *ours, *_details(entry)])
        return lines


def spread_of(entries: Iterable[Entry]) -> str:
    """Say what the bounds of entries are: those of one run are intervals, those of several seeds are not."""
    several = {entry.n_seeds > 1 for entry in entries}
    named = {False: "95 % intervals", True: "standard error over seeds"}
    return ", or ".join(named[kind] for kind in sorted(several)) or named[False]


def slug(label: str) -> str:
    """Return a label in the letters that MLflow takes in a metric's name."""
    return re.sub(r"[^A-Za-z0-9_.:-]+", "_", label)


def _with_interval(entry: Entry | None) -> str:
    if entry is None:
        return "-"
    value, low, high = map(percent, entry.rocauc)
    if entry.n_seeds > 1:
        return f"{value} ({percent(entry.rocauc.high - entry.rocauc.value)})"
    return f"{value} [{low}, {high}]"


def _extra_text(entry: Entry | None, name: str) -> str:
    """An accuracy in percent, or the value of a parameter that was chosen."""
    value = None if entry is None else entry.extra.get(name)
    if value is None:
        return ""
    return f"{value:.4g}" if name.startswith("chosen_") else percent(value)


def _details(entry: Entry | None) -> list[str]:
    """Average precision, images, seconds."""
    if entry is None:
        return ["-"] * 4
    counts = (
        "varies" if count is None else f"{count:,}" for count in (entry.n_train, entry.n_test)
    )
    return [percent(entry.average_precision), *counts, f"{entry.seconds:.2f}"]
