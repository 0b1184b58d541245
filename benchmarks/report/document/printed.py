"""The tables of README and docs/results.md, made of the small files of results.

A page has markers, and each table between them is written anew::

    <!--table:NAME-->
    | ... |
    <!--end-->

``tables.toml`` beside the files of results says what a table shows: its rows and columns, each with
a label and what its numbers must have. A field is the one number that has all that its row and its
column ask for. A setting that neither names has its usual value.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contracts import UsageError
from benchmarks.report.document.measured import (
    MEAN,
    Measured,
    Score,
    setting_text,
    usual_settings,
)
from benchmarks.report.document.paper_sections import score_text
from benchmarks.report.published import published
from benchmarks.report.tables import percent

DEFINITIONS = "tables.toml"

MARKED = re.compile(r"(?P<begin><!--table:(?P<name>[\w-]+)-->\n).*?(?P<end><!--end-->)", re.DOTALL)

OWN = ("dataset", "protocol", "detector", "variant", "preset", "seeds", "selection")
"""What a row or column may ask for besides settings, ``class_name``, ``x`` and ``published``."""


@dataclass(frozen=True)
class Line:
    """A row or a column of a table: its label, and what its numbers must have."""

    label: str
    where: Mapping[str, Any]


@dataclass(frozen=True)
class Definition:
    """What a table shows.

    Attributes
    ----------
    name, corner : str
        The corner stands above the labels of the rows.
    rows, columns : tuple of Line
    where : dict
        What all numbers must have.
    decimals : int
    intervals : bool
        Whether numbers have their intervals beside them.
    text : bool
        A block of plain text, not a table of Markdown.
    """

    name: str
    corner: str
    rows: tuple[Line, ...]
    columns: tuple[Line, ...]
    where: Mapping[str, Any]
    decimals: int = 1
    intervals: bool = False
    text: bool = False


def read_definitions(file: Path) -> dict[str, Definition]:
    """Read what tables show.

    Raises
    ------
    UsageError
        If the file is missing or not as described.
    """
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        return {name: _definition(name, table) for name, table in content.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{file} does not define tables ({error}): see docs/report.md.") from error


def _definition(name: str, table: Mapping[str, Any]) -> Definition:
    return Definition(
        name,
        table.get("corner", ""),
        _lines(table["rows"]),
        _lines(table["columns"]),
        table.get("where", {}),
        table.get("decimals", 1),
        table.get("intervals", False),
        table.get("text", False),
    )


def _lines(given: Any) -> tuple[Line, ...]:
    """Read a list of labels with conditions, or a name with its values: ``{x = [10, 25]}``."""
    if isinstance(given, list):
        return tuple(
            Line(line["label"], {n: v for n, v in line.items() if n != "label"}) for line in given
        )
    ((name, values),) = given.items()
    return tuple(Line(_label(name, value), {name: value}) for value in values)


def _label(name: str, value: Any) -> str:
    return f"{value:,}" if name == "x" and isinstance(value, int) else str(value)


def printed_page(
    text: str, measured: Sequence[Measured], definitions: Mapping[str, Definition]
) -> str:
    """Write each marked table of a page anew.

    Raises
    ------
    UsageError
        If a marker names no table, or a field has no number, or two.
    """

    def table(found: re.Match[str]) -> str:
        name = found["name"]
        if name not in definitions:
            raise UsageError(f"no table '{name}': {DEFINITIONS} has {', '.join(definitions)}.")
        return f"{found['begin']}{printed_table(definitions[name], measured)}{found['end']}"

    return MARKED.sub(table, text)


def printed_table(definition: Definition, measured: Sequence[Measured]) -> str:
    """Write a table: of Markdown, or as a block of text."""
    fields = [
        [_field(definition, row, column, measured) for column in definition.columns]
        for row in definition.rows
    ]
    header = [definition.corner, *(column.label for column in definition.columns)]
    lines = [header] + [
        [row.label, *of_row] for row, of_row in zip(definition.rows, fields, strict=True)
    ]
    if not definition.text:
        written = [f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines]
        return "\n".join([written[0], "|---" * len(header) + "|", *written[1:]]) + "\n"
    widths = [max(len(line[place]) for line in lines) for place in range(len(header))]
    written = [
        "  ".join(
            [line[0].ljust(widths[0])]
            + [field.rjust(width) for field, width in zip(line[1:], widths[1:], strict=True)]
        ).rstrip()
        for line in lines
    ]
    if definition.rows[-1].where.get("class_name") == MEAN:
        written.insert(-1, "")
    return "```text\n" + "".join(f"{line}\n" for line in written) + "```\n"


def _field(definition: Definition, row: Line, column: Line, measured: Sequence[Measured]) -> str:
    where = {"class_name": MEAN, **definition.where, **row.where, **column.where}
    class_name = str(where.pop("class_name"))
    if "text" in where:
        return str(where["text"])
    if (source := where.pop("published", None)) is not None:
        value = _published(definition, where, class_name, source)
        return "not printed" if value is None else percent(value, decimals=definition.decimals)
    score = find_score(
        measured, where, class_name, f"{definition.name}: {row.label}, {column.label}"
    )
    if definition.intervals:
        return score_text(score, definition.decimals)
    return percent(score.rocauc, decimals=definition.decimals)


def _published(
    definition: Definition, where: Mapping[str, Any], class_name: str, source: str
) -> float | None:
    """Return a published number; a mean over some classes is taken over those of the table."""
    printed = published(
        where["dataset"], where["protocol"], where["detector"], where.get("variant"), source
    )
    lines = (*definition.rows, *definition.columns)
    shown = {line.where["class_name"] for line in lines if "class_name" in line.where} - {MEAN}
    if class_name == MEAN and shown and shown < printed.keys() - {MEAN}:
        return sum(printed[name] for name in sorted(shown)) / len(shown)
    return printed.get(class_name)


def find_score(
    measured: Sequence[Measured], where: Mapping[str, Any], class_name: str, what: str
) -> Score:
    """Find the one score that has all that is asked for; measured here before taken over.

    Raises
    ------
    UsageError
        If there is none, or several that differ.
    """
    wanted = dict(where)
    x = wanted.pop("x", None)
    found = [
        (one.source != "run", score)
        for one in measured
        if _has(one, wanted)
        for score in one.scores
        if score.class_name == class_name
        and (score.x == x or (x == "all" and _is_last(one, score)))
    ]
    best = [score for taken_over, score in found if taken_over == min(t for t, _ in found)]
    if len(best) != 1:
        how = f"{len(best)} numbers have" if best else "no number has"
        asked = ", ".join(
            f"{name}={value}" for name, value in {**where, "class_name": class_name}.items()
        )
        raise UsageError(f"table {what}: {how} {asked}.")
    return best[0]


def _is_last(one: Measured, score: Score) -> bool:
    return score.x == max(other.x for other in one.scores if other.x is not None)


def _has(one: Measured, wanted: Mapping[str, Any]) -> bool:
    """Tell whether a result has what is asked for, and usual values of everything else."""
    for name in OWN:
        if name in wanted and str(getattr(one, name)) != str(wanted[name]):
            return False
    if "variant" not in wanted and one.variant != "none":
        return False
    asked = {name: value for name, value in wanted.items() if name not in OWN}
    usual = usual_settings(one)
    for name in {*asked, *one.settings}:
        value = one.settings.get(name, usual.get(name))
        if setting_text(value) != setting_text(asked.get(name, usual.get(name, value))):
            return False
    return True
