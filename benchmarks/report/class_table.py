"""A table of one row per class, then the mean, compared with the paper's numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks import figures
from benchmarks.contracts import Interval
from benchmarks.report.tables import Lines, Sweep, Table, find_sweep, percent, stacked

COLUMNS_THAT_FIT = 3
"""Up to this many experiments stand side by side; of more, the means are listed."""


@dataclass(frozen=True)
class ClassScore:
    """The result of one experiment in one row; fractions are in [0, 1].

    Attributes
    ----------
    rocauc : Interval
        With its 95 % interval; of several seeds, the mean, with bounds one standard error away.
    average_precision, prevalence : float
    n_train, n_test : int or None
        None for a mean over classes that differ.
    seconds : float
        Time to fit and to score, without feature extraction.
    n_seeds : int
        If there are several, all values are means over them.
    extra : dict
        Values that only some detectors have: accuracies, and what an oracle chose.
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
        """Return the spread of the ROCAUC, by name.

        It is the 95 % interval or, over several seeds, the standard error; the other is None.
        """
        value, low, high = self.rocauc
        if self.n_seeds > 1:
            return {"rocauc_low": None, "rocauc_high": None, "standard_error": value - low}
        return {"rocauc_low": low, "rocauc_high": high, "standard_error": None}


@dataclass(frozen=True)
class ClassRow:
    """A class, or the mean: one score per column, and the paper's value.

    A score is None if the experiment has no result for the row.
    """

    name: str
    scores: tuple[ClassScore | None, ...]
    paper: float | None

    def difference(self, column: int) -> float | None:
        """Subtract the paper's value from ours, both unrounded."""
        score = self.scores[column]
        return None if score is None or self.paper is None else score.rocauc.value - self.paper


