"""Make the table of one row per class from finished runs.

It holds the numbers, the paper's numbers next to them, and notes on both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.contracts import Cell, Experiment, Interval, Result
from benchmarks.detectors import entry_of
from benchmarks.report import notes
from benchmarks.report.class_table import ClassRow, ClassScore, ClassTable
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
"""The encoder behind the paper's DN2 rows (arXiv 2002.10445): known from memory only."""

SCORE_METRICS = ("rocauc", "rocauc_low", "rocauc_high", "average_precision", "prevalence")
"""Metrics that every result has and that have columns of their own."""

IN_TITLE = ("dataset", "protocol", "detector", "variant")
"""Parameters that the title names."""


def class_table(cells: Sequence[Cell], definitions: Mapping[str, str]) -> ClassTable:
    """Set runs that differ in parameters side by side, next to the paper's numbers.

    A run that lacks a row which others have gets no mean. The paper's mean is over the classes
    shown: if those are all classes, the printed mean, else the mean of their printed values.

    Parameters
    ----------
    cells : sequence of Cell
        Runs of one data set, protocol, detector, variant and partition, one result per class.
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
        ClassRow(
            name,
            tuple(_score(of_group[name]) if name in of_group else None for of_group in results),
            printed.get(name),
        )
        for name in classes
    )
    mean = ClassRow(
        "mean",
        tuple(
            _mean_score(group) if len(of_group) == len(classes) else None
            for group, of_group in zip(groups, results, strict=True)
        ),
        _published_mean(printed, set(classes), experiments),
    )
    hidden = (*IN_TITLE, "seed") if any(len(group) > 1 for group in groups) else IN_TITLE
    columns = label_seeds(make_columns(experiments, hidden), groups)
    method, subject = first.method, f"{kind[0]}, {kind[1]}"
    remarks = [
        *notes.warnings(groups, columns),
        *notes.few_images([cell for group in groups for cell in group]),
    ]
    remarks += [f"{name}: {text}." for name, text in definitions.items() if name == first.protocol]
    remarks += [
        *notes.hindsight([group[0] for group in groups]),
        *notes.budgets(experiments),
        *notes.approximation(experiments),
        *notes.accuracy([cell for group in groups for cell in group]),
        *_notes(groups, experiments, rows, mean),
    ]
    metric = "rocauc_validation" if first.partition == "validation" else "rocauc"
    return ClassTable(
        title=f"ROCAUC of {method} on {subject}",
        settings=settings(experiments, hidden),
        columns=columns,
        notes=tuple(dict.fromkeys(remarks)),
        method=method,
        subject=subject,
        rows=rows,
        mean=mean,
        metric=metric,
    )


def _printed_variant(experiment: Experiment) -> str:
    """Return the variant's name in ``published.csv``.

    If the paper names no variant, it means the detector's default one.
    """
    printed = published(
        experiment.dataset, experiment.protocol, experiment.detector, experiment.variant
    )
    is_default = experiment.variant == entry_of(experiment.detector).default_variant
    return "" if is_default and not printed else experiment.variant


def _by_class(group: Sequence[Cell]) -> dict[str, list[Result]]:
    """Return class -> its results, one per seed."""
    found: dict[str, list[Result]] = {}
    for cell in group:
        for result in cell.results:
            found.setdefault(result.class_name, []).append(result)
    return found


def _interval(result: Result) -> Interval:
    return Interval(*(result.metrics[name] for name in ("rocauc", "rocauc_low", "rocauc_high")))


def _score(of_seeds: Sequence[Result]) -> ClassScore:
    """Summarise the results of one class, one per seed."""
    values = [_interval(result) for result in of_seeds]
    rocauc = values[0] if len(values) == 1 else mean_of_seeds([one.value for one in values])
    extra = {name: value for name, value in _means(of_seeds).items() if name not in SCORE_METRICS}
    return _fill(rocauc, of_seeds, len(values), extra)


def _mean_score(group: Sequence[Cell]) -> ClassScore | None:
    """Average each seed over classes, then over seeds.

    An oracle's choices differ from class to class and are not averaged.
    """
    means = [cell.mean for cell in group if cell.mean is not None]
    if len(means) < len(group):
        return None
    rocauc = means[0] if len(means) == 1 else mean_of_seeds([one.value for one in means])
    results = [result for cell in group for result in cell.results]
    extra = {
        name: value
        for name, value in _means(results).items()
        if name not in SCORE_METRICS and not name.startswith("chosen_")
    }
    return _fill(rocauc, results, len(means), extra)


def _fill(
    rocauc: Interval, results: Sequence[Result], n_seeds: int, extra: Mapping[str, float]
) -> ClassScore:
    n_train, n_test = {result.n_train for result in results}, {result.n_test for result in results}
    means = _means(results)
    return ClassScore(
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
    """Average each metric that all results have."""
    names = [
        name for name in results[0].metrics if all(name in result.metrics for result in results)
    ]
    return {name: sum(result.metrics[name] for result in results) / len(results) for name in names}


def _published_mean(
    printed: Mapping[str, float], shown: set[str], experiments: list[Experiment]
) -> float | None:
    """Find the paper's mean over the classes shown.

    None if the paper does not print what that needs.
    """
    classes = printed.keys() - {"mean"}
    if shown == classes or not (classes or any(experiment.classes for experiment in experiments)):
        return printed.get("mean")
    return sum(sorted(printed[name] for name in shown)) / len(shown) if shown <= classes else None


def _notes(
    groups: list[list[Cell]],
    experiments: list[Experiment],
    rows: Sequence[ClassRow],
    mean: ClassRow,
) -> Iterator[str]:
    """Yield what a reader must know to read the numbers."""
    first = experiments[0]
    yield from notes.seeds(groups, "the standard error is in brackets")
    if any(len(group) == 1 for group in groups):
        yield (
            "Values are percentages with 95 % intervals: for a class, DeLong's "
            "(Clopper-Pearson's at 0 and 100); for the mean, a bootstrap over the test images."
        )
    prevalences = [score.prevalence for row in rows for score in row.scores if score is not None]
    low, high = percent(min(prevalences)), percent(max(prevalences))
    chance = low if low == high else f"{low} to {high}"
    yield (
        "AP: average precision with anomalies as positives; chance level is the fraction of "
        f"anomalies among the test images, {chance} %."
    )
    yield (
        "seconds: time to fit and score one class, without feature extraction; "
        "runs that share a search each show its full time."
    )
    if mean.paper is None and not any(row.paper is not None for row in rows):
        yield f"paper: {PAPER} reports no number for this."
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
        yield f"paper's mean: taken over the {len(rows)} classes shown."
    ours = list(dict.fromkeys(str(experiment.params["encoder"]) for experiment in experiments))
    if first.detector == "dn2" and ours != [PAPER_ENCODER]:
        yield (
            f"The paper used {PAPER_ENCODER}, as far as we know, and we used {', '.join(ours)}: "
            "part of the difference comes from the network."
        )
    if first.detector == "dn2" and any(
        experiment.normalize != "none" for experiment in experiments
    ):
        yield "The paper's DN2 uses raw features: normalize=none."
