"""Tables of results and the published numbers: what a run prints, logs and draws.

tables.py        what all tables have in common: output, columns, seeds, sweeps
class_table.py   one row per class, then the mean, compared with the paper
beside_paper.py  how that table is made from finished runs
curves.py        one row per value of x: means over classes and draws
methods.py       all methods side by side, and which are really worse than the best
differences.py   a comparison of runs: differences, what follows, ranks
notes.py         notes on presets, seeds, hindsight and approximation
published.py     the published numbers
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from benchmarks.contracts import Cell, Experiment, UsageError
from benchmarks.metrics import Resampled
from benchmarks.report.beside_paper import class_table
from benchmarks.report.class_table import ClassRow, ClassScore, ClassTable, safe_name
from benchmarks.report.published import PublishedRow, published, published_rows
from benchmarks.report.tables import Column, Table, is_curve, percent

__all__ = [
    "ClassRow",
    "ClassScore",
    "ClassTable",
    "Column",
    "PublishedRow",
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
    cells: Sequence[Cell],
    definitions: Mapping[str, str] = NO_DEFINITIONS,
    resampled: Callable[[str], Resampled | None] = lambda _: None,
) -> dict[str, Table]:
    """Make one `result_table` for each set of comparable runs.

    Each table is named after what its runs share; the name is safe as a file name. Curves share
    data set, protocol and partition. Other runs also share detector and variant, because the
    published numbers do. If there are several detectors or variants, a table of all methods is
    added.

    Parameters
    ----------
    cells : sequence of Cell
        Finished runs.
    definitions : mapping of protocol to text
        Printed with the numbers.
    resampled : callable
        From a cell's key to its mean under many weightings of the test images. It is called for
        the cells of a table of all methods, which marks the differences that are real.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault("-".join(_shared_by_table(cell)), []).append(cell)
    tables = {safe_name(name): result_table(group, definitions) for name, group in groups.items()}
    subjects: dict[str, list[ClassTable]] = {}
    for table in tables.values():
        if isinstance(table, ClassTable):
            subjects.setdefault(f"{table.subject}, {table.metric}", []).append(table)
    for name, group in subjects.items():
        if len(group) > 1:
            from benchmarks.report.methods import method_table

            tables[safe_name(f"methods, {name}")] = method_table(group, resampled)
    return tables


def result_table(cells: Sequence[Cell], definitions: Mapping[str, str] = NO_DEFINITIONS) -> Table:
    """Make a table of one finished run, or of several that can be compared.

    It is a `curves.CurveTable` if the runs have several x or draws.

    Parameters
    ----------
    cells : sequence of Cell
        Runs of one data set, protocol and partition; if each row is a class, also of one detector
        and variant.
    definitions : mapping of protocol to text
        Printed with the numbers.

    Raises
    ------
    UsageError
        If there are no runs, or they cannot be compared; `result_tables` separates them.
    """
    found = list(dict.fromkeys(" ".join(_shared_by_table(cell)) for cell in cells))
    if len(found) != 1:
        rule = "data set, protocol, partition and, unless it is a curve, detector and variant"
        raise UsageError(
            f"the runs of a table must share {rule}, got {'; '.join(found) or 'no run'}: "
            "make one table for each."
        )
    if not is_curve(cells[0]):
        return class_table(cells, definitions)

    from benchmarks.report.curves import curve_table

    return curve_table(cells, definitions)


def summary_points(tables: Mapping[str, Table]) -> list[tuple[str, float, int]]:
    """Collect the points of all tables.

    If several tables have points, each metric's name includes the table's, so that none overwrites
    another.
    """
    each = {name: points for name, table in tables.items() if (points := table.points())}
    if len(each) < 2:
        return [point for points in each.values() for point in points]
    return [
        ("/".join([metric.split("/")[0], table, *metric.split("/")[1:]]), value, step)
        for table, points in each.items()
        for metric, value, step in points
    ]


def _shared_by_table(cell: Cell) -> list[str]:
    """Name what the runs of one table share, without the usual values."""
    experiment: Experiment = cell.experiment
    method = () if is_curve(cell) else (experiment.detector, experiment.variant)
    words = (experiment.dataset, experiment.protocol, *method, experiment.partition)
    return [word for word in words if word not in ("", "test")]
