"""Plots as matplotlib figures.

They are made without pyplot, so they touch no global state and need no window system. Values come
in as fractions and are drawn as percentages. Colour-blind readers can tell the colours apart (the
palette of Okabe and Ito).
"""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

ValueWithInterval = tuple[float, float, float]
"""Value, lower and upper bound."""

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
PAPER_COLOUR = "#B8B8B8"
MARKERS = "osD^vP"
LINES = ("-", "--", ":")
"""Line styles: solid until the colours are used up."""
CHARACTERS_PER_INCH = 13
"""Characters per inch in the legend and on the axes, at 9 points."""
LONGEST_RANKED_LABEL = 25
"""Longer names of methods beside their ranks are broken."""
LONGEST_FLAT_LABEL = 12
"""Longer class names are slanted."""


def class_bars(
    title: str,
    names: Sequence[str],
    series: Mapping[str, Sequence[ValueWithInterval | None]],
    paper: Sequence[float | None],
    whiskers: str,
) -> Figure:
    """Draw ROCAUC as bars, one group per class.

    Whiskers show the bounds. The paper's bar stands at the end of each group.

    Parameters
    ----------
    title : str
    names : sequence of n str
        The classes, and ``mean`` if wanted.
    series : mapping of label to n values
        One bar per label in every group. Each value comes with its bounds; None leaves a gap.
    paper : sequence of n float or None
        The published values. If all are None, they are neither drawn nor named in the legend.
    whiskers : str
        What the bounds are, for the axis label.
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
            yerr=[
                [m - one for m, one in zip(middle, low, strict=True)],
                [one - m for m, one in zip(middle, high, strict=True)],
            ],
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
    drawn = [
        bound
        for values in series.values()
        for value in values
        if value is not None
        for bound in value
    ]
    _percent_axis(axes, [*drawn, *(value for value in paper if value is not None)])
    axes.set_ylabel(f"{axes.get_ylabel()}\nwhiskers: {whiskers}")
    axes.set_xticks(
        range(len(names)),
        names,
        rotation=35 if slanted else 0,
        ha="right" if slanted else "center",
        parse_math=False,
    )
    axes.set_xlim(-0.6, len(names) - 0.4)
    _add_legend(figure)
    return figure


def curves(
    title: str,
    x_label: str,
    ticks: Mapping[float, str],
    series: Mapping[str, Mapping[float, ValueWithInterval]],
    bars: str,
    paper: float | None = None,
    *,
    names: bool = False,
) -> Figure:
    """Draw mean ROCAUC against a number or a name, one line per label.

    Bars show the bounds. The x axis is logarithmic if all its values are positive and the largest
    is at least ten times the smallest.

    Parameters
    ----------
    title : str
    x_label : str
    ticks : mapping of x to text
        How each value of x is written. Where numbers would overlap, some are left out.
    series : mapping of label to {x: value with bounds}
    bars : str
        What the bounds are, for the axis label.
    paper : float, optional
        The published value, drawn as a horizontal line.
    names : bool
        True if the ticks are names: all of them are written, slanted where they would overlap.
    """
    figure, axes = _new_figure(title, width_inches=8.0)
    for number, (label, values) in enumerate(series.items()):
        xs = sorted(values)
        middle, low, high = ([100 * values[x][part] for x in xs] for part in range(3))
        axes.errorbar(
            xs,
            middle,
            yerr=[
                [m - one for m, one in zip(middle, low, strict=True)],
                [one - m for m, one in zip(middle, high, strict=True)],
            ],
            label=label,
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            linestyle=LINES[number // len(COLOURS) % len(LINES)],
            markersize=5,
            linewidth=1.5,
            elinewidth=1,
            capsize=3,
        )
    drawn = [bound for values in series.values() for value in values.values() for bound in value]
    if paper is not None:
        axes.axhline(100 * paper, color="black", linestyle="--", linewidth=1, label="paper")
        drawn.append(paper)
    has_bars = any(low < high for values in series.values() for _, low, high in values.values())
    bottom, top = 100 * min(drawn), 100 * max(drawn)
    margin = max(0.1 * (top - bottom), 0.2)
    axes.set_ylim(bottom - margin, min(top + margin, 100.2))
    axes.set_ylabel(f"mean ROCAUC (%)\nbars: {bars}" if has_bars else "mean ROCAUC (%)")
    if 0 < 10 * min(ticks) <= max(ticks):
        axes.set_xscale("log")
    readable = _readable(ticks, axes)
    if names and len(readable) < len(ticks):
        axes.set_xticks(sorted(ticks), [ticks[x] for x in sorted(ticks)], rotation=35, ha="right")
        figure.set_figheight(figure.get_figheight() + 0.5)
    else:
        axes.set_xticks(readable, [ticks[x] for x in readable])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(x_label)
    _add_legend(figure)
    return figure


def front(
    title: str,
    x_label: str,
    dots: Sequence[tuple[float, float]],
    best: Sequence[tuple[float, float, str]],
) -> Figure:
    """Draw ROCAUC against its cost: a dot per trial, and the Pareto front.

    The cost axis is logarithmic. The trials that no other trial beats are joined by a line and
    named.

    Parameters
    ----------
    title, x_label : str
    dots : sequence of (cost above 0, ROCAUC)
    best : sequence of (cost, ROCAUC, name)
        The Pareto front.
    """
    figure, axes = _new_figure(title, width_inches=8.0)
    axes.plot(
        [x for x, _ in dots],
        [100 * y for _, y in dots],
        "o",
        color=PAPER_COLOUR,
        markersize=4,
        label="trials",
    )
    ordered = sorted(best)
    axes.plot(
        [x for x, _, _ in ordered],
        [100 * y for _, y, _ in ordered],
        "o-",
        color=COLOURS[0],
        label="Pareto front",
    )
    for x, y, name in ordered:
        axes.annotate(name, (x, 100 * y), xytext=(4, 6), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    ticks = {x: f"{x:,.0f}" for x, _ in dots}
    readable = _readable(ticks, axes)
    axes.set_xticks(readable, [ticks[x] for x in readable])
    axes.set_xlabel(x_label)
    axes.set_ylabel("mean ROCAUC (%)")
    axes.margins(x=0.15, y=0.1)
    _add_legend(figure)
    return figure


def critical_difference(
    title: str, mean_ranks: Mapping[str, float], critical: float, n_datasets: int
) -> Figure:
    """Draw the mean ranks of methods on a line, the best on the left.

    A bar joins methods whose mean ranks differ by less than the critical difference: between them,
    no real difference is shown.

    Parameters
    ----------
    title : str
    mean_ranks : mapping of label to mean rank
    critical : float
    n_datasets : int

    References
    ----------
    Demsar, Journal of Machine Learning Research 7 (2006), section 3.2.4.
    """
    labels = sorted(mean_ranks, key=lambda label: mean_ranks[label])
    ranks = [mean_ranks[label] for label in labels]
    bars = [
        (first, last)
        for first in range(len(ranks))
        for last in [max(one for one, rank in enumerate(ranks) if rank - ranks[first] < critical)]
        if last > first
        and not any(
            before < first and ranks[last] - ranks[before] < critical for before in range(first)
        )
    ]
    named = [
        "\n".join(textwrap.wrap(f"{label} ({rank:.2f})", LONGEST_RANKED_LABEL))
        for label, rank in zip(labels, ranks, strict=True)
    ]
    height = max(name.count("\n") for name in named) + 1.0
    half = (len(labels) + 1) // 2  # the better half is named on the left
    base = -0.5 * (len(bars) + 1)
    low, high = 1.0, float(len(labels))
    margin = 0.5 * (high - low)
    figure, axes = _new_figure(title, width_inches=8.0)
    figure.set_figheight(1.0 + 0.22 * (2.5 - base + half * height))
    axes.set_axis_off()
    axes.set_xlim(low - margin, high + margin)
    axes.set_ylim(base - half * height, 2.5)
    axes.plot([low, high], [0, 0], color="black", linewidth=1)
    for tick in range(1, len(labels) + 1):
        axes.plot([tick, tick], [0, 0.2], color="black", linewidth=1)
        axes.annotate(f"{tick}", (tick, 0.3), ha="center", va="bottom", fontsize=9)
    axes.plot([low, low + critical], [1.9, 1.9], color=COLOURS[5], linewidth=2, marker="|")
    axes.annotate(
        f"critical difference {critical:.2f}, mean ranks over {n_datasets} data sets (1 is best)",
        (low, 2.1),
        va="bottom",
        fontsize=9,
    )
    for depth, (first, last) in enumerate(bars, start=1):
        ends = [ranks[first] - 0.02 * margin, ranks[last] + 0.02 * margin]
        axes.plot(ends, [-0.5 * depth] * 2, color="black", linewidth=4, solid_capstyle="butt")
    for number, (name, rank) in enumerate(zip(named, ranks, strict=True)):
        on_left = number < half
        level = base - ((number if on_left else len(labels) - 1 - number) + 0.5) * height
        edge = low - 0.05 * margin if on_left else high + 0.05 * margin
        axes.plot([rank, rank, edge], [0, level, level], color=COLOURS[0], linewidth=1)
        axes.annotate(
            name,
            (edge, level),
            xytext=(-3 if on_left else 3, 0),
            textcoords="offset points",
            ha="right" if on_left else "left",
            va="center",
            fontsize=9,
            parse_math=False,  # a name may hold a dollar sign
        )
    return figure


def roc_curves(
    title: str, panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]
) -> Figure:
    """Draw ROC curves, a small plot for each class.

    Parameters
    ----------
    title : str
    panels : mapping of class to {label: points (false alarms, hits)}
        Fractions in [0, 1].
    """
    n_columns = min(4, len(panels))
    n_rows = math.ceil(len(panels) / n_columns)
    figure, first = _new_figure(title, width_inches=2.2 * max(n_columns, 3))
    figure.set_figheight(0.9 + 2.1 * n_rows)
    first.set_axis_off()
    figure.suptitle(first.get_title(loc="left"), fontsize=11)
    figure.delaxes(first)
    labels = list(dict.fromkeys(label for curves_of in panels.values() for label in curves_of))
    for number, (name, curves_of) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(n_rows, n_columns, number)
        axes.set_title(name, fontsize=9, parse_math=False)
        axes.plot([0, 100], [0, 100], color=PAPER_COLOUR, linewidth=0.8)
        for label, points in curves_of.items():
            place = labels.index(label)
            axes.plot(
                [100 * x for x, _ in points],
                [100 * y for _, y in points],
                label=label,
                color=COLOURS[place % len(COLOURS)],
                linestyle=LINES[place // len(COLOURS) % len(LINES)],
                linewidth=1.2,
            )
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        axes.tick_params(labelsize=7)
    figure.supxlabel("normal images above the threshold (%)", fontsize=9)
    figure.supylabel("anomalies above the threshold (%)", fontsize=9)
    _add_legend(figure)
    return figure


def trade_off(title: str, points: Mapping[str, tuple[float, float]]) -> Figure:
    """Draw ROCAUC against speed, a marker for each method.

    Parameters
    ----------
    title : str
    points : mapping of label to (images a second above 0, ROCAUC)
    """
    figure, axes = _new_figure(title, width_inches=8.0)
    for number, (label, (rate, rocauc)) in enumerate(points.items()):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number // len(COLOURS) % 6]
        axes.plot([rate], [100 * rocauc], marker, color=colour, label=label)
    axes.set_xscale("log")
    axes.set_xlabel("test images a second")
    axes.set_ylabel("mean ROCAUC (%)")
    axes.margins(x=0.1, y=0.1)
    _add_legend(figure)
    return figure


def drawn_by_pyplot(plot: Callable[[], Axes]) -> Figure:
    """Return the figure of a plot that another library draws through pyplot.

    Pyplot then forgets the figure, and its style settings are restored. Long tick labels are
    written vertically.
    """
    import matplotlib
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure = plot().figure
        pyplot.close("all")
    assert isinstance(figure, Figure)
    for axes in figure.axes:
        if (
            sum(len(label.get_text()) for label in axes.get_xticklabels())
            > CHARACTERS_PER_INCH * figure.get_figwidth()
        ):
            # Names joined with + are too long to be written side by side.
            axes.tick_params(axis="x", labelrotation=90)
    return figure


def _as_written(figure: Figure) -> None:
    """Show titles and labels as they are written: a dollar sign in a name begins no formula."""
    texts = [text for legend in figure.legends for text in legend.get_texts()]
    for axes in figure.axes:
        texts += [axes.xaxis.label, axes.yaxis.label]
    for text in [*texts, *figure.texts]:
        text.set_parse_math(False)


def _readable(ticks: Mapping[float, str], axes: Axes) -> list[float]:
    """Choose the values whose tick labels can be written without overlap.

    From the left, each value is taken that is far enough from the last one taken.
    """
    xs = sorted(ticks)
    scaled = [math.log(x) for x in xs] if axes.get_xscale() == "log" else xs
    inches = 6.5 / ((scaled[-1] - scaled[0]) or 1.0)
    taken: list[float] = []
    end = -math.inf
    for x, place in zip(xs, scaled, strict=True):
        half = 0.5 * len(ticks[x]) / CHARACTERS_PER_INCH
        if place * inches - half > end:
            taken.append(x)
            end = place * inches + half + 0.05
    return taken


def _new_figure(title: str, width_inches: float) -> tuple[Figure, Axes]:
    """Make a figure of one plot, drawn by Agg, with a light grid behind the data.

    The title is broken into lines that fit.
    """
    # The title starts at the axis, and its letters are larger than the labels'.
    wide = int(0.8 * (width_inches - 1) * CHARACTERS_PER_INCH)
    lines = [line for part in title.splitlines() for line in textwrap.wrap(part, wide)]
    figure = Figure(figsize=(width_inches, 3.8 + 0.2 * len(lines)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title("\n".join(lines), loc="left", fontsize=11, pad=10, parse_math=False)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _add_legend(figure: Figure) -> None:
    """Write the labels below the plot, the paper's last, in as many columns as fit.

    The figure grows to make room for rows beyond the first.
    """
    handles, labels = figure.axes[0].get_legend_handles_labels()
    ordered = sorted(zip(handles, labels, strict=True), key=lambda pair: pair[1] == "paper")
    fit = int(figure.get_figwidth() * CHARACTERS_PER_INCH / (max(map(len, labels)) + 6))
    n_rows = math.ceil(len(labels) / max(1, min(4, fit)))
    figure.set_figheight(figure.get_figheight() + 0.2 * (n_rows - 1))
    n_columns = math.ceil(len(labels) / n_rows)
    figure.legend(
        *zip(*ordered, strict=True),
        loc="outside lower center",
        ncols=n_columns,
        frameon=False,
        fontsize=9,
    )
    _as_written(figure)


def _percent_axis(axes: Axes, values: Iterable[float]) -> None:
    """Start the axis at 50 %, which is chance, or lower if a value lies below.

    So no bar is cut off.
    """
    lowest = min(values, default=0.5)
    axes.set_ylim(50 if lowest >= 0.5 else 10 * math.floor(10 * lowest), 100)
    axes.set_ylabel("ROCAUC (%), 50 is chance")
