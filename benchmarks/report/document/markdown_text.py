"""Tables of a report as Markdown."""

from __future__ import annotations

import re

from benchmarks.report.document.parts import Document, Entry, Grid

SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&])")


def markdown_page(document: Document) -> str:
    """Write a report as Markdown: its texts and tables, and what is missing."""
    lines = [f"# {escape(document.title)}", "", *map(escape, document.about), ""]
    for section in document.sections:
        lines += [f"## {escape(section.title)}", ""]
        for text in section.text:
            lines += [escape(text), ""]
        for part in section.parts:
            if isinstance(part, Grid):
                lines += [f"**{escape(part.title)}**", "", markdown_table(part)]
                for note in part.notes:
                    lines += [escape(note), ""]
        for text in section.missing:
            lines += [f"*{escape(text)}*", ""]
        for command in section.commands:
            lines += [_code(command), ""]
    return "\n".join(lines).rstrip() + "\n"


def markdown_table(grid: Grid) -> str:
    """Write a table as Markdown; the best numbers are bold, commands are code."""
    rule = ["---:" if numeric else "---" for numeric in grid.numeric]
    lines = [list(map(escape, grid.header)), rule]
    lines += [[_field(entry) for entry in row] for row in grid.rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _field(entry: Entry) -> str:
    if entry.code and entry.text:
        return _code(entry.text).replace("|", "\\|")
    text = escape(entry.text)
    return f"**{text}**" if entry.best else text


def _code(text: str) -> str:
    """Write code between as many backquotes as it needs."""
    one_line = " ".join(text.split())
    longest = max((len(run) for run in re.findall("`+", one_line)), default=0)
    ticks = "`" * (longest + 1)
    space = " " if "`" in one_line else ""
    return f"{ticks}{space}{one_line}{space}{ticks}"


def escape(text: str) -> str:
    """Escape what Markdown or HTML would take for markup."""
    return (
        SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("\\<", "&lt;").replace("\\>", "&gt;")
    )
