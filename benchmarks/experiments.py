"""Plan: turn a request into cells, and cells into batches. Nothing else plans.

`make_experiments` makes a cell for each combination of the names and values asked for, and checks
them. `resolve` writes into a cell what its names stand for today. `plan` groups the cells that one
fit serves into batches, makes their splits, and checks that every detector can train on them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from benchmarks.contracts import (
    Batch,
    Dataset,
    Experiment,
    Most,
    Split,
    UsageError,
    Workspace,
    check_name,
    join_inputs,
)
from benchmarks.datasets import check_dataset
from benchmarks.detectors import (
    DETECTORS,
    PRESETS,
    Method,
    check_preset,
    defaults,
    detector_input,
    detector_params,
    draws,
    entry_of,
)
from benchmarks.inputs import encoder_names, own_fit
from benchmarks.protocols import PROTOCOLS, make_splits
from benchmarks.protocols import protocol_params as protocol_params_of
from dn2.encoders import check_weights, get_encoder
from dn2.engines import engine_class
from dn2.features import NORMALIZATIONS
from dn2.squares import SQUARES

MANY_CLASSES = 20
"""Keys of data sets with more classes say that all of them take turns."""


def make_experiments(
    *,
    datasets: Sequence[str],
    detectors: Sequence[str] = ("dn2",),
    protocol: str = "one_vs_rest",
    encoders: Sequence[str] = (),
    normalize: Sequence[str] = (),
    size: int = 0,
    fits: Sequence[str] = (),
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
        The variant "" is the detector's default.
    protocol : str
    encoders, normalize : sequences of names
        For detectors on features; empty means each detector's default.
    size : int
        Side in pixels to which images are resized for detectors on pixels; 0 means not at all.
    fits : sequence of {"crop", "pad", "squash"}
        How images become squares; empty means the usual way, ``crop``.
    presets : sequence of names
        For detectors that have presets.
    params : mapping of parameter name to the values to try, optional
        Detector parameters, such as ``{"k": [1, 2, 5]}``.
    protocol_params : mapping, optional
        The protocol's own parameters, such as ``{"draws": 5}``: one value each, because a curve is
        one cell.
    classes : sequence of str
        The classes that each get their splits; empty means all.
    seed : int
        At least 0.
    seeds : int
        How many cells a detector that draws at random gets, with seeds from ``seed`` on. A
        deterministic one gets one cell.
    device : str, optional
        Where detectors train; by default CUDA if there is one. No part of the cells' keys.

    Raises
    ------
    UsageError
        If a name is unknown, a list is empty, a number is out of range, only one of protocol and
        detector works on groups, or an option has no meaning for these detectors.
    """
    params = params or {}
    for name, value, least, most in (
        ("seed", seed, 0, Most.SEED),
        ("seeds", seeds, 1, Most.SEEDS),
        ("size", size, 0, Most.SIZE),
        ("seed + seeds - 1", seed + seeds - 1, 0, Most.SEED),
    ):
        if value < least:
            raise UsageError(f"{name} must be at least {least}, got {value}.")
        if value > most:
            raise UsageError(f"{name} must be at most {most}, got {value}.")
    named = {"dataset": datasets, "detector": detectors, "variant": variants, "preset": presets}
    for name, values in {**named, **params}.items():
        if not values:
            raise UsageError(f"{name} needs at least one value, got none.")
    of_protocol = protocol_params_of(protocol, protocol_params or {})
    for name, given in {**params, **of_protocol}.items():
        _check_size(name, given)
    for name in normalize:
        check_name(name, NORMALIZATIONS, "normalisation")
    for fit in fits:
        check_name(fit, SQUARES, "fit")
    for encoder in encoders:
        check_encoders(encoder)
    for detector in detectors:
        check_groups(detector, protocol)
    for preset in presets:
        check_name(preset, PRESETS, "preset")
    _check_asked(detectors, variants, encoders, normalize, size, presets)
    lists = [*named.values(), encoders or "1", normalize or "1", fits or "1", *params.values()]
    times = seeds if any(draws(detector) for detector in detectors) else 1
    if (asked := times * math.prod(len(values) for values in lists)) > Most.CELLS:
        raise UsageError(
            f"these lists ask for {asked:,} runs, and at most {Most.CELLS:,} are taken: "
            "give shorter ones."
        )
    known = {name for detector in detectors for name in defaults(detector)}
    cells = []
    for dataset, detector, variant, preset in product(datasets, detectors, variants, presets):
        entry = entry_of(detector)
        own = {
            name: values
            for name, values in params.items()
            if name in defaults(detector) or name not in known
        }
        for (source, how), fit, values in product(
            _inputs(dataset, detector, variant, encoders, normalize, size),
            fits or ("",),
            product(*own.values()),
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
                fit="" if own_fit(source) in ("", fit) else fit,
                device=device,
            )
            cells += [
                replace(cell, seed=seed + number)
                for number in range(seeds if draws(detector) else 1)
            ]
    if set(fits) - {""} and not any(own_fit(cell.input) for cell in cells):
        raise UsageError(
            f"fit is for images that are resized, and {', '.join(detectors)} sees pixels at their "
            f"own size, got {','.join(fits)}: give --size too, or leave it out."
        )
    return list({cell.key: cell for cell in cells}.values())


