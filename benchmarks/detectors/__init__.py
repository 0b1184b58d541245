"""DETECTORS: every method by name, and what a name, a variant and a preset stand for.

A class is named as text and imported when it is used, so that listing the table costs nothing.
`method` adapts what a class offers; `table` has the entries.
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
    make_detector,
    parameters,
    search_space,
)
from benchmarks.detectors.table import DETECTORS, PRESETS, DetectorEntry, Range, Values, Variant

__all__ = [
    "DETECTORS",
    "PRESETS",
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
    "make_detector",
    "parameters",
    "search_space",
    "selection_of",
    "variant_of",
]


def variant_of(name: str, variant: str) -> Variant:
    """What a detector's variant is; "" is the detector as it is.

    Raises
    ------
    UsageError
        If there is no such detector or variant.
    """
    entry = DETECTORS[check_name(name, DETECTORS, "detector")]
    if not variant:
        return Variant()
    if not entry.variants:
        raise UsageError(f"detector '{name}' has no variants, got '{variant}': leave it out.")
    return entry.variants[check_name(variant, entry.variants, f"variant of {name}")]


def detector_input(name: str, variant: str, dataset: str = "") -> str:
    """What a detector eats, if it is named on this data set: ``features``, ``pixels`` or ``pixels:SIZE``."""
    return variant_of(name, variant).input or _on(name, dataset).input or DETECTORS[name].input


def check_preset(name: str, preset: str) -> str:
    """The preset under which a detector runs: the one asked for, or ``none`` if it has no presets.

    Raises
    ------
    UsageError
        If it is unknown.
    """
    check_name(preset, PRESETS, "preset")
    return preset if DETECTORS[check_name(name, DETECTORS, "detector")].presets else "none"


def detector_params(
    name: str, variant: str, asked: Mapping[str, Any], preset: str = "paper", dataset: str = ""
) -> dict[str, Any]:
    """All parameters of a detector: its defaults (those of the data set, where it has others), changed by the preset, by the
    variant, by the variant's preset, as asked for.

    Raises
    ------
    UsageError
        If the detector, the variant or a parameter is unknown, or a grid is asked for of a variant that chooses no point of it.
    """
    of_variant, of_dataset = variant_of(name, variant), _on(name, dataset)
    entry, own = DETECTORS[name], defaults(name)
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
            f"'{method}' chooses no point of a grid, got grid: give a value, or take --variant {choosing[0]}."
        )
    params = {
        **own,
        **of_dataset.params,
        **of_dataset.presets.get(preset, {}),
        **entry.presets.get(preset, {}),
        **of_variant.params,
        **of_variant.presets.get(preset, {}),
        **asked,
    }
    return {key: _like(own[key], value) for key, value in params.items()}


def beside_paper_settings(experiment: Experiment) -> dict[str, tuple[Any, Any]]:
    """Parameters, and the size of images, that are not as published: name -> (the experiment's, the published one)."""
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
    """What of an experiment's method is not as published, whatever its parameters are."""
    notes = (
        DETECTORS[experiment.detector].note,
        variant_of(experiment.detector, experiment.variant).note,
    )
    return [note for note in notes if note]


def selection_of(experiment: Experiment) -> str:
    """``oracle`` if something is tuned on the test labels, else ``none``."""
    return (
        variant_of(experiment.detector, experiment.variant).selection
        or DETECTORS[experiment.detector].selection
    )


def _on(name: str, dataset: str) -> Variant:
    """What a detector's authors do otherwise on a data set."""
    return DETECTORS[check_name(name, DETECTORS, "detector")].for_dataset.get(dataset, Variant())


def _like(default: Any, value: Any) -> Any:
    """A whole number where the default has a fraction: 1 and 1.0 are one cell."""
    return float(value) if isinstance(default, float) and type(value) is int else value
