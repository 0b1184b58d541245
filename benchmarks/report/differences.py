"""What a comparison of runs prints: tables of differences, a sentence on what follows, ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TextIO

import numpy as np

from benchmarks import figures
from benchmarks.comparison import DIRTY, Comparison, Group, Part, Ranking, Tested
from benchmarks.contracts import Interval
from benchmarks.paired import Difference
from benchmarks.report.tables import Lines, percent, print_page

PAIRS_THAT_FIT = 5
"""Up to this many runs, a table shows every pair; of more, each is set against the best."""

OF_TWO = (
    "Differences are in percentage points, with 95 % intervals. Both runs scored the same test "
    "images: a class is tested by DeLong's paired test, a mean by a bootstrap over the test images "
    "that weights them alike for both runs. p (Holm) is corrected for the number of"
)
OF_MANY = (
    "Differences are in percentage points. All runs scored the same test images: a difference of "
    "means is tested by a bootstrap over the test images that weights them alike for both runs. "
    "p (Holm) is corrected for the number of pairs,"
)
LIMITS = (
    "The tests say what other test images would change. Training was not repeated, and another "
    "seed or other training images may change more."
)


def print_comparison(comparison: Comparison, file: TextIO | None = None) -> None:
    """Print all groups and rankings, then what is not compared."""
    pages: list[tuple[str, Iterable[Lines], Iterable[str]]] = [
        (_title(group), _grids(group), _notes(group)) for group in comparison.groups
    ]
    pages += [
        (_title_of_ranks(ranking), [_rank_lines(ranking)], ranking_says(ranking))
        for ranking in comparison.rankings
    ]
    pages += [("Kept apart", [], comparison.apart)] if comparison.apart else []
    for number, (title, grids, notes) in enumerate(pages):
        print_page(title, "", grids, notes, file, after=number > 0)


def comparison_record(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as ``compare --json`` prints it; fractions are in [0, 1]."""
    return {
        "runs": [
            {
                "run_id": run.stored.run_id,
                "name": run.stored.name,
                "label": label,
                "group": number,
                "dataset": run.params["dataset"],
                "protocol": run.params["protocol"],
                "params": dict(run.params),
                "rocauc": mean.value,
                "rocauc_low": mean.low,
                "rocauc_high": mean.high,
                "selection": run.record["selection"],
                "dirty": run.dirty,
            }
            for number, group in enumerate(comparison.groups)
            for run, label, mean in zip(group.runs, group.labels, group.means, strict=True)
        ],
        "differences": [
            record for group in comparison.groups for record in _difference_records(group)
        ],
        "says": [*(verdict(group) for group in comparison.groups)],
        "kept_apart": list(comparison.apart),
        "rankings": [
            {
                "subject": ranking.subject,
                "datasets": list(ranking.datasets),
                "methods": list(ranking.labels),
                "rocauc": ranking.values.tolist(),
                "mean_ranks": ranking.test.mean_ranks.tolist(),
                "chi2": ranking.test.chi2,
                "f": ranking.test.f if np.isfinite(ranking.test.f) else None,
                "p": ranking.test.p,
                "critical_difference": ranking.critical,
            }
            for ranking in comparison.rankings
        ],
    }


def _difference_records(group: Group) -> Iterator[dict[str, Any]]:
    for pair in group.pairs:
        ends = {"a": group.runs[pair.a].stored.run_id, "b": group.runs[pair.b].stored.run_id}
        rows: list[tuple[Part | None, Tested]] = [*pair.parts.items(), (None, pair.mean)]
        for part, tested in rows:
            value, low, high, p = tested.difference
            yield {
                **ends,
                "class_name": None if group.is_curve else part,
                "x": part if group.is_curve else None,
                "difference": value,
                "low": low,
                "high": high,
                "p": p,
                "p_holm": tested.p_holm,
            }


