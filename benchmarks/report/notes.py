"""Notes on how the runs of a table were made, so that no number is mistaken for another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.contracts import Cell, Experiment
from benchmarks.detectors import PRESETS, beside_paper_settings, deviations, draws
from dn2.search import SMALLEST


def budgets(experiments: Sequence[Experiment]) -> Iterator[str]:
    """State the budget of each preset, and how its runs deviate from the published method.

    Changed parameters are listed with both values.
    """
    for experiment in experiments:
        if experiment.preset != "none":
            changed = [
                f"{key}={ours} ({theirs})"
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