@dataclass(frozen=True)
class ClassTable(Table):
    """Experiments side by side: a row per class, then the mean.

    Attributes
    ----------
    method : str
        The detector with its variant.
    subject : str
        The data set and the protocol.
    rows : tuple of ClassRow
    mean : ClassRow
    metric : str
        The mean's name in MLflow: ``rocauc``, or ``rocauc_validation`` on that partition.
    """

    method: str
    subject: str
    rows: tuple[ClassRow, ...]
    mean: ClassRow
    metric: str

    def records(self) -> list[dict[str, Any]]:
        """Return one flat dict per experiment and row, the mean last.

        Fractions are not rounded.
        """
        extra = dict.fromkeys(self._extra())
        return [
            {
                "key": column.key,
                **column.params,
                "class_name": row.name,
                "rocauc": score.rocauc.value,
                **score.bounds(),
                **{
                    name: value
                    for name, value in asdict(score).items()
                    if name not in ("rocauc", "extra")
                },
                **extra,
                **score.extra,
                "paper": row.paper,
                "difference": row.difference(number),
            }
            for number, column in enumerate(self.columns)
            for row in (*self.rows, self.mean)
            if (score := row.scores[number]) is not None
        ]

    def figure(self) -> figures.Figure:
        """Draw the mean against a parameter that varies, or bars for each class.

        The parameter is a number, or the encoder, in which three or more experiments differ.
        """
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
            column.label: [score.rocauc if (score := row.scores[number]) else None for row in rows]
            for number, column in enumerate(self.columns)
        }
        return figures.class_bars(
            title, [row.name for row in rows], bars_of, [row.paper for row in rows], self._bars()
        )

    def _bars(self) -> str:
        """Say what the whiskers of the figure are."""
        return spread_of(score for score in self.mean.scores if score is not None)

    def points(self) -> list[tuple[str, float, int]]:
        """Return the mean against the number in which the experiments differ.

        The metric is ``rocauc_by_k``, for example, with k as step. If other parameters differ too,
        each line's label is part of the name: ``rocauc_by_k/normalize_l2``. A step is a whole
        number, so fractions and encoders have no points.
        """
        sweep = find_sweep(self.columns)
        if sweep is None or sweep.is_names or any(place % 1 for place in sweep.places.values()):
            return []
        return [
            (
                f"{self.metric}_by_{sweep.name}" + (f"/{safe_name(label)}" if label else ""),
                float(value.value),
                int(x),
            )
            for label, line in self._lines(sweep).items()
            for x, value in sorted(line.items())
        ]

    def grids(self) -> list[Lines]:
        """Show up to three experiments side by side, class by class; of more, list the means.

        If the paper has no numbers for this, the columns that would compare with it are left out.
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
        for column, score in zip(self.columns, self.mean.scores, strict=True):
            if score is not None:
                lines.setdefault(sweep.line(column.params), {})[
                    sweep.places[column.params[sweep.name]]
                ] = score.rocauc
        return lines

    def _extra(self) -> list[str]:
        """List the names of the values that only some detectors have."""
        scores = [
            score for row in (*self.rows, self.mean) for score in row.scores if score is not None
        ]
        return list(dict.fromkeys(name for score in scores for name in score.extra))

    def _one(self) -> Lines:
        """Make the header and lines for one experiment: a row per class, then the mean."""
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
            score = row.scores[0]
            ours = [
                with_interval(score),
                percent(row.paper),
                percent(row.difference(0), sign=True),
            ]
            lines += [
                [row.name, *ours, *(_extra_text(score, name) for name in extra), *_details(score)]
            ]
        return [*lines[:-1], [], lines[-1]]

    def _side_by_side(self) -> Lines:
        """Make the header and lines for a few experiments.

        A row per class, then the mean and what else is known about it.
        """
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
                [row.name, *map(with_interval, row.scores), percent(row.paper), *differences]
            )
        for name, *values in zip(
            ("mean AP", "n_train", "n_test", "seconds"),
            *map(_details, self.mean.scores),
            strict=True,
        ):
            lines.append([name, *values, "", *("" for _ in numbers)])
        for name in self._extra():
            if any(score is not None and name in score.extra for score in self.mean.scores):
                values = [_extra_text(score, name) for score in self.mean.scores]
                lines.append([name.replace("_", " "), *values, "", *("" for _ in numbers)])
        return lines

    def _means(self) -> Lines:
        """Make the header and lines for many experiments: one row for each."""
        lines = [["experiment", "mean", "paper", "diff", "AP", "n_train", "n_test", "seconds"]]
        for number, (column, score) in enumerate(zip(self.columns, self.mean.scores, strict=True)):
            ours = [
                with_interval(score),
                percent(self.mean.paper),
                percent(self.mean.difference(number), sign=True),
            ]
            lines.append([column.label, *ours, *_details(score)])
        return lines


def spread_of(scores: Iterable[ClassScore]) -> str:
    """Name the kind of bounds that scores have.

    They are intervals for a single run, and standard errors over several seeds.
    """
    several = {score.n_seeds > 1 for score in scores}
    named = {False: "95 % intervals", True: "standard error over seeds"}
    return ", or ".join(named[kind] for kind in sorted(several)) or named[False]


def safe_name(label: str) -> str:
    """Replace what MLflow refuses in the name of a metric."""
    return re.sub(r"[^A-Za-z0-9_.:-]+", "_", label)


def with_interval(score: ClassScore | None) -> str:
    """Format a ROCAUC with its interval; over several seeds, with its standard error."""
    if score is None:
        return "-"
    value, low, high = map(percent, score.rocauc)
    if score.n_seeds > 1:
        return f"{value} ({percent(score.rocauc.high - score.rocauc.value)})"
    return f"{value} [{low}, {high}]"


def _extra_text(score: ClassScore | None, name: str) -> str:
    """Format an accuracy as a percentage, or the value of a parameter that was chosen."""
    value = None if score is None else score.extra.get(name)
    if value is None:
        return ""
    return f"{value:.4g}" if name.startswith("chosen_") else percent(value)


def _details(score: ClassScore | None) -> list[str]:
    """Format average precision, numbers of images, and seconds."""
    if score is None:
        return ["-"] * 4
    counts = (
        "varies" if count is None else f"{count:,}" for count in (score.n_train, score.n_test)
    )
    return [percent(score.average_precision), *counts, f"{score.seconds:.2f}"]