def verdict(group: Group) -> str:
    """Say in a sentence what follows from a comparison."""
    if len(group.runs) > 2:
        return _verdict_of_many(group)
    pair = group.pairs[0]
    value = pair.mean.difference.value
    better, worse = (pair.a, pair.b) if value >= 0 else (pair.b, pair.a)
    names = group.labels[better], group.labels[worse]
    says = _says(group.pair(better, worse), *names)
    if len(group.parts) < 2:
        return f"{says}."
    won = [
        sum(one.real and one.difference.value * sign > 0 for one in pair.parts.values())
        for sign in ((1, -1) if better == pair.a else (-1, 1))
    ]
    rows = f"of {len(group.parts)} {'values of x' if group.is_curve else 'classes'}"
    holm = "after Holm's correction"
    if pair.mean.real and not any(won):
        return f"{says}; no single one {rows} shows it {holm}."
    if pair.mean.real:
        return (
            f"{says}; better in {won[0]}{f' and worse in {won[1]}' * bool(won[1])} {rows} {holm}."
        )
    if not any(won):
        return f"{says}, and in none {rows} {holm}."
    return f"{says}; {names[0]} is better in {won[0]} and worse in {won[1]} {rows} {holm}."


def _verdict_of_many(group: Group) -> str:
    best, *others = _by_mean(group)
    equal = [other for other in others if not group.pair(best, other).real]
    real = sum(pair.mean.real for pair in group.pairs)
    pairs = f"{real} of {len(group.pairs)} pairs of runs differ really after Holm's correction."
    if not equal:
        return f"{group.labels[best]} is better than every other run; {pairs}"
    named = ", ".join(group.labels[other] for other in equal[:3])
    more = f" and {len(equal) - 3} more" if len(equal) > 3 else ""
    return (
        f"{group.labels[best]} has the best mean, but no real difference is shown from "
        f"{named}{more}; {pairs}"
    )


def _says(tested: Tested, better: str, worse: str) -> str:
    value, low, high, _ = tested.difference
    if tested.real:
        return (
            f"{better} is better than {worse} by {percent(value)} points on average "
            f"[{percent(low)}, {percent(high)}]"
        )
    return (
        f"No real difference is shown between {better} and {worse}: "
        f"{_signed(value)} points on average [{_signed(low)}, {_signed(high)}]"
    )


def _title_of_ranks(ranking: Ranking) -> str:
    return (
        f"Mean ranks of {len(ranking.labels)} methods on {len(ranking.datasets)} data sets, "
        f"{ranking.subject}"
    )


def _title(group: Group) -> str:
    return f"Differences in ROCAUC of {len(group.runs)} runs on {group.subject}"


def _notes(group: Group) -> Iterator[str]:
    yield verdict(group)
    yield ""
    rows = "values of x" if group.is_curve else "classes"
    yield f"{OF_TWO} {rows}." if len(group.runs) == 2 else f"{OF_MANY} {len(group.pairs)}."
    yield LIMITS
    if any(run.dirty for run in group.runs):
        yield "dirty: from code that was not committed, so the run's commit does not explain it."
    if any(run.record["selection"] == "oracle" for run in group.runs):
        yield "oracle: tuned on the test labels, a choice that no user can make."
    left = {part for run in group.runs for part in run.parts} - set(group.parts)
    if left:
        yield f"Left out, since not all runs have them: x = {', '.join(map(str, sorted(left)))}."


def _grids(group: Group) -> Iterator[Lines]:
    yield _run_lines(group)
    if group.differing and len(group.runs) <= PAIRS_THAT_FIT:
        yield [
            ["what differs", *map(_letter, range(len(group.runs)))],
            *([name, *map(_short, values)] for name, values in group.differing.items()),
        ]
    if len(group.runs) == 2:
        yield _row_lines(group)
    elif len(group.runs) <= PAIRS_THAT_FIT:
        yield _pair_lines(group)


def _run_lines(group: Group) -> Lines:
    """Make a line for each run: of many, with its difference from the best."""
    several = len(group.runs) > PAIRS_THAT_FIT
    order = _by_mean(group) if several else list(range(len(group.runs)))
    lines = [
        ["run", "mean ROCAUC", *(["behind the best", "p (Holm)"] if several else ["MLflow run"])]
    ]
    for number in order:
        run = group.runs[number]
        mark = "" if several else f"{_letter(number)}  "
        oracle = " (oracle)" if run.record["selection"] == "oracle" else ""
        label = f"{mark}{group.labels[number]}{oracle}{DIRTY * run.dirty}"
        if not several:
            more = [run.stored.run_id]
        elif number == order[0]:
            more = ["", ""]
        else:
            tested = group.pair(order[0], number)
            more = [_with_interval(tested.difference), _p(tested)]
        lines.append([label, _interval(group.means[number]), *more])
    return lines


