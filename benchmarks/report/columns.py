"""What tells experiments apart, as labels of columns, and what they share, as a line of settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from benchmarks.contracts import Experiment
from benchmarks.report.table import Column

USUAL = {"variant": "none", "preset": "none", "classes": "all", "partition": "test"}
"""Values that need not be said."""


def make_columns(experiments: Sequence[Experiment], said: Collection[str]) -> tuple[Column, ...]:
    """Label each experiment by the parameters in which they differ; by its key too if that does not tell them apart.

    A preset is said in any case.

    Parameters
    ----------
    experiments : sequence of Experiment
    said : collection of str
        Parameters that the title says.
    """
    each = [_params(experiment, said) for experiment in experiments]
    varied = [name for name in _names(each) if len({str(params.get(name)) for params in each}) > 1]
    telling = [name for name in varied if len(_values(name, each)) > 1]
    labels = [
        ", ".join(f"{name}={params[name]}" for name in telling if name in params) or experiment.detector
        for params, experiment in zip(each, experiments, strict=True)
    ]
    labels = [
        label if experiment.preset == "none" or "preset=" in label else f"{label}, preset={experiment.preset}"
        for label, experiment in zip(labels, experiments, strict=True)
    ]
    if len(set(labels)) < len(labels):
        labels = [f"{label} {experiment.key[:6]}" for label, experiment in zip(labels, experiments, strict=True)]
    return tuple(
        Column(label, experiment.key, {name: params.get(name) for name in varied})
        for label, experiment, params in zip(labels, experiments, each, strict=True)
    )


def settings(experiments: Sequence[Experiment], said: Collection[str]) -> str:
    """Name the parameters that are equal in all experiments that have them, whose they are if not all do, and which differ."""
    each = [_params(experiment, said) for experiment in experiments]
    equal, different = [], []
    for name in sorted(_names(each), key="seed".__eq__):  # the seed last
        value, *more = _values(name, each)
        owners = [experiment.detector for experiment, params in zip(experiments, each, strict=True) if name in params]
        whose = f" ({', '.join(dict.fromkeys(owners))})" if len(owners) < len(experiments) else ""
        if more:
            different.append(name)
        elif USUAL.get(name) != value:
            equal.append(f"{name}={value}{whose}")
    return "; ".join(filter(None, [", ".join(equal), f"side by side: {', '.join(different)}" if different else ""]))


def _names(each: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for params in each for name in params))


def _values(name: str, each: Sequence[Mapping[str, Any]]) -> set[str]:
    return {str(params[name]) for params in each if name in params}


def _params(experiment: Experiment, said: Collection[str]) -> dict[str, Any]:
    """Take the single values (those of a curve are the table's rows), and of encoder and input the one that tells."""
    unsaid = (*said, "encoder" if experiment.params["encoder"] == "none" else "input")
    return {
        name: value for name, value in experiment.params.items() if name not in unsaid and not isinstance(value, (list, tuple))
    }