def _check_size(name: str, given: Any) -> None:
    """Refuse a number, or one of several, that is not finite or too large to be meant.

    Raises
    ------
    UsageError
    """
    for value in given if isinstance(given, list | tuple) else [given]:
        if isinstance(value, int | float):
            most = Most.DRAWS if name == "draws" else Most.NUMBER
            if not math.isfinite(value) or (isinstance(value, int) and abs(value) > most):
                raise UsageError(
                    f"{name} must be a finite number of at most {most:.0f}, got {str(value)[:40]}."
                )


def _inputs(
    dataset: str,
    detector: str,
    variant: str,
    encoders: Sequence[str],
    normalize: Sequence[str],
    size: int,
) -> list[tuple[str, str]]:
    """List a detector's inputs, each with a normalisation: features as asked for, or pixels."""
    source = detector_input(detector, variant, dataset)
    if source == "features":
        own = entry_of(detector)
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
    """Refuse options that none of the detectors can use; those that can, get them."""
    sources = {
        detector: {detector_input(detector, variant) for variant in variants}
        for detector in detectors
    }
    on_pixels = [detector for detector, found in sources.items() if "features" not in found]
    for name, given in (("encoder", encoders), ("normalize", set(normalize) - {"none"})):
        if len(on_pixels) == len(detectors) and given:
            raise UsageError(
                f"{name} is for features, and {', '.join(on_pixels)} looks at pixels, "
                f"got {','.join(given)}: leave it out."
            )
    if size and not on_pixels:
        raise UsageError(
            f"size is for detectors on pixels, and {', '.join(detectors)} has features, "
            f"got {size}: leave it out."
        )
    if set(presets) != {"paper"} and not any(entry_of(detector).presets for detector in detectors):
        raise UsageError(
            f"{', '.join(detectors)} trains nothing and has no presets, "
            f"got {','.join(presets)}: leave it out."
        )


def check_groups(detector: str, protocol: str) -> None:
    """Check that protocol and detector both work on groups of images, or neither does.

    Raises
    ------
    UsageError
        Also if the detector is unknown.
    """
    groups = PROTOCOLS[protocol].groups
    if entry_of(detector).groups != groups:
        given = "groups of images" if groups else "single images"
        fitting = ", ".join(name for name, entry in DETECTORS.items() if entry.groups == groups)
        raise UsageError(
            f"protocol '{protocol}' gives {given}, which '{detector}' cannot score: "
            f"take one of {fitting}."
        )


def check_encoders(name: str) -> None:
    """Check each encoder in a name such as ``efficientnet_lite0+resnet18``.

    Raises
    ------
    UsageError
        If one is unknown, or named twice.
    """
    names = encoder_names(f"features:{name}")
    for encoder in names:
        if names.count(encoder) > 1:
            raise UsageError(
                f"encoder '{name}' joins '{encoder}' with itself, which changes no order: "
                f"write {'+'.join(dict.fromkeys(names))}."
            )
        try:
            get_encoder(encoder)
        except ValueError as error:
            raise UsageError(str(error)) from None


