"""Charts as Vega-Lite specifications, made with Altair, and the library that draws them.

A specification has no colours of its own for text and axes: the page sets them, light or dark. The
parameter ``hidden`` holds the methods that a reader has switched off, and ``panel`` the class that
is shown; the page has buttons and a menu for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from benchmarks.contracts import OutsideError
from benchmarks.figures import COLOURS, PAPER_COLOUR
from benchmarks.report.document.parts import (
    Chart,
    ClassBars,
    Histograms,
    Lines,
    Ranks,
    RocCurves,
    TradeOff,
)

MORE_COLOURS = ("#7B61A8", "#8C6D31", "#17A2A2", "#B5485D", "#6B8E23", "#777777")
"""After those of the figures, for charts of more than six methods."""

VEGA_LITE = "6.4"
"""The version of the library that is put into the page; Altair writes for it."""

CHANCE = 50.0


def colours_of(methods: Sequence[str]) -> dict[str, str]:
    """Give each method a colour; a published number is grey."""
    palette = (*COLOURS, *MORE_COLOURS)
    ours = [name for name in methods if not name.startswith("published ")]
    return {
        name: palette[ours.index(name) % len(palette)] if name in ours else PAPER_COLOUR
        for name in methods
    }


def methods_of(chart: Chart) -> list[str]:
    """List what a reader can switch off, in the order of the legend."""
    if isinstance(chart, ClassBars):
        return [*chart.series, *chart.published]
    if isinstance(chart, Lines):
        return list(chart.series)
    if isinstance(chart, RocCurves):
        return list(dict.fromkeys(name for one in chart.panels.values() for name in one))
    if isinstance(chart, TradeOff):
        return list(chart.points)
    if isinstance(chart, Histograms):
        return ["normal images", "anomalies"]
    return []


def panels_of(chart: Chart) -> list[str]:
    """List what a reader can choose to see, one at a time."""
    return list(chart.panels) if isinstance(chart, RocCurves | Histograms) else []


def specification(chart: Chart) -> dict[str, Any] | None:
    """Return the Vega-Lite specification of a chart; None for one that is drawn elsewhere."""
    if isinstance(chart, Ranks):
        return None
    makers: dict[type, Any] = {
        ClassBars: _class_bars,
        Lines: _lines,
        RocCurves: _roc_curves,
        Histograms: _histograms,
        TradeOff: _trade_off,
    }
    made = makers[type(chart)](chart)
    spec: dict[str, Any] = made.to_dict()
    del spec["config"]  # the page has colours of its own
    return spec


def packed(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return rows of equal names as columns; text that repeats is written once.

    A column is a list of numbers, or ``[texts, place of each row's text]``. It takes a quarter of
    the room, and the page's script unpacks it.
    """
    columns: dict[str, Any] = {}
    for name in rows[0] if rows else ():
        values = [row[name] for row in rows]
        if isinstance(values[0], str):
            texts = {text: place for place, text in enumerate(dict.fromkeys(values))}
            columns[name] = [list(texts), [texts[value] for value in values]]
        else:
            columns[name] = values
    return columns


@cache
def library() -> str:
    """Return the JavaScript of Vega, Vega-Lite and vega-embed, to be put into a page.

    Raises
    ------
    OutsideError
        If it is not installed.
    """
    try:
        import vl_convert

        text: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE)
    except (ImportError, ValueError) as error:
        raise OutsideError(
            f"the library that draws charts is missing ({error}): pip install vl-convert-python"
        ) from error
    return text


def _alt() -> Any:
    try:
        import altair
    except ImportError as error:
        raise OutsideError(
            f"the library that draws charts is missing ({error}): pip install altair"
        ) from error
    return altair


def _base(rows: Iterable[Mapping[str, Any]], panels: Sequence[str] = ()) -> Any:
    alt = _alt()
    chart = alt.Chart(alt.InlineData(values=list(rows)))
    chart = chart.add_params(alt.param(name="hidden", value=[]))
    if panels:
        chart = chart.add_params(alt.param(name="panel", value=panels[0]))
        chart = chart.transform_filter("datum.panel == panel")
    return chart.transform_filter("indexof(hidden, datum.method) < 0")


def _coloured(methods: Sequence[str], **how: Any) -> Any:
    alt = _alt()
    colours = colours_of(methods)
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    return alt.Color("method:N", scale=scale, legend=None, **how)


def _finish(layers: Any, height: int = 300) -> Any:
    return layers.properties(width="container", height=height)


def _p(fraction: float) -> float:
    return round(100 * fraction, 4)


