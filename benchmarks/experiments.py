"""From what was asked for to cells: the product of all lists, every name checked, every name resolved to what it stands for."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from benchmarks.contracts import Dataset, Experiment, UsageError, Workspace, check_name
from benchmarks.datasets import check_dataset
from benchmarks.detectors import (
    DETECTORS,
    PRESETS,
    check_preset,
    detector_input,
    detector_params,
    make_detector,
)
from benchmarks.inputs import encoder_names
from benchmarks.protocols import PROTOCOLS, make_splits, validation
from benchmarks.protocols import protocol_params as protocol_params_of
from dn2.encoders import check_weights, get_encoder
from dn2.engines import engine_class
from dn2.features import NORMALIZATIONS


def make_experiments(
    *,
    datasets: Sequence[str],
    detectors: Sequence[str] = ("dn2",),
    protocol: str = "one_vs_rest",
    encoders: Sequence[str] = (),
    normalize: Sequence[str] = (),
    size: int = 0,
    variants: Sequence[str] = ("",),
    presets: Sequence[str] = ("paper",),
    params: Mapping[str, Sequence[Any]] | None = None,
    protocol_params: Mapping[str, Any] | None = None,
    classes: Sequence[str] = (),
    seed: int = 0,
    seeds: int = 1,
    device: str | None = None,
) -> list[Experiment]:
    """Make one cell for each combination of the lists.

    Parameters
    ----------
    datasets, detectors, variants : sequences of names
        A variant "" is the detector as it is.
    protocol : str
    encoders, normalize : sequences of names
        For detectors on features; empty means each detector's own.
    size : int
        Side in pixels of the images that detectors on pixels get; 0 means the images' own.
    presets : sequence of names
        For detectors that have presets.
    params : mapping of parameter name to the values to try, optional
        Detector parameters, such as ``{"k": [1, 2, 5]}``.
    protocol_params : mapping, optional
        The protocol's own parameters, such as ``{"draws": 5}``: one value each, the curves are within a cell.
    classes : sequence of str
        The classes that take their turn; empty means all.
    seed : int
        At least 0.
    seeds : int
        How many cells a detector that draws gets, with seeds from ``seed`` on. One that does not draw has one cell.
    device : str, optional
        Where detectors train; by default CUDA where there is one. No part of the cells' keys.

    Raises
    ------
    UsageError
        If a name is unknown, a list is empty, a number is out of range, only one of protocol and detector is about groups, or
        something is asked for that is for other detectors than these.
    """
    params = params or {}
    for name, value, least in (("seed", seed, 0), ("seeds", seeds, 1), ("size", size, 0)):
        if value < least:
            raise UsageError(f"{name} must be at least {least}, got {value}.")
    named = {"dataset": datasets, "detector": detectors, "variant": variants, "preset": presets}
    for name, values in {**named, **params}.items():
        if not values:
            raise UsageError(f"{name} needs at least one value, got none.")
    of_protocol = protocol_params_of(protocol, protocol_params or {})
    for name in normalize:
        check_name(name, NORMALIZATIONS, "normalisation")
    for encoder in encoders:
        check_encoders(encoder)
    for detector in detectors:
        check_groups(detector, protocol)
    for preset in presets:
        check_name(preset, PRESETS, "preset")
    _check_asked(detectors, variants, encoders, normalize, size, presets)
    known = {name for detector in detectors for name in DETECTORS[detector].defaults}
    cells = []
    for dataset, detector, variant, preset in product(datasets, detectors, variants, presets):
        entry = DETECTORS[detector]
        own = {
            name: values
            for name, values in params.items()
            if name in entry.defaults or name not in known
        }
        for (source, how), values in product(
            _inputs(dataset, detector, variant, encoders, normalize, size), product(*own.values())
        ):
            cell = Experiment(
                dataset=check_dataset(dataset),
                protocol=protocol,
                detector=detector,
                input=source,
                normalize=how,
                variant=variant or entry.default_variant,
                detector_params=detector_params(
                    detector, variant, dict(zip(own, values, strict=True)), preset, dataset
                ),
                protocol_params=of_protocol,
                classes=tuple(classes),
                seed=seed,
                preset=check_preset(detector, preset),
                device=device,
            )
            cells += [
                replace(cell, seed=seed + number) for number in range(seeds if entry.draws else 1)
            ]
    return list({cell.key: cell for cell in cells}.values())


def _inputs(
    dataset: str,
    detector: str,
    variant: str,
    encoders: Sequence[str],
    normalize: Sequence[str],
    size: int,
) -> list[tuple[str, str]]:
    """What a detector eats, with each normalisation: features as asked for, or pixels."""
    source = detector_input(detector, variant, dataset)
    if source == "features":
        own = DETECTORS[detector]
        return [
            (f"features:{name}", how)
            for name, how in product(encoders or [own.encoder], normalize or [own.normalize])
        ]
    return [(f"pixels:{size}" if size else source, "none")]


def _check_asked(
    detectors: Sequence[str],
    variants: Sequence[str],
    encoders: Sequence[str],
    normalize: Sequence[str],
    size: int,
    presets: Sequence[str],
) -> None:
    """Refuse what none of the detectors can have; what some can, they get."""
    sources = {
        detector: {detector_input(detector, variant) for variant in variants}
        for detector in detectors
    }
    on_pixels = [detector for detector, found in sources.items() if "features" not in found]
    for name, given in (("encoder", encoders), ("normalize", set(normalize) - {"none"})):
        if len(on_pixels) == len(detectors) and given:
            raise UsageError(
                f"{name} is for features, and {', '.join(on_pixels)} looks at pixels, got {','.join(given)}: leave it out."
            )
    if size and not on_pixels:
        raise UsageError(
            f"size is for detectors on pixels, and {', '.join(detectors)} has features, got {size}: leave it out."
        )
    if set(presets) != {"paper"} and not any(DETECTORS[detector].presets for detector in detectors):
        raise UsageError(
            f"{', '.join(detectors)} trains nothing and has no presets, got {','.join(presets)}: leave it out."
        )


def check_groups(detector: str, protocol: str) -> None:
    """Check that a detector on groups meets a protocol that gives groups, or neither.

    Raises
    ------
    UsageError
        If the detector is unknown, too.
    """
    groups = PROTOCOLS[protocol].groups
    if DETECTORS[check_name(detector, DETECTORS, "detector")].groups != groups:
        given = "groups of images" if groups else "single images"
        fitting = ", ".join(name for name, entry in DETECTORS.items() if entry.groups == groups)
        raise UsageError(
            f"protocol '{protocol}' gives {given}, which '{detector}' cannot score: take one of {fitting}."
        )


def check_encoders(name: str) -> None:
    """Check each encoder of a name such as ``efficientnet_lite0+resnet18``.

    Raises
    ------
    UsageError
        If one is unknown.
    """
    for encoder in encoder_names(f"features:{name}"):
        try:
            get_encoder(encoder)
        except ValueError as error:
            raise UsageError(str(error)) from None


def check_early(experiments: Sequence[Experiment], workspace: Workspace) -> None:
    """Check all that can be checked before data and weights are there: detectors' parameters, engine, a given weights file.

    Raises
    ------
    UsageError
    """
    try:
        for experiment in experiments:
            detector = make_detector(experiment)
            if hasattr(detector, "check_rows"):
                detector.check_rows(sys.maxsize)  # the data may have as many rows as it needs
            if hasattr(detector, "arithmetic"):
                detector.arithmetic()
        if workspace.engine is not None or workspace.device is not None:
            engine_class(workspace.engine, workspace.device)
        if workspace.weights is not None and workspace.weights.is_file():
            for name in {
                name for experiment in experiments for name in encoder_names(experiment.input)
            }:
                check_weights(get_encoder(name), workspace.weights)
    except ValueError as error:
        raise UsageError(str(error)) from None


def resolve(experiment: Experiment, dataset: Dataset, identity: Mapping[str, Any]) -> Experiment:
    """Write into a cell what its names stand for, so that its key changes when one of them changes its meaning.

    The classes are put into the data set's order, each once: the same cell has one key.

    Parameters
    ----------
    experiment : Experiment
    dataset : Dataset
    identity : mapping
        From `benchmarks.inputs.input_identity`.

    Raises
    ------
    UsageError
        If the data set has no such class.
    """
    for name in experiment.classes:
        check_name(name, dataset.class_names, "class")
    classes = tuple(name for name in dataset.class_names if name in experiment.classes)
    versions = {
        "protocol": PROTOCOLS[experiment.protocol].version,
        "detector": DETECTORS[experiment.detector].version,
    }
    if experiment.partition == "validation":
        versions["validation"] = validation.VERSION
    arithmetic = getattr(make_detector(experiment), "arithmetic", None)
    computed_in = {"arithmetic": arithmetic()} if arithmetic else {}
    return replace(
        experiment,
        classes=classes,
        resolved={"data": dataset.fingerprint, "versions": versions, **identity, **computed_in},
    )


def check(experiment: Experiment, dataset: Dataset) -> None:
    """Find out before any work whether a cell can run: its classes exist, and its detector can train on each split's rows.

    Raises
    ------
    UsageError
    """
    check_rows = getattr(make_detector(experiment), "check_rows", None)
    for split in make_splits(experiment, dataset):
        if check_rows is not None:
            try:
                check_rows(len(split.train))
            except ValueError as error:
                raise UsageError(f"{dataset.name}, {split.name}: {error}") from None