def _row_lines(group: Group) -> Lines:
    """Make a line for each class or x, then the mean, of two runs."""
    first = "x" if group.is_curve else "class"
    lines = [[first, "A", "B", "A - B", "p", "p (Holm)"]]
    (pair,) = group.pairs
    for part in group.parts:
        tested = pair.parts[part]
        lines.append(
            [
                str(part),
                *(percent(values[part]) for values in group.values),
                _with_interval(tested.difference),
                _p_text(tested.difference.p),
                _p(tested),
            ]
        )
    means = [percent(mean.value) for mean in group.means]
    difference = pair.mean.difference
    last = ["mean", *means, _with_interval(difference), _p_text(difference.p), ""]
    return [*lines, [], last]


def _pair_lines(group: Group) -> Lines:
    """Make a table of all pairs: the row's mean minus the column's."""
    numbers = range(len(group.runs))
    lines = [["row - column", *(_letter(number) for number in numbers[1:])]]
    for a in numbers[:-1]:
        cells = [
            f"{_signed((one := group.pair(a, b)).difference.value)}{' *' * one.real}"
            if b > a
            else ""
            for b in numbers[1:]
        ]
        lines.append([_letter(a), *cells])
    return [*lines, [], ["* real: p (Holm) below 0.05", *("" for _ in numbers[1:])]]


def _rank_lines(ranking: Ranking) -> Lines:
    order = np.argsort(ranking.test.mean_ranks, kind="stable")
    lines = [["method", "mean rank", *ranking.datasets]]
    if len(ranking.datasets) > 6:
        lines = [["method", "mean rank", "mean ROCAUC"]]
    for number in order:
        values = ranking.values[:, number]
        shown = [percent(values.mean())] if len(ranking.datasets) > 6 else map(percent, values)
        rank = f"{ranking.test.mean_ranks[number]:.2f}"
        lines.append([ranking.labels[number], rank, *shown])
    return lines


def ranking_says(ranking: Ranking) -> Iterator[str]:
    """Yield what follows from a ranking, then its tests."""
    n, k = ranking.values.shape
    test = ranking.test
    if ranking.too_few:
        yield (
            f"{n} data sets are too few to show a difference between {k} methods by their ranks: "
            f"mean ranks would have to differ by {ranking.critical:.2f}, and {k - 1} is the most."
        )
    elif test.p >= 0.05:
        yield "No real difference between the methods is shown over the data sets."
    else:
        best = int(np.argmin(test.mean_ranks))
        behind = [
            ranking.labels[number]
            for number in np.argsort(test.mean_ranks, kind="stable")
            if test.mean_ranks[number] - test.mean_ranks[best] >= ranking.critical
        ]
        worse = f"{ranking.labels[best]} ranks really better than {', '.join(behind)}"
        yield (
            f"The methods differ. {worse}."
            if behind
            else f"The methods differ, but the ranks do not show from which {ranking.labels[best]} "
            "does."
        )
    f = f"{test.f:.2f}" if np.isfinite(test.f) else "infinite"
    yield (
        f"Friedman: chi2 = {test.chi2:.2f}, F = {f}, p = {_p_text(test.p)}. Nemenyi: mean ranks "
        f"that differ by {ranking.critical:.2f} differ really."
    )


def draw_ranking(ranking: Ranking) -> figures.Figure:
    """Draw the critical-difference diagram of a ranking."""
    return figures.critical_difference(
        f"Ranks by mean ROCAUC, {ranking.subject}",
        dict(zip(ranking.labels, map(float, ranking.test.mean_ranks), strict=True)),
        ranking.critical,
        len(ranking.datasets),
    )


def _by_mean(group: Group) -> list[int]:
    return sorted(range(len(group.runs)), key=lambda number: -group.means[number].value)


def _letter(number: int) -> str:
    return chr(ord("A") + number)


def _short(text: str, most: int = 32) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _signed(value: float) -> str:
    return percent(value, sign=True)


def _interval(mean: Interval) -> str:
    return f"{percent(mean.value)} [{percent(mean.low)}, {percent(mean.high)}]"


def _with_interval(difference: Difference) -> str:
    value, low, high, _ = difference
    return f"{_signed(value)} [{_signed(low)}, {_signed(high)}]"


def _p(tested: Tested) -> str:
    return f"{_p_text(tested.p_holm)}{' *' if tested.real else '  '}"


def _p_text(p: float) -> str:
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"