def _class_bars(chart: ClassBars) -> Any:
    alt = _alt()
    rows: list[dict[str, Any]] = []
    for method, values in chart.series.items():
        for name, value in zip(chart.names, values, strict=True):
            if value is not None:
                rows.append(
                    {
                        "method": method,
                        "class": name,
                        "ROCAUC": _p(value.value),
                        "low": _p(value.low),
                        "high": _p(value.high),
                    }
                )
    for method, printed in chart.published.items():
        rows += [
            {
                "method": method,
                "class": name,
                "ROCAUC": _p(value),
                "low": _p(value),
                "high": _p(value),
            }
            for name, value in zip(chart.names, printed, strict=True)
            if value is not None
        ]
    for row in rows:
        row["chance"] = CHANCE
    methods = methods_of(chart)
    lowest = min((float(row["low"]) for row in rows), default=CHANCE)
    y = alt.Scale(domain=[min(CHANCE, 5 * (lowest // 5)), 100], zero=False, clamp=True)
    base = _base(rows).encode(
        x=alt.X("class:N", sort=list(chart.names), title=None, axis=alt.Axis(labelAngle=-40)),
        xOffset=alt.XOffset("method:N", sort=methods),
        tooltip=["method:N", "class:N", "ROCAUC:Q", "low:Q", "high:Q"],
    )
    bars = base.mark_bar(cursor="pointer").encode(
        y=alt.Y("ROCAUC:Q", scale=y, title="ROCAUC (%), 50 is chance"),
        y2="chance:Q",
        color=_coloured(methods),
    )
    whiskers = base.mark_rule(strokeWidth=1).encode(
        y=alt.Y("low:Q", scale=y, title=""), y2="high:Q"
    )
    return _finish(bars + whiskers, 320)


def _lines(chart: Lines) -> Any:
    alt = _alt()
    rows = [
        {
            "method": method,
            "x": x,
            "at": chart.texts.get(x, str(x)),
            "ROCAUC": _p(value.value),
            "low": _p(value.low),
            "high": _p(value.high),
        }
        for method, values in chart.series.items()
        for x, value in sorted(values.items())
    ]
    xs = sorted(chart.texts)
    is_log = bool(xs) and 0 < 10 * xs[0] <= xs[-1]
    named = "{" + ",".join(f"'{x:g}':{_js(text)}" for x, text in chart.texts.items()) + "}"
    x = alt.X(
        "x:Q",
        title=chart.x_label,
        scale=alt.Scale(type="log", nice=False) if is_log else alt.Scale(zero=False, nice=False),
        axis=alt.Axis(
            values=xs,
            labelExpr=f"({named})[format(datum.value, '.6~g')] || datum.label",
            labelOverlap=True,
            grid=False,
        ),
    )
    y = alt.Scale(zero=False)
    methods = methods_of(chart)
    tooltip = [
        "method:N",
        alt.Tooltip("at:N", title=chart.x_label),
        "ROCAUC:Q",
        alt.Tooltip("low:Q", title=f"low ({chart.spread})"),
        alt.Tooltip("high:Q", title="high"),
    ]
    base = _base(rows).encode(x=x, color=_coloured(methods), tooltip=tooltip)
    bands = base.mark_area(opacity=0.18).encode(y=alt.Y("low:Q", scale=y), y2="high:Q")
    lines = base.mark_line(strokeWidth=2).encode(
        y=alt.Y("ROCAUC:Q", scale=y, title="mean ROCAUC (%)")
    )
    dots = base.mark_point(filled=True, size=45, opacity=1).encode(y=alt.Y("ROCAUC:Q", scale=y))
    return _finish(bands + lines + dots)


def _js(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _roc_curves(chart: RocCurves) -> Any:
    alt = _alt()
    rows = [
        {"panel": panel, "method": method, "n": n, "false alarms": _p(x), "hits": _p(y)}
        for panel, curves in chart.panels.items()
        for method, points in curves.items()
        for n, (x, y) in enumerate(points)
    ]
    base = _base(rows, panels_of(chart)).encode(
        x=alt.X("false alarms:Q", title="normal images above the threshold (%)"),
        y=alt.Y("hits:Q", title="anomalies above the threshold (%)"),
        color=_coloured(methods_of(chart)),
        order="n:Q",
        tooltip=["method:N", "false alarms:Q", "hits:Q"],
    )
    dots = base.mark_point(filled=True, size=40, opacity=0.01)
    return _finish(base.mark_line(strokeWidth=2) + dots, 340)


def _histograms(chart: Histograms) -> Any:
    alt = _alt()
    rows = []
    for panel, (edges, normal, anomalous) in chart.panels.items():
        for kind, shares in (("normal images", normal), ("anomalies", anomalous)):
            rows += [
                {"panel": panel, "method": kind, "from": low, "to": high, "share": _p(share)}
                for low, high, share in zip(edges[:-1], edges[1:], shares, strict=True)
                if share
            ]
    base = _base(rows, panels_of(chart))
    bars = base.mark_bar(opacity=0.6, binSpacing=0).encode(
        x=alt.X("from:Q", bin="binned", title="score", scale=alt.Scale(zero=False)),
        x2="to:Q",
        y=alt.Y("share:Q", stack=None, title="share of the images (%)"),
        color=_coloured(["normal images", "anomalies"]),
        tooltip=["method:N", "from:Q", "to:Q", "share:Q"],
    )
    return _finish(bars, 260)


def _trade_off(chart: TradeOff) -> Any:
    alt = _alt()
    rows = [
        {"method": method, "rate": float(f"{rate:.4g}"), "ROCAUC": _p(rocauc), "covers": covers}
        for method, (rate, rocauc, covers) in chart.points.items()
    ]
    marks = (
        _base(rows)
        .mark_point(filled=True, size=90, opacity=0.9)
        .encode(
            x=alt.X(
                "rate:Q",
                scale=alt.Scale(type="log", nice=False, padding=30),
                title="test images a second",
                axis=alt.Axis(tickCount=6, labelOverlap=True),
            ),
            y=alt.Y("ROCAUC:Q", scale=alt.Scale(zero=False), title="mean ROCAUC (%)"),
            color=_coloured(methods_of(chart)),
            shape=alt.Shape("covers:N", title=None, legend=alt.Legend(orient="top")),
            tooltip=[
                "method:N",
                "ROCAUC:Q",
                alt.Tooltip("rate:Q", title="images a second"),
                "covers:N",
            ],
        )
    )
    return _finish(marks)
