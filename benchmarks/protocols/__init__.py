"""PROTOCOLS: labels in, splits out. Pure functions that only choose rows: no pixels, no detector, no file.

A protocol is called with ``labels`` (n,), ``is_train`` (n,), ``class_names``, the ``classes`` asked for (empty: all), a ``seed``
and its own parameters. It never puts a test row into training, and an anomaly there only if that is what it is about. The rows of
``train`` ascend (those of a group are shuffled), so that the same set of rows is always the same array.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks.contracts import Dataset, Experiment, Split, UsageError, check_name
from benchmarks.protocols.contamination import RATIOS, contamination
from benchmarks.protocols.groups_of_images import GROUP_SIZES, groups
from benchmarks.protocols.one_class import leave_one_class_out, one_vs_rest
from benchmarks.protocols.small_train import N_TRAIN, small_train
from benchmarks.protocols.validation import validation_splits


@dataclass(frozen=True)
class ProtocolEntry:
    """What the table knows of a protocol.

    Attributes
    ----------
    function : callable
    definition : str
        In one line, exact: it is printed with the numbers.
    defaults : dict
        Its own parameters with their defaults.
    groups : bool
        Whether its rows are groups, which only detectors on groups can score.
    steps_per_x : int
        A curve's step is its x times this: MLflow's steps are whole numbers, so contamination counts in permille.
    version : int
        Raised when a change of code changes splits, so that old cells are not taken for new ones.
    """

    function: Callable[..., Iterator[Split]]
    definition: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    groups: bool = False
    steps_per_x: int = 1
    version: int = 1

    def step(self, x: float) -> int:
        """The step of a curve's value."""
        return round(x * self.steps_per_x)


PROTOCOLS: dict[str, ProtocolEntry] = {
    "one_vs_rest": ProtocolEntry(
        one_vs_rest,
        "one class is normal and trains; every test image is scored; the other classes are the anomalies",
    ),
    "leave_one_class_out": ProtocolEntry(
        leave_one_class_out,
        "all classes but one are normal and train, without labels; every test image is scored; the left-out class is the anomaly",
    ),
    "small_train": ProtocolEntry(
        small_train,
        "as one_vs_rest, with n training images of the normal class, drawn without replacement, nested in n within a draw; "
        "all of them are one draw",
        {"n_train": N_TRAIN, "draws": 3},
    ),
    "contamination": ProtocolEntry(
        contamination,
        "as one_vs_rest, with anomalies as a share r of the whole training set: all n normal training images stay, "
        "round(r/(1-r)*n) training images of the other classes join them, drawn without replacement, nested in r within a draw",
        {"contamination": RATIOS, "draws": 3},
        steps_per_x=1000,
    ),
    "groups": ProtocolEntry(
        groups,
        "a normal set is one image of each of the first M classes, an anomalous set is any M different images of these classes, "
        "drawn uniformly, and again if they are one of each; n_groups normal sets of training images train, n_groups normal and "
        "n_groups anomalous sets of test images are scored; members are shuffled",
        {"group_sizes": GROUP_SIZES, "n_groups": 1000, "draws": 1},
        groups=True,
    ),
}


def protocol_params(name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a protocol: its defaults, then what was asked for.

    Raises
    ------
    UsageError
        If the protocol or a parameter is unknown.
    """
    defaults = PROTOCOLS[check_name(name, PROTOCOLS, "protocol")].defaults
    for parameter in asked:
        if parameter not in defaults:
            raise UsageError(
                f"protocol '{name}' has no parameter '{parameter}': it has {', '.join(defaults) or 'none'}."
            )
    return {**defaults, **asked}


def make_splits(experiment: Experiment, dataset: Dataset) -> list[Split]:
    """The splits of an experiment, in order; those of partition ``validation`` are made inside the training partition."""
    entry = PROTOCOLS[experiment.protocol]
    function = entry.function
    if experiment.partition == "validation":
        function = partial(validation_splits, function, groups=entry.groups)
    return list(
        function(
            dataset.labels,
            dataset.is_train,
            dataset.class_names,
            classes=experiment.classes,
            seed=experiment.seed,
            **experiment.protocol_params,
        )
    )
