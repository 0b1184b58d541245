"""From finished cells to the table with a row a class: the numbers, the paper's beside them, and what must be said of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.contracts import Cell, Experiment, Interval, Result
from benchmarks.detectors import DETECTORS
from benchmarks.report import notes
from benchmarks.report.class_table import ClassTable, Entry, Row
from benchmarks.report.published import PAPER, group_of, published, published_rows
from benchmarks.report.tables import (
    join_seeds,
    label_seeds,
    make_columns,
    mean_of_seeds,
    percent,
    settings,
)

PAPER_ENCODER = "resnet101"
"""What the paper's DN2 rows were computed with (arXiv 2002.10445, section 4)."""

ENTRY = ("rocauc", "rocauc_low", "rocauc_high", "average_precision", "prevalence")
"""Metrics of every result, which have their own places."""

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
    groups = join_seeds(cells)
    experiments = [group[0].experiment for group in groups]
    first = experiments[0]
    results = [_by_class(group) for group in groups]
    classes = list(dict.fromkeys(name for of_group in results for name in of_group))
    kind = [first.dataset, first.protocol, first.detector, first.variant]
    printed = (
        published(kind[0], kind[1], kind[2], _printed_variant(first))
        if first.partition == "test"
        else {}
    )
    rows = tuple(
        Row(
            name,
            tuple(_entry(of_group[name]) if name in of_group else None for of_group in results),
            printed.get(name),
        )
        for name in classes
    )
    mean = Row(
        "mean",
        tuple(
            _mean_entry(group) if len(of_group) == len(classes) else None
            for group, of_group in zip(groups, results, strict=True)
        ),
        _published_mean(printed, set(classes), experiments),
    )
    unsaid = (*SAID, "seed") if any(len(group) > 1 for group in groups) else SAID
    columns = label_seeds(make_columns(experiments, unsaid), groups)
    method, subject = first.method, f"{kind[0]}, {kind[1]}"
    said = [f"{name}: {text}." for name, text in definitions.items() if name == first.protocol]
    said += [
        *notes.hindsight([group[0] for group in groups]),
        *notes.budgets(experiments),
        *notes.approximation(experiments),
        *_notes(groups, experiments, rows, mean),
    ]
    metric = "rocauc_validation" if first.partition == "validation" else "rocauc"
    return ClassTable(
        title=f"ROCAUC of {method} on {subject}",
        settings=settings(experiments, unsaid),
        columns=columns,
        notes=tuple(dict.fromkeys(said)),
        method=method,
        subject=subject,
        rows=rows,
        mean=mean,
        metric=metric,
    )


def _printed_variant(experiment: Experiment) -> str:
    """Return the variant's name in ``published.csv``: where the paper names none, it means the detector's default one."""
    printed = published(
        experiment.dataset, experiment.protocol, experiment.detector, experiment.variant
    )
    is_default = experiment.variant == DETECTORS[experiment.detector].default_variant
    return "" if is_default and not printed else experiment.variant


def _by_class(group: Sequence[Cell]) -> dict[str, list[Result]]:
    """Class -> its result in each cell, one a seed."""
    found: dict[str, list[Result]] = {}
    for cell in group:
        for result in cell.results:
            found.setdefault(result.class_name, []).append(result)
    return found


def _interval(result: Result) -> Interval:
    return Interval(*(result.metrics[name] for name in ("rocauc", "rocauc_low", "rocauc_high")))


def _entry(of_seeds: Sequence[Result]) -> Entry:
    """One class's results, one a seed."""
    values = [_interval(result) for result in of_seeds]
    rocauc = values[0] if len(values) == 1 else mean_of_seeds([one.value for one in values])
    extra = {name: value for name, value in _means(of_seeds).items() if name not in ENTRY}
    return _fill(rocauc, of_seeds, len(values), extra)


