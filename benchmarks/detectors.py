"""DETECTORS: every method of the benchmark by name. To add one: write its file, add its line here.

A class is named as text and imported when it is used, so that listing the table costs nothing.
"""

from __future__ import annotations

import importlib
import inspect
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
    groups : bool
        Whether it eats groups of them, (n, size, ...), as only some protocols give.
    summary : str
        One line for ``ls``.
    defaults : dict
        Its parameters that can be set, with their defaults.
    variants : dict
        Variant name -> the parameters it changes.
    path : tuple of str
        Parameters that ``score_path`` covers: experiments that differ in these alone are fitted once, at the largest value.
    path_while : dict
        The path is there only while these parameters have these values.
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
    groups: bool = False
    path: tuple[str, ...] = ()
    path_while: Mapping[str, Any] = field(default_factory=dict)
    toy: Mapping[str, Any] = field(default_factory=dict)
    selection: str = "none"
    version: int = 1


DETECTORS: dict[str, DetectorEntry] = {
    "dn2": DetectorEntry(
        target="dn2.detector:DN2",
        input="features",
        summary="mean squared distance to the k nearest normal training images",
        defaults={"k": 2, "index": "exact", "clean": 0.0},
        path=("k",),
        path_while={"clean": 0},  # what is dropped depends on k
        toy={"k": 2},
    ),
    "dn2_group": DetectorEntry(
        target="dn2.groups:GroupDN2",
        input="features",
        groups=True,
        summary="DN2 on the pooled features of each group",
        defaults={"k": 2, "pool": "mean"},
        variants={"mean": {"pool": "mean"}, "max": {"pool": "max"}, "concat": {"pool": "concat"}},
        path=("k",),
        toy={"k": 2},
    ),
    "dn2_kmeans": DetectorEntry(
        target="dn2.kmeans:KMeansDN2",
        input="features",
        summary="DN2 with k-means centres in the place of the training images",
        defaults={"k": 2, "centres": 10},
        toy={"k": 2, "centres": 5},
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
    """The detector of an experiment, not yet fitted; if it draws, with the experiment's seed."""
    module, _, name = DETECTORS[experiment.detector].target.partition(":")
    make = getattr(importlib.import_module(module), name)
    seed = {"seed": experiment.seed} if "seed" in inspect.signature(make).parameters else {}
    detector: Detector = make(**seed, **experiment.detector_params)
    return detector


def same_fit(experiments: list[Experiment]) -> list[list[Experiment]]:
    """Group experiments that one fit serves: those that differ only in parameters of the detector's path.

    The fit is made for the last of each group, which has the largest values.
    """
    groups: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        path = _path(experiment)
        groups.setdefault(experiment.with_params(**dict.fromkeys(path)).key, []).append(experiment)
    return [sorted(group, key=lambda e: tuple(e.detector_params[name] for name in _path(e))) for group in groups.values()]


def _path(experiment: Experiment) -> tuple[str, ...]:
    """The parameters that one fit of an experiment's detector covers."""
    entry = DETECTORS[experiment.detector]
    has_path = all(experiment.detector_params[name] == value for name, value in entry.path_while.items())
    return entry.path if has_path else ()
