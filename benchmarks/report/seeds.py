"""Cells that differ in nothing but the seed of a detector that draws: one column, a mean and its standard error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from benchmarks.contracts import Cell, Interval, Result
from benchmarks.detectors import DETECTORS
from benchmarks.report.table import Column


def join_seeds(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Group cells that differ in the seed alone, in order of first appearance. Without a draw, seeds are no repetitions."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        seed = 0 if DETECTORS[cell.experiment.detector].draws else cell.experiment.seed
        groups.setdefault(replace(cell.experiment, seed=seed).key, []).append(cell)
    return list(groups.values())


def label_seeds(columns: Sequence[Column], groups: Sequence[Sequence[Cell]]) -> tuple[Column, ...]:
    """Say in a column's heading how many seeds it is the mean of; its key names all of them."""
    return tuple(
        column
        if len(group) == 1
        else replace(column, label=f"{column.label}, {len(group)} seeds", key=",".join(cell.experiment.key for cell in group))
        for column, group in zip(columns, groups, strict=True)
    )


def mean_of_seeds(values: Sequence[float]) -> Interval:
    """Mean over seeds, with the standard error, std(ddof=1) / sqrt(n), to both sides.

    Examples
    --------
    >>> mean_of_seeds([0.8, 0.9, 1.0])
    Interval(value=0.9, low=0.8422649730810374, high=0.9577350269189626)
    """
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5)
    return Interval(mean, mean - error, mean + error)


def results_of_seeds(group: Sequence[Cell]) -> tuple[Result, ...]:
    """The results of all seeds, each seed's draws counted on from the last one's."""
    results: list[Result] = []
    for cell in group:
        first = 1 + max((result.draw for result in results), default=-1)
        results += [replace(result, draw=first + result.draw) for result in cell.results]
    return tuple(results)
