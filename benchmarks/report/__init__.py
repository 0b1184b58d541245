"""Results beside the published numbers: the tables that a run prints, logs and draws.

table.py         what every table is
class_table.py   a row a class, then the mean, the paper's numbers beside
beside_paper.py  how that table is made from finished cells
curves.py        a row a value of x: means over classes and draws
methods.py       all methods side by side
columns.py       how columns are labelled
seeds.py         cells that differ in the seed alone
said.py          what must be said of presets, seeds and hindsight
sweeps.py        experiments that differ in one number
published.py     the published numbers
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from benchmarks.contracts import Cell, Experiment, UsageError
from benchmarks.report.beside_paper import class_table
from benchmarks.report.class_table import ClassTable, Entry, Row, slug
from benchmarks.report.curves import CurveTable, Point, curve_table, is_curve
from benchmarks.report.methods import MethodTable, method_table
from benchmarks.report.published import PublishedRow, published, published_rows
from benchmarks.report.tables import Column, Table, percent

__all__ = [
    "ClassTable",
    "Column",
    "CurveTable",
    "Entry",
    "MethodTable",
    "Point",
    "PublishedRow",
    "Row",
    "Table",
    "percent",
    "published",
    "published_rows",
    "result_table",
    "result_tables",
    "summary_points",
]

NO_DEFINITIONS: Mapping[str, str] = MappingProxyType({})


def result_tables(
    cells: Sequence[Cell], definitions: Mapping[str, str] = NO_DEFINITIONS
) -> dict[str, Table]:
    """Make one `result_table` for each set of comparable cells, named after what they share; a name is fit for a file.

    Of curves, that is data set, protocol and partition; else also detector and variant, whose published numbers stand beside.
    Several detectors or variants then have a table of all methods besides.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault("-".join(_said(cell)), []).append(cell)
    tables = {slug(name): result_table(group, definitions) for name, group in groups.items()}
    subjects: dict[str, list[ClassTable]] = {}
    for table in tables.values():
        if isinstance(table, ClassTable):
            subjects.setdefault(f"{table.subject}, {table.metric}", []).append(table)
    joined = {
        slug(f"methods, {name}"): method_table(group)
        for name, group in subjects.items()
        if len(group) > 1
    }
    return {**tables, **joined}


def result_table(cells: Sequence[Cell], definitions: Mapping[str, str] = NO_DEFINITIONS) -> Table:
    """Set one finished cell, or several that can be compared, in a table: a `CurveTable` if they have several x or draws.

    Parameters
    ----------
    cells : sequence of Cell
        Of one data set, protocol and partition; where a row is a class, also of one detector and variant.
    definitions : mapping of protocol to text
        Printed with the numbers.

    Raises
    ------
    UsageError
        If there are none, or they are not comparable: `result_tables` separates them.
    """
    found = list(dict.fromkeys(" ".join(_said(cell)) for cell in cells))
    if len(found) != 1:
        rule = "one data set, protocol, detector (curves: any), variant and partition"
        raise UsageError(
            f"a table needs cells of {rule}, got {'; '.join(found) or 'no cell'}: make one table for each."
        )
    return (curve_table if is_curve(cells[0]) else class_table)(cells, definitions)


def summary_points(tables: Mapping[str, Table]) -> list[tuple[str, float, int]]:
    """Gather the tables' `Table.points`; of several, each metric's name says the table, so that none overwrites another's."""
    each = {name: points for name, table in tables.items() if (points := table.points())}
    if len(each) < 2:
        return [point for points in each.values() for point in points]
    return [
        ("/".join([metric.split("/")[0], table, *metric.split("/")[1:]]), value, step)
        for table, points in each.items()
        for metric, value, step in points
    ]


def _said(cell: Cell) -> list[str]:
    """Name what cells of one table share, without what is usual."""
    experiment: Experiment = cell.experiment
    method = () if is_curve(cell) else (experiment.detector, experiment.variant)
    words = (experiment.dataset, experiment.protocol, *method, experiment.partition)
    return [word for word in words if word not in ("", "test")]
