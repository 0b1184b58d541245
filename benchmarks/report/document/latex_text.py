"""Tables of a report as LaTeX, with the package booktabs."""

from __future__ import annotations

import re

from benchmarks.report.document.parts import Document, Entry, Grid

CHARACTERS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "→": r"$\rightarrow$",
}

LEFT_OUT = ("command", "commit", "source", "date")
"""Columns that say how a number was made, which a paper's table has no room for."""


def latex_tables(document: Document) -> dict[str, str]:
    """Return name -> the LaTeX of each table, and ``all`` with a document that holds them all."""
    tables = {grid.name: latex_table(grid) for grid in document.grids if grid.rows}
    inputs = "".join(f"\\input{{{name}}}\n\\clearpage\n" for name in tables)
    tables["all"] = (
        "\\documentclass{article}\n\\usepackage[T1]{fontenc}\n\\usepackage[utf8]{inputenc}\n"
        "\\usepackage{booktabs,graphicx}\n\\begin{document}\n"
        f"\\title{{{escape(document.title)}}}\n\\maketitle\n{inputs}\\end{{document}}\n"
    )
    return tables


def latex_table(grid: Grid) -> str:
    """Write a table as a float: rules of booktabs, the best numbers bold, notes in the caption."""
    kept = [number for number, name in enumerate(grid.header) if name not in LEFT_OUT]
    columns = "".join("r" if grid.numeric[number] else "l" for number in kept)
    header = " & ".join(escape(grid.header[number]) for number in kept)
    body = "".join(
        f"    {' & '.join(_field(row[number]) for number in kept)} \\\\\n" for row in grid.rows
    )
    caption = " ".join([f"{escape(grid.title)}.", *map(escape, grid.notes)])
    return (
        "% \\usepackage{booktabs,graphicx}\n"
        "\\begin{table}\n"
        "  \\centering\n"
        f"  \\caption{{{caption}}}\n"
        f"  \\label{{tab:{grid.name}}}\n"
        "  \\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n"
        f"  \\begin{{tabular}}{{{columns}}}\n"
        "    \\toprule\n"
        f"    {header} \\\\\n"
        "    \\midrule\n"
        f"{body}"
        "    \\bottomrule\n"
        "  \\end{tabular}}\n"
        "\\end{table}\n"
    )


def _field(entry: Entry) -> str:
    text = escape(entry.text)
    return f"\\textbf{{{text}}}" if entry.best else text


def escape(text: str) -> str:
    """Escape what LaTeX would take for a command; other letters than its fonts have become "?"."""
    escaped = "".join(CHARACTERS.get(character, character) for character in " ".join(text.split()))
    escaped = re.sub(r"[^\x20-\x7e\u00a0-\u017f]", "?", escaped)
    return re.sub(r"^\[", "{[}", escaped)
