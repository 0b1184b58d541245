"""Each format writes what a report holds, whatever its names are."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest

from benchmarks.contracts import Interval, OutsideError
from benchmarks.report.document import html_page as page_module
from benchmarks.report.document.html_page import html_page
from benchmarks.report.document.latex_text import latex_table, latex_tables
from benchmarks.report.document.markdown_text import markdown_page, markdown_table
from benchmarks.report.document.parts import (
    ClassBars,
    Document,
    Entry,
    Gallery,
    Grid,
    Histograms,
    Lines,
    Picture,
    PictureRow,
    Ranks,
    RocCurves,
    Section,
    TradeOff,
)
from benchmarks.report.document.plotted import as_files, draw
from benchmarks.report.document.table_files import csv_table
from benchmarks.report.document.vega import methods_of, panels_of, specification

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><!--",
    r"100 %_&#{}$~^\ ",
    "`a` *b* | [c](d)",
    "\"quotes' and \u2028 lines\n\nmore",
    "$x_1$ {{ 7*7 }}",
    "=cmd()",
]
PNG = Picture(b"\x89PNG", "image/png", HOSTILE[0], HOSTILE[4])


def grid(names=HOSTILE):
    rows = tuple(
        (Entry(name), Entry("91.3 [91.0, 91.6]", 0.913, best=True, runs=("a" * 32,)), Entry(name))
        for name in names
    )
    return Grid(
        "t-runs",
        names[0],
        ("method", names[2], "command"),
        (False, True, False),
        rows,
        tuple(names),
        lists_runs=True,
    )


def charts(names=(HOSTILE[0], HOSTILE[5])):
    """Make a chart of each kind, with few names: drawing takes time."""
    value = Interval(0.9, 0.8, 0.95)
    return (
        ClassBars("bars", names[0], tuple(names), {n: [value] * len(names) for n in names}),
        Lines(
            "lines",
            names[1],
            names[0],
            {n: {1: value, 20: value} for n in names},
            {1: names[-1], 20: "'"},
            "se",
        ),
        RocCurves("roc", names[0], {n: {m: [(0, 0), (1, 1)] for m in names} for n in names}),
        Histograms("scores", names[0], {n: ([0, 1, 2], [0.5, 0.5], [0, 1]) for n in names}),
        TradeOff("speed", names[1], {n: (10.0 + i, 0.9, "all") for i, n in enumerate(names)}),
        Ranks("ranks", names[1], {n: 1.0 + i for i, n in enumerate(names)}, 1.5, 4),
    )


def document(names=HOSTILE, parts=None):
    gallery = Gallery(names[0], names[1], {names[2]: (PictureRow("row 1", PNG, (PNG,)),)})
    parts = (grid(names), *charts(names[:2]), gallery) if parts is None else parts
    section = Section("s", names[0], tuple(names), parts, tuple(names), tuple(names))
    return Document(names[0], tuple(names), (section,), {"a" * 32: "#/experiments/1/runs/a"})


@pytest.fixture
def without_library(monkeypatch):
    """Leave the library out, which takes seconds to put together: the browser tests have it."""
    monkeypatch.setattr(page_module, "library", lambda: "/* </script> */")


class Reader(HTMLParser):
    """Collect the elements, the texts and the scripts of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.texts, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.texts.append(data)


def read(text):
    reader = Reader()
    reader.feed(text)
    return reader


def check_nothing_from_elsewhere(page):
    addresses = [value for name, value in read(page).attributes if name in ("src", "href")]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "default-src 'none'" in page
    assert "@import" not in page
    assert set(re.findall(r"url\((.)", page)) <= {"#"}


def test_no_name_becomes_markup_of_the_page_which_needs_nothing_from_elsewhere(without_library):
    pages = [html_page(document(names)) for names in (list("abcdefg"), HOSTILE)]
    check_nothing_from_elsewhere(pages[1])
    usual, hostile = (read(re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)) for page in pages)
    assert hostile.tags == usual.tags
    assert not [name for name, _ in hostile.attributes if name.startswith("on")]
    for name in HOSTILE:
        assert any(" ".join(name.split()) in " ".join(text.split()) for text in hostile.texts)
    data = next(text for text in hostile.texts if text.startswith('{"bars"'))
    assert set(json.loads(data)) == {"bars", "lines", "roc", "scores", "speed"}


def test_runs_are_links_where_the_server_is_known(without_library):
    made = document(parts=(grid(),))
    assert "python -m benchmarks ui" in html_page(made)
    served = Document(made.title, made.about, made.sections, made.run_paths, "http://host:5000/")
    page = html_page(served)
    assert 'href="http://host:5000/#/experiments/1/runs/a"' in page
    assert "python -m benchmarks ui" not in page


def test_a_page_that_is_too_large_is_refused(without_library, monkeypatch):
    monkeypatch.setattr(page_module, "MOST_BYTES", 10_000)
    with pytest.raises(OutsideError, match="report on fewer runs with --filter"):
        html_page(document(parts=(grid(),)))


def test_no_name_becomes_markup_of_markdown():
    table = markdown_table(grid())
    for line in table.splitlines():
        assert len(re.findall(r"(?<!\\)\|", line)) == 4
    assert "<script>" not in re.sub(r"`[^`]*`", "", markdown_page(document()))
    assert "**91.3 \\[91.0, 91.6\\]**" in table
    assert r"100 %\_\&\#\{\}\$\~^\\" in table


def test_no_name_becomes_markup_of_latex():
    table = latex_table(grid())
    body = table[table.index("\\midrule") : table.index("\\bottomrule")]
    assert r"100 \%\_\&\#\{\}\$\textasciitilde{}\textasciicircum{}\textbackslash{}" in body
    assert "\\textbf{91.3 [91.0, 91.6]}" in body
    assert "command" not in table  # a paper has no room for it
    left = re.sub(r"\\[%_&#{}$]|\\[a-zA-Z]+\{\}|\\\\|\\[a-z]+rule|\\textbf", "", body)
    assert set(re.findall(r"[%_#$~^\\<>|]", left)) == set()
    assert [line.count("&") for line in left.splitlines() if "&" in line] == [1] * len(HOSTILE)
    assert set(latex_tables(document())) == {"t-runs", "all"}


def test_csv_has_the_numbers_unrounded_and_no_formula():
    header, *rows = csv.reader(io.StringIO(csv_table(grid())))
    assert header == ["method", HOSTILE[2], f"{HOSTILE[2]}, value", "command"]
    assert [float(row[2]) for row in rows] == [0.913] * len(HOSTILE)
    assert rows[-1][0] == "'=cmd()"
    assert [row[0] for row in rows[:-1]] == HOSTILE[:-1]


@pytest.mark.parametrize("chart", charts(), ids=lambda chart: chart.name)
def test_a_chart_can_be_drawn_for_a_paper(chart):
    files = as_files(chart)
    if isinstance(chart, Histograms):
        assert draw(chart) is None
        assert files == {}
    else:
        assert files["svg"].startswith(b"<?xml")
        assert files["pdf"].startswith(b"%PDF")


@pytest.mark.parametrize("chart", charts()[:-1], ids=lambda chart: chart.name)
def test_a_chart_has_what_a_reader_can_switch(chart):
    spec = specification(chart)
    params = {param["name"]: param.get("value") for param in spec["params"]}
    assert params.pop("hidden") == []
    assert params == ({"panel": panels_of(chart)[0]} if panels_of(chart) else {})
    assert methods_of(chart)
