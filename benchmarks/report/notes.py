"""What a table must say of how its experiments were run, so that no number is taken for another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.contracts import Cell, Experiment
from benchmarks.detectors import DETECTORS, PRESETS, beside_paper_settings, deviations
from dn2.search import SMALLEST


def budgets(experiments: Sequence[Experiment]) -> Iterator[str]:
    """Say each preset's budget: what it is, what of the method is not the published one, and which parameters."""
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
    """Say which experiments were tuned on the test labels."""
    for cell in cells:
        if cell.selection == "oracle":
            yield (
                f"selection=oracle: of {cell.experiment.method}'s grid, the point with the best ROCAUC on the test labels, "
                "for each class: hindsight that no user has."
            )


def approximation(experiments: Sequence[Experiment]) -> Iterator[str]:
    """Say what an approximate search logs, and where it is none."""
    if any(
        experiment.detector_params.get("index", "exact") not in ("exact", "flat")
        for experiment in experiments
    ):
        yield (
            "recall: share of the k nearest rows that the index found, in percent; rocauc change: its ROCAUC less the exact "
            f"one's, in points. Banks of fewer than {SMALLEST:,} rows are searched exactly, whatever the index."
        )


def seeds(groups: Sequence[Sequence[Cell]], of: str) -> Iterator[str]:
    """Say over which seeds a mean is taken, and of a detector that draws nothing that there are none."""
    for detector in dict.fromkeys(group[0].experiment.detector for group in groups):
        if not DETECTORS[detector].draws:
            yield f"{detector} draws nothing: its numbers have no seed."
    for group in groups:
        if len(group) > 1:
            listed = ", ".join(str(cell.experiment.seed) for cell in group)
            yield f"seeds {listed}: means over them; {of}."
