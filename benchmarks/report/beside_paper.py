"""From finished cells to the table with a row a class: the numbers, the paper's beside them, and what must be said of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.contracts import Cell, Experiment, Interval, Result
from benchmarks.report.class_table import ClassTable, Entry, Row
from benchmarks.report.columns import make_columns, settings
from benchmarks.report.published import PAPER, group_of, published, published_rows
from benchmarks.report.table import percent

PAPER_ENCODER = "resnet101"
"""What the paper's DN2 rows were computed with (arXiv 2002.10445, section 4)."""

SAID = ("dataset", "protocol", "detector", "variant")
"""Parameters that the title says."""


def class_table(cells: Sequence[Cell], definitions: Mapping[str, str]) -> ClassTable:
    """Set cells that differ in parameters side by side, and beside what the paper prints.

    The mean is left out for a cell that lacks a row the others have. The paper's mean is over the classes shown: the printed
    one if those are all, else the mean of their printed values.

    Parameters
    ----------
    cells : sequence of Cell
        Of one data set, protocol, detector, variant and partition, one result a class.
    definitions : mapping of protocol to text
    """
    experiments = [cell.experiment for cell in cells]
    first = experiments[0]
    results = [{result.class_name: result for result in cell.results} for cell in cells]
    classes = list(dict.fromkeys(name for of_cell in results for name in of_cell))
    kind = [first.dataset, first.protocol, first.detector, first.variant]
    printed = published(*kind) if first.partition == "test" else {}
    rows = tuple(
        Row(
            name,
            tuple(_entry(_interval(of_cell[name]), [of_cell[name]]) if name in of_cell else None for of_cell in results),
            printed.get(name),
        )
        for name in classes
    )
    mean = Row(
        "mean",
        tuple(
            _entry(cell.mean, cell.results) if cell.mean is not None and len(of_cell) == len(classes) else None
            for cell, of_cell in zip(cells, results, strict=True)
        ),
        _published_mean(printed, set(classes), experiments),
    )
    columns = make_columns(experiments, SAID)
    title = f"ROCAUC of {' '.join(filter(None, kind[2:]))} on {kind[0]}, {kind[1]}"
    notes = [f"{name}: {text}." for name, text in definitions.items() if name == first.protocol]
    metric = "rocauc_validation" if first.partition == "validation" else "rocauc"
    return ClassTable(title, settings(experiments, SAID), columns, (*notes, *_notes(experiments, rows, mean)), rows, mean, metric)


def _interval(result: Result) -> Interval:
    return Interval(*(result.metrics[name] for name in ("rocauc", "rocauc_low", "rocauc_high")))


def _entry(rocauc: Interval, results: Sequence[Result]) -> Entry:
    """One result, or the mean of several."""
    n_train, n_test = {result.n_train for result in results}, {result.n_test for result in results}
    return Entry(
        rocauc=rocauc,
        average_precision=sum(one.metrics["average_precision"] for one in results) / len(results),
        prevalence=sum(one.metrics["prevalence"] for one in results) / len(results),
        n_train=n_train.pop() if len(n_train) == 1 else None,
        n_test=n_test.pop() if len(n_test) == 1 else None,
        seconds=sum(one.fit_seconds + one.score_seconds for one in results) / len(results),
    )


def _published_mean(printed: Mapping[str, float], shown: set[str], experiments: list[Experiment]) -> float | None:
    """Find the paper's mean over the classes shown, or None if it does not print what that takes."""
    classes = printed.keys() - {"mean"}
    if shown == classes or not (classes or any(experiment.classes for experiment in experiments)):
        return printed.get("mean")
    return sum(sorted(printed[name] for name in shown)) / len(shown) if shown <= classes else None


def _notes(experiments: list[Experiment], rows: Sequence[Row], mean: Row) -> Iterator[str]:
    """Say what a reader must know to read the numbers."""
    first = experiments[0]
    yield "Percent, with 95 % intervals: DeLong's for a class; for the mean, a bootstrap over the test images."
    shares = [entry.prevalence for row in rows for entry in row.entries if entry is not None]
    low, high = percent(min(shares)), percent(max(shares))
    share = low if low == high else f"{low} to {high}"
    yield f"AP: average precision, anomalies as positives; chance is their share of the test images, {share} %."
    yield "seconds: fit and score of one class, without features; cells sharing a search each show all of it."
    if mean.paper is None and not any(row.paper is not None for row in rows):
        yield f"paper: {PAPER} prints no number for this."
        return
    kind = (PAPER, first.dataset, first.protocol, first.detector, first.variant)
    printed = [row for row in published_rows() if group_of(row) == kind]
    yield f"paper: {PAPER}, {', '.join(dict.fromkeys(row['where'] for row in printed))}."
    used = {row.name for row in rows if row.paper is not None}
    all_shown = mean.paper is not None and used >= {row["class_name"] for row in printed} - {"mean"}
    for row in printed:
        if row["note"] and (row["class_name"] in used or (row["class_name"] == "mean" and all_shown)):
            yield f"paper's {row['class_name']}: {row['note']}."
    if mean.paper is not None and not all_shown:
        yield f"paper's mean: over the {len(rows)} classes shown."
    ours = list(dict.fromkeys(str(experiment.params["encoder"]) for experiment in experiments))
    if first.detector == "dn2" and ours != [PAPER_ENCODER]:
        yield f"The paper used {PAPER_ENCODER}, ours is {', '.join(ours)}: the differences are the network's too."
    if first.detector == "dn2" and any(experiment.normalize != "none" for experiment in experiments):
        yield "The paper's DN2 is normalize=none."
