"""Which cells one fit serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.contracts import Experiment
from benchmarks.detectors.table import DETECTORS


def same_fit(experiments: Sequence[Experiment]) -> list[list[Experiment]]:
    """Group experiments that one fit serves: those that differ only in parameters of the detector's path, and in the input, if
    that of one of them (`widest`) holds the encoders of all.

    The fit is made for the last of each group, which has the largest values.
    """
    families: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        families.setdefault(_family(experiment), []).append(experiment)
    groups = []
    for family in families.values():
        left = family
        while left:
            head = set(widest(left).encoders)
            groups.append([e for e in left if head.issuperset(e.encoders)])
            left = [e for e in left if not head.issuperset(e.encoders)]
    return [sorted(group, key=lambda e: tuple(e.detector_params[name] for name in _path(e))) for group in groups]


def widest(experiments: Sequence[Experiment]) -> Experiment:
    """The first of those with the most encoders."""
    return max(experiments, key=lambda experiment: len(set(experiment.encoders)))


def _family(experiment: Experiment) -> str:
    """A text that experiments share which differ only in the path and, where the detector can score joins, in the encoders."""
    experiment = experiment.with_params(**dict.fromkeys(_path(experiment)))
    joined_while = DETECTORS[experiment.detector].joined_while
    if experiment.encoders and joined_while is not None and _has(experiment, joined_while):
        resolved = {name: value for name, value in experiment.resolved.items() if name != "weights"}
        experiment = replace(experiment, input="features", resolved=resolved)
    return experiment.key


def _path(experiment: Experiment) -> tuple[str, ...]:
    """The parameters that one fit of an experiment's detector covers."""
    entry = DETECTORS[experiment.detector]
    return entry.path if _has(experiment, entry.path_while) else ()


def _has(experiment: Experiment, params: Mapping[str, Any]) -> bool:
    return all(experiment.detector_params[name] == value for name, value in params.items())