def _mean_entry(group: Sequence[Cell]) -> Entry | None:
    """The mean over classes of each seed; what an oracle chose for each class has none."""
    means = [cell.mean for cell in group if cell.mean is not None]
    if len(means) < len(group):
        return None
    rocauc = means[0] if len(means) == 1 else mean_of_seeds([one.value for one in means])
    results = [result for cell in group for result in cell.results]
    extra = {
        name: value
        for name, value in _means(results).items()
        if name not in ENTRY and not name.startswith("chosen_")
    }
    return _fill(rocauc, results, len(means), extra)


def _fill(
    rocauc: Interval, results: Sequence[Result], n_seeds: int, extra: Mapping[str, float]
) -> Entry:
    n_train, n_test = {result.n_train for result in results}, {result.n_test for result in results}
    means = _means(results)
    return Entry(
        rocauc=rocauc,
        average_precision=means["average_precision"],
        prevalence=means["prevalence"],
        n_train=n_train.pop() if len(n_train) == 1 else None,
        n_test=n_test.pop() if len(n_test) == 1 else None,
        seconds=sum(one.fit_seconds + one.score_seconds for one in results) / len(results),
        n_seeds=n_seeds,
        extra=extra,
    )


def _means(results: Sequence[Result]) -> dict[str, float]:
    """Mean of each metric that all results have."""
    names = [
        name for name in results[0].metrics if all(name in result.metrics for result in results)
    ]
    return {name: sum(result.metrics[name] for result in results) / len(results) for name in names}


def _published_mean(
    printed: Mapping[str, float], shown: set[str], experiments: list[Experiment]
) -> float | None:
    """Find the paper's mean over the classes shown, or None if it does not print what that takes."""
    classes = printed.keys() - {"mean"}
    if shown == classes or not (classes or any(experiment.classes for experiment in experiments)):
        return printed.get("mean")
    return sum(sorted(printed[name] for name in shown)) / len(shown) if shown <= classes else None


def _notes(
    groups: list[list[Cell]], experiments: list[Experiment], rows: Sequence[Row], mean: Row
) -> Iterator[str]:
    """Say what a reader must know to read the numbers."""
    first = experiments[0]
    yield from notes.seeds(groups, "in brackets the standard error")
    if any(len(group) == 1 for group in groups):
        yield (
            "Percent, with 95 % intervals: DeLong's for a class (Clopper-Pearson's at 0 and 100); for the mean, a bootstrap "
            "over the test images."
        )
    shares = [entry.prevalence for row in rows for entry in row.entries if entry is not None]
    low, high = percent(min(shares)), percent(max(shares))
    share = low if low == high else f"{low} to {high}"
    yield f"AP: average precision, anomalies as positives; chance is their share of the test images, {share} %."
    yield "seconds: fit and score of one class, without features; cells sharing a search each show all of it."
    if mean.paper is None and not any(row.paper is not None for row in rows):
        yield f"paper: {PAPER} prints no number for this."
        return
    kind = (PAPER, first.dataset, first.protocol, first.detector, _printed_variant(first))
    printed = [row for row in published_rows() if group_of(row) == kind]
    yield f"paper: {PAPER}, {', '.join(dict.fromkeys(row['where'] for row in printed))}."
    used = {row.name for row in rows if row.paper is not None}
    all_shown = mean.paper is not None and used >= {row["class_name"] for row in printed} - {"mean"}
    for row in printed:
        if row["note"] and (
            row["class_name"] in used or (row["class_name"] == "mean" and all_shown)
        ):
            yield f"paper's {row['class_name']}: {row['note']}."
    if mean.paper is not None and not all_shown:
        yield f"paper's mean: over the {len(rows)} classes shown."
    ours = list(dict.fromkeys(str(experiment.params["encoder"]) for experiment in experiments))
    if first.detector == "dn2" and ours != [PAPER_ENCODER]:
        yield f"The paper used {PAPER_ENCODER}, ours is {', '.join(ours)}: the differences are the network's too."
    if first.detector == "dn2" and any(
        experiment.normalize != "none" for experiment in experiments
    ):
        yield "The paper's DN2 is normalize=none."
