"""A report as one HTML file that needs no network: styles, scripts, charts and pictures inside."""

from __future__ import annotations

import base64
import json
from importlib.resources import files
from typing import Any

from benchmarks.contracts import OutsideError
from benchmarks.report.document.parts import (
    Document,
    Entry,
    Gallery,
    Grid,
    Picture,
    Ranks,
)
from benchmarks.report.document.plotted import as_svg
from benchmarks.report.document.vega import (
    colours_of,
    library,
    methods_of,
    packed,
    panels_of,
    specification,
)

MOST_BYTES = 5_000_000
"""A page is not larger than this, so that it can be sent by mail and opens at once."""

ID_SHOWN = 8


def html_page(document: Document) -> str:
    """Write a report as an HTML page.

    Every text is escaped. Charts come as data, which a script draws when the page is open; without
    scripts the tables are still there.

    Raises
    ------
    OutsideError
        If the library that draws charts is not installed, or the page would be too large.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.tests["grid"] = lambda part: isinstance(part, Grid)
    environment.tests["gallery"] = lambda part: isinstance(part, Gallery)
    environment.filters["data_url"] = _data_url
    environment.filters["sort_key"] = _sort_key
    environment.globals["links"] = lambda entry: _links(document, entry)
    folder = files("benchmarks.report.document")
    text = {
        name: folder.joinpath(name).read_text(encoding="utf-8")
        for name in ("page.html", "page.css", "page.js")
    }
    charts: dict[str, dict[str, Any]] = {}
    drawn: dict[str, Markup] = {}
    for chart in document.charts:
        if isinstance(chart, Ranks):
            drawn[chart.name] = Markup(as_svg(chart))
            continue
        colours = colours_of(methods_of(chart))
        spec = specification(chart)
        assert spec is not None
        spec["datasets"] = {name: packed(rows) for name, rows in spec["datasets"].items()}
        charts[chart.name] = {
            "spec": spec,
            "methods": colours,
            "panels": panels_of(chart),
        }
    page = environment.from_string(text["page.html"]).render(
        document=document,
        charts=charts,
        drawn=drawn,
        style=Markup(text["page.css"]),
        script=Markup(text["page.js"]),
        library=Markup(_in_script(library()) if charts else ""),
        data=Markup(_as_data(charts)),
    )
    size = len(page.encode())
    if size > MOST_BYTES:
        raise OutsideError(
            f"the page would take {size / 1e6:.1f} MB, more than {MOST_BYTES / 1e6:g}: "
            "report on fewer runs with --filter."
        )
    return page


def _as_data(value: Any) -> str:
    """Write JSON that may stand in a script element, whatever is in its texts."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _in_script(code: str) -> str:
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _data_url(picture: Picture) -> str:
    return f"data:{picture.media};base64,{base64.b64encode(picture.content).decode()}"


def _sort_key(entry: Entry) -> str:
    return "" if entry.value is None else repr(float(entry.value))


def _links(document: Document, entry: Entry) -> list[tuple[str, str, str]]:
    """Return the short id, the whole id and the address, if known, of each run of an entry."""
    base = document.server.rstrip("/")
    return [
        (
            run[:ID_SHOWN],
            run,
            f"{base}/{document.run_paths[run]}" if base and run in document.run_paths else "",
        )
        for run in entry.runs
    ]
