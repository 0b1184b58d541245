"""Plots as matplotlib figures, made without pyplot, so that no global state is touched and no window system is needed.

Values come in as fractions and are drawn in percent. The colours (Okabe and Ito) can be told apart by
colour-blind readers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

ValueWithInterval = tuple[float, float, float]
"""Value, lower and upper bound."""

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
PAPER_COLOUR = "#B8B8B8"
MARKERS = "osD^vP"
LONGEST_FLAT_LABEL = 12
"""Longer class names are slanted."""


def class_bars(
    title: str, names: Sequence[str], series: Mapping[str, Sequence[ValueWithInterval | None]], paper: Sequence[float | None]
) -> Figure:
    """Draw ROCAUC as bars, one group a class, with intervals as whiskers and the paper's bar at the end of each group.

    Parameters
    ----------
    title : str
    names : sequence of n str
        The classes, and ``mean`` if wanted.
    series : mapping of label to n values
        Each with its bounds, or None where there is none: one bar a label in every group.
    paper : sequence of n float or None
        The published values. Not drawn, nor in the legend, if all are None.
    """
    has_paper = any(value is not None for value in paper)
    n_bars = len(series) + has_paper
    width = 0.84 / n_bars
    longest = max(map(len, names))
    slanted = longest > LONGEST_FLAT_LABEL
    group_inches = max(0.3 + 0.14 * n_bars, 0 if slanted else 0.09 * longest)
    figure, axes = _new_figure(title, width_inches=max(8.0, 1.2 + len(names) * group_inches))
    for number, (label, values) in enumerate(series.items()):
        there = [(place, value) for place, value in enumerate(values) if value is not None]
        middle, low, high = ([100 * value[part] for _, value in there] for part in range(3))
        axes.bar(
            [place + (number - (n_bars - 1) / 2) * width for place, _ in there],
            middle,
            width,
            label=label,
            color=COLOURS[number % len(COLOURS)],
            yerr=[[m - one for m, one in zip(middle, low, strict=True)], [one - m for m, one in zip(middle, high, strict=True)]],
            error_kw={"elinewidth": 1, "capsize": 1.5},
        )
    if has_paper:
        there_paper = [(place, value) for place, value in enumerate(paper) if value is not None]
        axes.bar(
            [place + (len(series) - (n_bars - 1) / 2) * width for place, _ in there_paper],
            [100 * value for _, value in there_paper],
            width,
            label="paper",
            color=PAPER_COLOUR,
        )
    drawn = [bound for values in series.values() for value in values if value is not None for bound in value]
    _percent_axis(axes, [*drawn, *(value for value in paper if value is not None)])
    axes.set_xticks(range(len(names)), names, rotation=35 if slanted else 0, ha="right" if slanted else "center")
    axes.set_xlim(-0.6, len(names) - 0.4)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def rocauc_by_k(title: str, series: Mapping[str, Mapping[int, ValueWithInterval]], paper: float | None = None) -> Figure:
    """Draw mean ROCAUC against the number of neighbours, one line a label, intervals as bands.

    Parameters
    ----------
    title : str
    series : mapping of label to {k: value with bounds}
    paper : float, optional
        The published value, drawn as a level line.
    """
    figure, axes = _new_figure(title, width_inches=8.0)
    for number, (label, values) in enumerate(series.items()):
        ks = sorted(values)
        colour = COLOURS[number % len(COLOURS)]
        marker = MARKERS[number % len(MARKERS)]
        axes.plot(ks, [100 * values[k][0] for k in ks], marker=marker, markersize=5, color=colour, label=label)
        axes.fill_between(
            ks, [100 * values[k][1] for k in ks], [100 * values[k][2] for k in ks], color=colour, alpha=0.15, linewidth=0
        )
    drawn = [bound for values in series.values() for value in values.values() for bound in value]
    if paper is not None:
        axes.axhline(100 * paper, color="black", linestyle="--", linewidth=1, label="paper")
        drawn.append(paper)
    bottom, top = 100 * min(drawn), 100 * max(drawn)
    margin = max(0.1 * (top - bottom), 0.2)
    axes.set_ylim(bottom - margin, min(top + margin, 100.2))
    axes.set_ylabel("mean ROCAUC (%)")
    axes.set_xscale("log")
    ticks = sorted({k for values in series.values() for k in values})
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("neighbours k")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _new_figure(title: str, width_inches: float) -> tuple[Figure, Axes]:
    """Make a figure of one plot, light grid behind the data, drawn by Agg."""
    figure = Figure(figsize=(width_inches, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11, pad=10)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _percent_axis(axes: Axes, values: Iterable[float]) -> None:
    """Let bars stand on chance, 50 %, or lower where a value lies below, so that no bar is cut."""
    lowest = min(values, default=0.5)
    axes.set_ylim(50 if lowest >= 0.5 else 10 * math.floor(10 * lowest), 100)
    axes.set_ylabel("ROCAUC (%), 50 is chance")
