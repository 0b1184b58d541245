"""DETECTORS: every method of the benchmark by name. To add one: write its file, add its line here.

A class is named as text and imported when it is used, so that listing the table costs nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.contracts import Detector, Experiment, UsageError
from benchmarks.names import check_name


@dataclass(frozen=True)
class DetectorEntry:
    """What the table knows of a detector.

    Attributes
    ----------
    target : str
        ``module:Class``.
    input : str
        What it eats: ``features`` (of an encoder) or ``pixels``.
    summary : str
        One line for ``ls``.
    defaults : dict
        Its parameters that can be set, with their defaults.
    variants : dict
        Variant name -> the parameters it changes.
    path : tuple of str
        Parameters that ``score_path`` covers: experiments that differ in these alone are fitted once, at the largest value.
    toy : dict
        Parameters small enough for the laws, which run on 40 rows.
    selection : str
        ``oracle`` if it tunes on test labels, else ``none``.
    version : int
        Raised when a change of code changes results, so that old cells are not taken for new ones.
    """

    target: str
    input: str
    summary: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    path: tuple[str, ...] = ()
    toy: Mapping[str, Any] = field(default_factory=dict)
    selection: str = "none"
    version: int = 1


DETECTORS: dict[str, DetectorEntry] = {
    "dn2": DetectorEntry(
        target="dn2.detector:DN2",
        input="features",
        summary="mean squared distance to the k nearest normal training images",
        defaults={"k": 2, "index": "exact"},
        path=("k",),
        toy={"k": 2},
    ),
}


def detector_params(name: str, variant: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a detector: its defaults, then what the variant changes, then what was asked for.

    Raises
    ------
    UsageError
        If the detector, the variant or a parameter is unknown.
    """
    entry = DETECTORS[check_name(name, DETECTORS, "detector")]
    changed = entry.variants[check_name(variant, entry.variants, f"variant of {name}")] if variant else {}
    for parameter in asked:
        if parameter not in entry.defaults:
            known = ", ".join(entry.defaults) or "none"
            raise UsageError(f"detector '{name}' has no parameter '{parameter}': it has {known}.")
    return {**entry.defaults, **changed, **asked}


def make_detector(experiment: Experiment) -> Detector:
    """The detector of an experiment, not yet fitted."""
    module, _, name = DETECTORS[experiment.detector].target.partition(":")
    detector: Detector = getattr(importlib.import_module(module), name)(**experiment.detector_params)
    return detector


def same_fit(experiments: list[Experiment]) -> list[list[Experiment]]:
    """Group experiments that one fit serves: those that differ only in parameters of the detector's path.

    The fit is made for the last of each group, which has the largest values.
    """
    groups: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        path = DETECTORS[experiment.detector].path
        groups.setdefault(experiment.with_params(**dict.fromkeys(path)).key, []).append(experiment)
    return [
        sorted(group, key=lambda e: tuple(e.detector_params[name] for name in DETECTORS[e.detector].path))
        for group in groups.values()
    ]
