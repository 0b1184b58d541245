"""What was run and what is missing: a matrix of data sets and protocols by detectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from benchmarks.contracts import UsageError
from benchmarks.datasets import DATASETS
from benchmarks.detectors import DETECTORS, entry_of
from benchmarks.protocols import PROTOCOLS
from benchmarks.report.document.measured import Measured
from benchmarks.report.document.parts import Entry, Grid, Section

Unfinished = Mapping[tuple[str, str, str], Mapping[str, int]]


def overview_section(
    measured: Sequence[Measured],
    unfinished: Unfinished,
    problems: Sequence[str],
    is_here: Callable[[str], bool] | None,
) -> Section:
    """Make the matrix of what was run, and list what is not whole.

    Parameters
    ----------
    measured : sequence of Measured
    unfinished : mapping
        (data set, protocol, detector) -> how many runs have not finished, by status.
    problems : sequence of str
    is_here : callable or None
        Whether a data set is on this disk; None if nobody knows.
    """
    counts: dict[tuple[str, str, str], int] = {}
    for one in measured:
        counts[*one.subject, one.detector] = counts.get((*one.subject, one.detector), 0) + 1
    found = [*counts, *unfinished]
    datasets = list(dict.fromkeys([*DATASETS, *(cell[0] for cell in found)]))
    datasets = [name for name in datasets if name != "synthetic" or name in {c[0] for c in found}]
    protocols = list(dict.fromkeys([*PROTOCOLS, *(cell[1] for cell in found)]))
    detectors = list(dict.fromkeys([*DETECTORS, *(cell[2] for cell in found)]))
    rows = []
    for dataset in datasets:
        for protocol in protocols:
            fields = [
                _field(counts.get(cell, 0), unfinished.get(cell, {}), cell)
                for cell in ((dataset, protocol, detector) for detector in detectors)
            ]
            rows.append((Entry(dataset), Entry(protocol), *fields))
    absent = [] if is_here is None else [name for name in datasets if not is_here(name)]
    notes = [
        "Numbers are finished runs, each with other settings. A dash is a cell that was not run; "
        "an empty one does not exist: only dn2_group takes groups, and nothing else.",
    ]
    if absent:
        notes.append(f"Not on this disk: {', '.join(absent)}.")
    grid = Grid(
        "matrix",
        "What was run: data sets and protocols by detectors",
        ("data set", "protocol", *detectors),
        (False, False, *(True for _ in detectors)),
        tuple(rows),
        tuple(notes),
    )
    n_cells = sum(any(entry.text == "-" for entry in row) for row in rows)
    text = [
        f"{len(measured)} results on {len({one.dataset for one in measured})} data sets, of "
        f"{len({one.detector for one in measured})} detectors."
    ]
    if not measured:
        text = ["There is no finished run here."]
    if n_cells and measured:
        text.append(f"Of {len(rows)} pairs of data set and protocol, {n_cells} have gaps.")
    missing = list(problems)
    commands = () if measured else ("python -m benchmarks run --dataset synthetic",)
    return Section("overview", "What was run", tuple(text), (grid,), tuple(missing), commands)


def _field(finished: int, unfinished: Mapping[str, int], cell: tuple[str, str, str]) -> Entry:
    words = [str(finished)] if finished else []
    words += [f"{count} {status.lower()}" for status, count in unfinished.items()]
    if words:
        return Entry(", ".join(words), finished)
    return Entry("-", 0) if _exists(cell) else Entry("")


def _exists(cell: tuple[str, str, str]) -> bool:
    """Tell whether a detector can run under a protocol."""
    _, protocol, detector = cell
    try:
        takes_groups = entry_of(detector).groups
    except UsageError:
        return True
    return protocol not in PROTOCOLS or PROTOCOLS[protocol].groups == takes_groups
