"""Charts of a report as matplotlib figures, for papers: SVG and PDF."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping

from benchmarks import figures
from benchmarks.contracts import Interval
from benchmarks.report.document.parts import (
    Chart,
    ClassBars,
    Histograms,
    Lines,
    Ranks,
    RocCurves,
    TradeOff,
)


def draw(chart: Chart) -> figures.Figure | None:
    """Draw a chart; None for one that has too many panels to stand in a paper."""
    if isinstance(chart, ClassBars):
        series: Mapping[str, list[Interval | None]] = {
            label: list(values) for label, values in chart.series.items()
        }
        paper = next(iter(chart.published.values()), [None] * len(chart.names))
        return figures.class_bars(chart.title, chart.names, series, paper, "95 % intervals")
    if isinstance(chart, Lines):
        return figures.curves(
            chart.title, chart.x_label, dict(chart.texts), chart.series, chart.spread
        )
    if isinstance(chart, Ranks):
        return figures.critical_difference(
            chart.title, chart.mean_ranks, chart.critical, chart.n_datasets
        )
    if isinstance(chart, RocCurves):
        return figures.roc_curves(chart.title, chart.panels)
    if isinstance(chart, TradeOff):
        points = {name: (rate, rocauc) for name, (rate, rocauc, _) in chart.points.items()}
        return figures.trade_off(chart.title, points)
    assert isinstance(chart, Histograms)
    return None


def as_svg(chart: Chart) -> str:
    """Draw a chart as an SVG element in the colour of the text around it."""
    figure = draw(chart)
    assert figure is not None
    content = io.StringIO()
    figure.savefig(
        content, format="svg", bbox_inches="tight", transparent=True, metadata={"Date": None}
    )
    text = content.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"#000000|#262626|\bblack\b", "currentColor", text)
    text = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text)
    )
    return text.replace("<svg", '<svg role="img" style="color:inherit;fill:currentColor"', 1)


def as_files(chart: Chart) -> dict[str, bytes]:
    """Draw a chart as SVG and as PDF; nothing for one that has too many panels."""
    figure = draw(chart)
    if figure is None:
        return {}
    made = {}
    for suffix, about in (("svg", {"Date": None}), ("pdf", {"CreationDate": None})):
        content = io.BytesIO()
        figure.savefig(content, format=suffix, bbox_inches="tight", metadata=about)
        made[suffix] = content.getvalue()
    return made
