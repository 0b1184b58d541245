"""Results beside the published numbers: the table that a run prints, logs and draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.contracts import Cell, Experiment, Interval, Result, UsageError
from benchmarks.report.published import PAPER, PublishedRow, group_of, published, published_rows
from benchmarks.report.table import Column, Entry, Row, Table, percent

__all__ = [
    "Column",
    "Entry",
    "PublishedRow",
    "Row",
    "Table",
    "percent",
    "published",
    "published_rows",
    "result_table",
    "result_tables",
]

PAPER_ENCODER = "resnet101"
"""What the paper's DN2 rows were computed with (arXiv 2002.10445, section 4)."""

SAID_ELSEWHERE = ("dataset", "protocol", "detector", "variant", "input")
USUAL = {"encoder": "none", "classes": "all", "partition": "test"}
"""Values that a title need not say."""


def result_tables(cells: Sequence[Cell]) -> dict[str, Table]:
    """Make one `result_table` for each data set, protocol, detector, variant and partition, named after them."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault("-".join(_said(cell.experiment)), []).append(cell)
    return {name: result_table(group) for name, group in groups.items()}


def result_table(cells: Sequence[Cell]) -> Table:
    """Set one finished cell, or several that differ in parameters, beside what the paper prints.

    The mean is left out for a cell that lacks a row the others have, and for a curve, whose points are not averaged. The paper's
    mean is over the classes shown: the printed one if those are all, else the mean of their printed values.

    Parameters
    ----------
    cells : sequence of Cell
        Of one data set, protocol, detector, variant and partition.

    Raises
    ------
    UsageError
        If there are none, or they are not comparable: `result_tables` separates them.
    """
    kinds = list(dict.fromkeys(_comparable(cell.experiment) for cell in cells))
    if len(kinds) != 1:
        found = "; ".join(" ".join(_said(cell.experiment)) for cell in cells) or "no cell"
        raise UsageError(f"a table needs cells of one data set, protocol, detector, variant and partition, got {found}.")
    experiments = [cell.experiment for cell in cells]
    results = [{result.split: result for result in cell.results} for cell in cells]
    splits = {name: result for of_cell in results for name, result in of_cell.items()}
    classes = {result.class_name for result in splits.values()}
    *kind, partition = kinds[0]
    printed = published(*kind) if partition == "test" else {}
    rows = tuple(
        Row(
            result.class_name if len(classes) == len(splits) else name,
            tuple(_entry(_interval(of_cell[name]), [of_cell[name]]) if name in of_cell else None for of_cell in results),
            printed.get(result.class_name) if result.x is None else None,
        )
        for name, result in splits.items()
    )
    mean = Row(
        "mean",
        tuple(
            _entry(cell.mean, cell.results) if cell.mean is not None and of_cell.keys() == splits.keys() else None
            for cell, of_cell in zip(cells, results, strict=True)
        ),
        _published_mean(printed, classes, experiments),
    )
    columns = _columns(experiments)
    title = f"ROCAUC of {' '.join(filter(None, kind[2:]))} on {kind[0]}, {kind[1]}"
    return Table(title, _settings(experiments, columns), columns, rows, mean, tuple(_notes(experiments, rows, mean)))


def _comparable(experiment: Experiment) -> tuple[str, ...]:
    return experiment.dataset, experiment.protocol, experiment.detector, experiment.variant, experiment.partition


def _said(experiment: Experiment) -> list[str]:
    """Name the same in words, without what is usual."""
    return [word for word in _comparable(experiment) if word not in ("", "test")]


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


def _params(experiment: Experiment) -> dict[str, Any]:
    params = {name: value for name, value in experiment.params.items() if name not in SAID_ELSEWHERE}
    return params if params["encoder"] != "none" else {**params, "input": experiment.input}


def _columns(experiments: list[Experiment]) -> tuple[Column, ...]:
    """Label each experiment by the parameters in which they differ; by its key too if that does not tell them apart."""
    each = [_params(experiment) for experiment in experiments]
    names = list(dict.fromkeys(name for params in each for name in params))
    varied = [name for name in names if len({str(params.get(name)) for params in each}) > 1]
    labels = [", ".join(f"{name}={params.get(name)}" for name in varied) or experiments[0].detector for params in each]
    if len(set(labels)) < len(labels):
        labels = [f"{label} {experiment.key[:6]}" for label, experiment in zip(labels, experiments, strict=True)]
    return tuple(
        Column(label, experiment.key, {name: params.get(name) for name in varied})
        for label, experiment, params in zip(labels, experiments, each, strict=True)
    )


def _settings(experiments: list[Experiment], columns: tuple[Column, ...]) -> str:
    """Name the parameters that are equal in all experiments, and say which are not."""
    varied = list(columns[0].params)
    params = _params(experiments[0])
    names = sorted(params, key="seed".__eq__)  # the seed last
    equal = ", ".join(f"{name}={params[name]}" for name in names if name not in varied and USUAL.get(name) != params[name])
    return f"{equal}; side by side: {', '.join(varied)}" if varied else equal


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
    printed = [row for row in published_rows() if group_of(row) == (PAPER, *_comparable(first)[:4])]
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
