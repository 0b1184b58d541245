"""What a table must say of how its experiments were run, so that no number is taken for another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.contracts import Cell, Experiment
from benchmarks.detectors import DETECTORS, PRESETS, beside_paper_settings


def budgets(experiments: Sequence[Experiment]) -> Iterator[str]:
    """Say each preset's budget: what it is, and which parameters are not the published ones."""
    for experiment in experiments:
        if experiment.preset != "none":
            name = " ".join(filter(None, (experiment.detector, experiment.variant)))
            changed = [f"{key}={ours} ({theirs})" for key, (ours, theirs) in beside_paper_settings(experiment).items()]
            but = f"; not as published: {', '.join(changed)}" if changed else ""
            yield f"preset={experiment.preset}, {name}: {PRESETS[experiment.preset]}{but}."


def hindsight(cells: Sequence[Cell]) -> Iterator[str]:
    """Say which experiments were tuned on the test labels."""
    for cell in cells:
        if cell.selection == "oracle":
            name = " ".join(filter(None, (cell.experiment.detector, cell.experiment.variant)))
            yield (
                f"selection=oracle: of {name}'s grid, the point with the best ROCAUC on the test labels, for each class: "
                "hindsight that no user has."
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
