"""Which differences are real: the paired tests of `compare`, and ranks over data sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.comparison import Comparison, Group, Run, compare
from benchmarks.contracts import Progress, UsageError
from benchmarks.report.class_table import safe_name
from benchmarks.report.differences import LIMITS, ranking_says, verdict
from benchmarks.report.document.parts import Entry, Grid, Ranks, Section
from benchmarks.report.tables import percent

PAIRS_SHOWN = 45

SCORES_TESTED = 5_000_000
"""Scores that are weighted a thousand times each: about ten seconds. Curves have the most."""


def difference_section(runs: Sequence[Run], progress: Progress | None = None) -> Section:
    """Test all pairs of the runs that can be compared, and rank methods over data sets.

    Data sets and protocols of which that would take too long are left to ``compare``.
    """
    name, title = "differences", "Which differences are real"
    if len(runs) < 2:
        why = f"There are the scores of {len(runs)} runs, and a comparison needs two."
        return Section(name, title, missing=(why,))
    tested, left = _affordable(runs)
    try:
        comparison = compare(tested, progress)
    except UsageError as error:
        return Section(name, title, missing=(f"No two runs can be compared: {error}", *left))
    text = [
        "All runs of a table scored the same test images, so their differences are tested in "
        "pairs, by a bootstrap over the test images that weights them alike for both runs.",
        LIMITS,
        "A difference is called real if p, corrected after Holm for the number of pairs, is below "
        "0.05.",
    ]
    parts = [part for group in comparison.groups for part in _of_group(group)]
    ranked = list(_rankings(comparison))
    missing = [*left, *(f"Kept apart: {line}" for line in comparison.apart)]
    if not ranked:
        missing.append(
            "No ranks over data sets: they need the same three methods on two data sets or more."
        )
    return Section(name, title, tuple(text), (*parts, *ranked), tuple(missing))


def _affordable(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Return the runs to test, those without a curve first, and a line for each subject left."""
    subjects: dict[tuple[bool, str, str], list[Run]] = {}
    for run in runs:
        subject = run.is_curve, str(run.params["dataset"]), str(run.params["protocol"])
        subjects.setdefault(subject, []).append(run)
    tested, left, room = [], [], SCORES_TESTED
    for (_, dataset, protocol), here in sorted(subjects.items(), key=lambda item: item[0][0]):
        size = sum(len(split.scores) for run in here for split in run.splits.values())
        if size <= room:
            tested += here
            room -= size
        else:
            left.append(
                f"{dataset}, {protocol}: not tested here, as it would take long. To test it: "
                f"python -m benchmarks compare dataset={dataset},protocol={protocol}"
            )
    return tested, left


def _of_group(group: Group) -> Iterator[Grid]:
    pairs = sorted(group.pairs, key=lambda pair: -abs(pair.mean.difference.value))
    rows = []
    for pair in pairs[:PAIRS_SHOWN]:
        a, b = (pair.a, pair.b) if pair.mean.difference.value >= 0 else (pair.b, pair.a)
        tested = group.pair(a, b)
        value, low, high, _ = tested.difference
        runs = tuple(group.runs[number].stored.run_id for number in (a, b))
        rows.append(
            (
                Entry(group.labels[a]),
                Entry(group.labels[b]),
                Entry(
                    f"{percent(value, sign=True)} "
                    f"[{percent(low, sign=True)}, {percent(high, sign=True)}]",
                    value,
                    runs=runs,
                ),
                Entry(
                    "<0.0001" if tested.p_holm < 0.0001 else f"{tested.p_holm:.4f}", tested.p_holm
                ),
                Entry("real" if tested.real else "not shown"),
            )
        )
    notes = [verdict(group)]
    if len(pairs) > len(rows):
        notes.append(f"The {len(rows)} largest of {len(pairs)} differences.")
    if any(run.dirty for run in group.runs):
        notes.append("(dirty): from code that was not committed.")
    yield Grid(
        safe_name(f"differences-{group.subject}"),
        f"Differences in mean ROCAUC, {group.subject}",
        ("better", "worse", "difference", "p (Holm)", "difference is"),
        (False, False, True, True, False),
        tuple(rows),
        tuple(notes),
        lists_runs=True,
    )


def _rankings(comparison: Comparison) -> Iterator[Grid | Ranks]:
    for ranking in comparison.rankings:
        name = safe_name(f"ranks-{ranking.subject}")
        ranks = dict(zip(ranking.labels, map(float, ranking.test.mean_ranks), strict=True))
        title = f"Mean ranks over {len(ranking.datasets)} data sets, {ranking.subject}"
        order = sorted(range(len(ranking.labels)), key=lambda i: ranks[ranking.labels[i]])
        yield Grid(
            name,
            title,
            ("method", "mean rank", *ranking.datasets),
            (False, True, *(True for _ in ranking.datasets)),
            tuple(
                (
                    Entry(ranking.labels[number]),
                    Entry(f"{ranks[ranking.labels[number]]:.2f}", ranks[ranking.labels[number]]),
                    *(Entry(percent(value), float(value)) for value in ranking.values[:, number]),
                )
                for number in order
            ),
            tuple(ranking_says(ranking)),
        )
        yield Ranks(f"{name}-diagram", title, ranks, ranking.critical, len(ranking.datasets))
