"""Notes on how the runs of a table were made, so that no number is mistaken for another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.contracts import BEWARE, Cell, Experiment, Result
from benchmarks.detectors import PRESETS, Method, beside_paper_settings, deviations, draws
from benchmarks.report.tables import Column
from dn2.search import SMALLEST

NAMED = 3
"""Of more splits than this, a note names the first and counts the others."""

FEW_IMAGES = 20
"""Where the smaller of normal and anomalous test images are fewer, DeLong's interval is too narrow.

In simulations, the 95 % interval covered the true value in 88 % with 4 of them, in 90 % with 5, in
94 % with 10, and in 95 % with 20.
``tests/benchmarks/test_interval_coverage.py`` measures it."""

Z95 = 1.96
"""The 97.5 % point of the normal distribution, as for the intervals of a ROCAUC."""


def budgets(experiments: Sequence[Experiment]) -> Iterator[str]:
    """State the budget of each preset, and how its runs deviate from the published method.

    Changed parameters are listed with both values.
    """
    for experiment in experiments:
        if experiment.preset != "none":
            changed = [
                f"{key} {ours} instead of {theirs}"
                for key, (ours, theirs) in beside_paper_settings(experiment).items()
            ]
            but = [text for text in (", ".join(changed), *deviations(experiment)) if text]
            budget = (
                "changed by hand"
                if experiment.preset == "paper" and changed
                else PRESETS[experiment.preset]
            )
            not_published = f"; not as published: {'; '.join(but)}" if but else ""
            yield f"preset={experiment.preset}, {experiment.method}: {budget}{not_published}."


def hindsight(cells: Sequence[Cell]) -> Iterator[str]:
    """State which runs were tuned on the test labels."""
    for cell in cells:
        if cell.selection == "oracle":
            yield (
                f"selection=oracle: for each class, {cell.experiment.method} takes the grid point "
                "with the best ROCAUC on the test labels, a choice that no user can make."
            )


def accuracy(cells: Sequence[Cell]) -> Iterator[str]:
    """Explain the accuracy of transformations, with the accuracy of guessing."""
    accurate = [cell for cell in cells if _has_accuracy(cell)]
    if accurate:
        chances = {chance for cell in accurate if (chance := _chance(cell)) is not None}
        guessing = " or ".join(f"{100 * chance:.1f} %" for chance in sorted(chances))
        yield (
            "acc (accuracy): percentage of an image's transformations that the network recognises, "
            "on normal and on anomalous test images"
            + (f"; guessing recognises {guessing}." if chances else ".")
        )


def warnings(groups: Sequence[Sequence[Cell]], columns: Sequence[Column]) -> Iterator[str]:
    """Warn of each run of a table that learned nothing; several are told apart by their labels."""
    for group, column in zip(groups, columns, strict=True):
        for cell in group:
            label = [column.label] if len(columns) > 1 else []
            seed = [f"seed {cell.experiment.seed}"] if len(group) > 1 else []
            yield from learned_nothing(cell, ", ".join([*label, *seed]))


def learned_nothing(cell: Cell, label: str = "") -> Iterator[str]:
    """Warn of a detector that learned nothing, or the reverse of what it should.

    Three things are looked for, in each split: all scores are equal; the 95 % interval of the
    ROCAUC, or of the mean, lies below one half; the accuracy on normal images cannot be told from
    guessing. As an image's transformations are not independent, that accuracy counts as one
    answer an image, which makes its standard error the largest that is possible.

    Parameters
    ----------
    cell : Cell
        Its results need no scores.
    label : str
        What tells the cell from the others of the table.
    """
    called = f"{cell.experiment.method}{f' ({label})' if label else ''}"
    chance = _chance(cell)
    equal = [result for result in cell.results if _is_constant(result)]
    if equal:
        yield (
            f"{BEWARE}{called} gives all test images the same score in {_names(cell, equal)}: "
            "a ROCAUC of 50 there comes from ties, and it says nothing."
        )
    below = [result for result in cell.results if result.metrics["rocauc_high"] < 0.5]
    if below or (cell.mean is not None and cell.mean.high < 0.5):
        mean = "the mean" if cell.mean is not None and cell.mean.high < 0.5 else ""
        where = " and ".join(filter(None, [mean, _names(cell, below) if below else ""]))
        yield (
            f"{BEWARE}the ROCAUC of {called} is significantly below 50, which is chance, for "
            f"{where}: anomalies score lower there than normal images do."
        )
    guessing = [result for result in cell.results if chance and _is_guess(result, chance)]
    if chance and guessing:
        yield (
            f"{BEWARE}the accuracy of {called} on normal images cannot be told from guessing "
            f"({100 * chance:.1f} %) in {_names(cell, guessing)}, so its ROCAUC there says nothing "
            "about the method: train it longer."
        )


def few_images(cells: Sequence[Cell]) -> Iterator[str]:
    """Warn of intervals that are too narrow, because a class has few test images."""
    fewest = [(_smaller(result), result) for cell in cells for result in cell.results]
    few = [result for count, result in fewest if count < FEW_IMAGES]
    if few:
        count, least = min(fewest, key=lambda pair: pair[0])
        where = least.class_name or least.split
        yield (
            f"{BEWARE}with fewer than {FEW_IMAGES} normal or anomalous test images, a 95 % "
            "interval is too narrow: it covers the true value in about 94 % of cases with 10, in "
            f"90 % with 5, in 88 % with 4, and that of a mean in 91 to 94 %. Here {where} has "
            f"{count}."
        )


def _smaller(result: Result) -> int:
    """Return the number of normal or of anomalous test images, whichever is smaller."""
    anomalous = round(result.n_test * result.metrics["prevalence"])
    return min(anomalous, result.n_test - anomalous)


def _has_accuracy(cell: Cell) -> bool:
    return any("accuracy_normal" in result.metrics for result in cell.results)


def _chance(cell: Cell) -> float | None:
    """Return the accuracy of guessing; None if the cell has no accuracy, or it is unknown."""
    return Method.of(cell.experiment).chance if _has_accuracy(cell) else None


def _is_constant(result: Result) -> bool:
    """Tell whether all scores of a result are equal.

    Then DeLong's interval is one half, without width, and only then. If there is only one normal
    or one anomalous image, it is wide, and nothing is told.
    """
    names = ("rocauc", "rocauc_low", "rocauc_high")
    return all(result.metrics[name] == 0.5 for name in names)


def _is_guess(result: Result, chance: float) -> bool:
    """Tell whether an accuracy on normal images is at most 1.96 standard errors above chance."""
    if "accuracy_normal" not in result.metrics:
        return False
    images = max(result.n_test * (1 - result.metrics["prevalence"]), 1)
    return (
        result.metrics["accuracy_normal"] <= chance + Z95 * (chance * (1 - chance) / images) ** 0.5
    )


def _names(cell: Cell, results: Sequence[Result]) -> str:
    """Name splits; if there are many, the first and how many more."""
    if len(results) == len(cell.results) > 1:
        is_class = len({result.class_name for result in results}) == len(results)
        return f"all {len(results)} {'classes' if is_class else 'splits'}"
    names = [result.split for result in results]
    if len(names) > NAMED:
        return f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def approximation(experiments: Sequence[Experiment]) -> Iterator[str]:
    """Explain the columns of an approximate search, and when it is exact."""
    if any(
        experiment.detector_params.get("index", "exact") not in ("exact", "flat")
        for experiment in experiments
    ):
        yield (
            "recall: percentage of the k nearest rows that the index finds; rocauc change: ROCAUC "
            "with the index minus ROCAUC with exact search, in percentage points. Banks of fewer "
            f"than {SMALLEST:,} rows are searched exactly, whatever the index."
        )


def seeds(groups: Sequence[Sequence[Cell]], rule: str) -> Iterator[str]:
    """State which seeds a mean is taken over, and which detectors are deterministic.

    ``rule`` says how the seeds are combined.
    """
    for detector in dict.fromkeys(group[0].experiment.detector for group in groups):
        if not draws(detector):
            yield f"{detector} is deterministic: there is no seed."
    for group in groups:
        if len(group) > 1:
            listed = ", ".join(str(cell.experiment.seed) for cell in group)
            yield f"Means over seeds {listed}; {rule}."
