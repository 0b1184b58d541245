"""DETECTORS: every method by name, and what a name, a variant and a preset stand for.

A class is named as text and imported when it is used, so that listing the table costs nothing.
`method` adapts what a class offers; `table` has the entries. A name with a colon,
``module:Class``, is a class of the user's, without an entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.contracts import Experiment, UsageError, check_name, did_you_mean
from benchmarks.detectors.method import (
    Method,
    Parameter,
    defaults,
    draws,
    entry_of,
    make_detector,
    parameters,
    search_space,
)
from benchmarks.detectors.table import DETECTORS, PRESETS, DetectorEntry, Range, Values, Variant

__all__ = [
    "DETECTORS",
    "PRESETS",
    "SLOWER",
    "DetectorEntry",
    "Method",
    "Parameter",
    "Range",
    "Values",
    "Variant",
    "beside_paper_settings",
    "check_preset",
    "defaults",
    "detector_input",
    "detector_params",
    "deviations",
    "draws",
    "entry_of",
    "make_detector",
    "parameters",
    "search_space",
    "selection_of",
    "slow_arithmetic",
    "variant_of",
]


def variant_of(name: str, variant: str) -> Variant:
    """Look up a detector's variant; "" is the detector as it is.

    Raises
    ------
    UsageError
        If there is no such detector or variant.
    """
    entry = entry_of(name)
    if not variant:
        return Variant()
    if not entry.variants:
        raise UsageError(f"detector '{name}' has no variants, got '{variant}': leave it out.")
    return entry.variants[check_name(variant, entry.variants, f"variant of {name}")]


def detector_input(name: str, variant: str, dataset: str = "") -> str:
    """Tell what a detector takes on a data set: ``features``, ``pixels`` or ``pixels:SIZE``."""
    return variant_of(name, variant).input or _on(name, dataset).input or entry_of(name).input


def check_preset(name: str, preset: str) -> str:
    """Return the preset under which a detector runs.

    It is the one asked for, or ``none`` if the detector has no presets.

    Raises
    ------
    UsageError
        If it is unknown.
    """
    check_name(preset, PRESETS, "preset")
    return preset if entry_of(name).presets else "none"


def detector_params(
    name: str, variant: str, asked: Mapping[str, Any], preset: str = "paper", dataset: str = ""
) -> dict[str, Any]:
    """Return all parameters of a detector.

    They are its defaults (the data set's where it has its own), changed in this order by the
    preset, the variant, the variant's preset, and what is asked for.

    Raises
    ------
    UsageError
        If the detector, the variant or a parameter is unknown, or a grid is asked for of a variant
        that does not choose a point of it.
    """
    of_variant, of_dataset = variant_of(name, variant), _on(name, dataset)
    entry, own = entry_of(name), defaults(name)
    for parameter in asked:
        if parameter not in own:
            known = ", ".join(own) or "none"
            near = did_you_mean(parameter, own)
            raise UsageError(
                f"detector '{name}' has no parameter '{parameter}': it has {known}.{near}"
            )
    choosing = [label for label, one in entry.variants.items() if one.selection == "oracle"]
    if choosing and variant not in choosing and "grid" in asked.values():
        method = f"{name} {variant or entry.default_variant}"
        raise UsageError(
            f"'{method}' chooses no point of a grid, got grid: give a value, "
            f"or take --variant {choosing[0]}."
        )
    params = {
        **own,
        **of_dataset.params,
        **entry.presets.get(preset, {}),
        **of_dataset.presets.get(preset, {}),
        **of_variant.params,
        **of_variant.presets.get(preset, {}),
        **asked,
    }
    return {key: _like(own[key], value) for key, value in params.items()}


def beside_paper_settings(experiment: Experiment) -> dict[str, tuple[Any, Any]]:
    """Return the parameters, and the size of images, that are not as published.

    Each name has the experiment's value and the published one.
    """
    detector, variant, dataset = experiment.detector, experiment.variant, experiment.dataset
    published = detector_params(detector, variant, {}, dataset=dataset)
    ours = dict(experiment.detector_params)
    if (source := detector_input(detector, variant, dataset)) != "features":
        published, ours = {"input": source, **published}, {"input": experiment.input, **ours}
    return {
        name: (value, published[name])
        for name, value in ours.items()
        if value != published.get(name, value)
    }


def deviations(experiment: Experiment) -> list[str]:
    """List what is not as published in an experiment's method, whatever its parameters are."""
    notes = (
        entry_of(experiment.detector).note,
        variant_of(experiment.detector, experiment.variant).note,
    )
    return [note for note in notes if note]


SLOWER = 1.7
"""How many times the CPU time of bfloat16 a Wide ResNet takes in float32, in training as in scoring
(WRN-10-1, one thread of an AMD EPYC with AVX512-BF16)."""


def slow_arithmetic(experiment: Experiment) -> str | None:
    """Say how much longer a preset takes on this machine if that has no bfloat16; else None.

    Parameters
    ----------
    experiment : Experiment
        Resolved.
    """
    minutes = entry_of(experiment.detector).cpu_minutes
    if (
        experiment.preset != "cpu"
        or experiment.resolved.get("arithmetic") != "float32 on cpu"
        or experiment.detector_params.get("precision") != "auto"
    ):
        return None
    return (
        f"{experiment.detector}: this processor has no instructions for bfloat16 (AMX, "
        f"AVX512-BF16), so --preset cpu takes about {SLOWER:g} times as long: for a class of "
        f"5,000 images of 32 px some {SLOWER * minutes:.0f} minutes of CPU time instead of "
        f"{minutes:g}"
    )


def selection_of(experiment: Experiment) -> str:
    """Return ``oracle`` if something is tuned on the test labels, else ``none``."""
    return (
        variant_of(experiment.detector, experiment.variant).selection
        or entry_of(experiment.detector).selection
    )


def _on(name: str, dataset: str) -> Variant:
    """Return what a detector's authors do differently on a data set."""
    return entry_of(name).for_dataset.get(dataset, Variant())


def _like(default: Any, value: Any) -> Any:
    """Turn a whole number into a fraction if the default is one: 1 and 1.0 are one cell."""
    return float(value) if isinstance(default, float) and type(value) is int else value