def check_early(experiments: Sequence[Experiment], workspace: Workspace) -> None:
    """Check what needs neither data nor weights, before either is fetched.

    That is: the detectors' parameters, the engine, and a weights file that was given.

    Raises
    ------
    UsageError
    """
    try:
        for experiment in experiments:
            method = Method.of(experiment)
            method.check_rows(sys.maxsize)  # no data is too small yet
            method.arithmetic()
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
    """Write into a cell what its names stand for today.

    Its key then changes when one of them changes its meaning. The classes are put into the data
    set's order, each once, so that the same cell has one key.

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
        "detector": entry_of(experiment.detector).version,
    }
    if experiment.partition == "validation":
        from benchmarks.protocols import validation  # most runs need no folds

        versions["validation"] = validation.VERSION
    if not classes and dataset.default_classes is None and len(dataset.class_names) > MANY_CLASSES:
        # Before all classes took turns, only the first 20 did, under the key without this.
        versions["classes"] = 2
    arithmetic = Method.of(experiment).arithmetic()
    computed_in = {} if arithmetic is None else {"arithmetic": arithmetic}
    return replace(
        experiment,
        classes=classes,
        resolved={"data": dataset.fingerprint, "versions": versions, **identity, **computed_in},
    )


def plan(
    cells: Sequence[Experiment],
    datasets: Mapping[str, Dataset],
    provenance: Mapping[str, Any],
    made: dict[str, tuple[Split, ...]] | None = None,
) -> list[Batch]:
    """Group cells that one fit serves into batches, and make their splits.

    Parameters
    ----------
    cells : sequence of Experiment
        Resolved.
    datasets : mapping of name to Dataset
    provenance : mapping
        Copied into each result.
    made : dict, optional
        Splits of earlier plans, which are used again; those that are made here are added.

    Returns
    -------
    list of Batch
        Batches that read the same input follow each other, because a worker keeps its last input.

    Raises
    ------
    UsageError
        If a detector cannot train on the rows of a split, or one of its parameters is bad.
    """
    ordered = sorted(cells, key=lambda cell: (cell.dataset, cell.input, cell.normalize))
    made = {} if made is None else made
    batches = []
    for group in same_fit(ordered):
        last = group[-1]
        rows = _key_of_splits(last)
        if rows not in made:
            made[rows] = tuple(make_splits(last, datasets[last.dataset]))
            if not made[rows]:
                raise UsageError(
                    f"protocol '{last.protocol}' makes no split of {last.dataset}: "
                    "give it a data set with such classes, or other parameters."
                )
        _check_rows(group, made[rows])
        batches.append(
            Batch(
                cells=tuple(group),
                splits=made[rows],
                input=join_inputs(group),
                wanted=frozenset(cell.key for cell in group),
                family=family_of(last),
                provenance=provenance,
            )
        )
    return batches


def _key_of_splits(cell: Experiment) -> str:
    """Hash what a cell's splits depend on: everything but its detector and its input."""
    return replace(
        cell,
        detector="",
        variant="",
        preset="none",
        input="",
        normalize="none",
        fit="",
        detector_params={},
        resolved={},
    ).key


def _check_rows(cells: Sequence[Experiment], splits: Sequence[Split]) -> None:
    """Check that each cell's detector can train on the rows of each split."""
    first: dict[int, Split] = {}
    for split in splits:
        first.setdefault(len(split.train), split)
    for cell in cells:
        method = Method.of(cell)
        for n, split in first.items():
            try:
                method.check_rows(n)
            except ValueError as error:
                raise UsageError(f"{cell.dataset}, {split.name}: {error}") from None


def same_fit(experiments: Sequence[Experiment]) -> list[list[Experiment]]:
    """Group experiments that one fit serves.

    They differ only in parameters of the detector's path, and in their inputs, if one of these
    holds the encoders of all. The last of each group has the largest values of the path.
    """
    methods = {experiment.key: Method.of(experiment) for experiment in experiments}
    families: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        family = _family(experiment, methods[experiment.key])
        families.setdefault(family, []).append(experiment)

    def path_values(experiment: Experiment) -> tuple[Any, ...]:
        names = methods[experiment.key].path_parameters
        return tuple(experiment.detector_params[name] for name in names)

    groups = []
    for left in families.values():
        while left:
            held = set(max(left, key=lambda cell: len(set(cell.encoders))).encoders)
            groups.append([cell for cell in left if held.issuperset(cell.encoders)])
            left = [cell for cell in left if not held.issuperset(cell.encoders)]
    return [sorted(group, key=path_values) for group in groups]


def family_of(experiment: Experiment) -> str:
    """Return a name shared by the experiments that one fit could serve.

    It covers everything but the path's parameters and, if the detector joins inputs, the encoders.
    """
    return _family(experiment, Method.of(experiment))


def _family(experiment: Experiment, method: Method) -> str:
    experiment = experiment.with_params(**dict.fromkeys(method.path_parameters))
    if experiment.encoders and method.joins:
        resolved = {name: value for name, value in experiment.resolved.items() if name != "weights"}
        experiment = replace(experiment, input="features", resolved=resolved)
    return experiment.key
