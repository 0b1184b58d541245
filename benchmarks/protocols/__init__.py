"""PROTOCOLS: pure functions that turn labels into splits.

A protocol only chooses rows: it sees no pixels, no detector and no file. It is called with
``labels`` (n,), ``is_train`` (n,), ``class_names``, the requested ``classes`` (empty: all), a
``seed`` and its own parameters. It never puts a test row into training, and puts an anomaly there
only if that is its purpose. The rows of ``train`` ascend (those of a group are shuffled), so that
the same set of rows is always the same array.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import import_module
from os.path import commonpath
from typing import Any

from benchmarks.contracts import Dataset, Experiment, Split, UsageError, check_name

NOT_OWN = ("classes", "seed")
"""The keyword arguments that every protocol has."""


@dataclass(frozen=True)
class ProtocolEntry:
    """A protocol's entry in the table.

    Attributes
    ----------
    target : str
        ``module:function``, imported when it is used.
    definition : str
        An exact definition in one line: it is printed with the numbers.
    groups : bool
        True if its rows are groups, which only detectors on groups can score.
    steps_per_x : int
        A curve's value x is logged at step x times this, because MLflow's steps are whole numbers:
        contamination is logged in permille.
    version : int
        Raise it when a change of code changes splits, so that old results are not taken for new
        ones.
    """

    target: str
    definition: str
    groups: bool = False
    steps_per_x: int = 1
    version: int = 1

    @cached_property
    def function(self) -> Callable[..., Iterator[Split]]:
        """The protocol itself, imported now."""
        module, _, name = self.target.partition(":")
        function: Callable[..., Iterator[Split]] = getattr(import_module(module), name)
        return function

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The protocol's own parameters with their defaults."""
        all_defaults = self.function.__kwdefaults__ or {}
        return {name: all_defaults[name] for name in all_defaults if name not in NOT_OWN}

    def step(self, x: float) -> int:
        """Return the MLflow step of a value on the curve."""
        return round(x * self.steps_per_x)


PROTOCOLS: dict[str, ProtocolEntry] = {
    "one_vs_rest": ProtocolEntry(
        "benchmarks.protocols.one_class:one_vs_rest",
        "one class is normal, and its training images train the detector; every test image is "
        "scored; images of the other classes are the anomalies",
    ),
    "leave_one_class_out": ProtocolEntry(
        "benchmarks.protocols.one_class:leave_one_class_out",
        "all classes but one are normal, and their training images train the detector, without "
        "labels; every test image is scored; images of the left-out class are the anomalies",
    ),
    "small_train": ProtocolEntry(
        "benchmarks.protocols.small_train:small_train",
        "as one_vs_rest, with only n training images of the normal class, drawn without "
        "replacement; within a draw, a smaller n takes a subset of a larger one; "
        "all images make a single draw",
    ),
    "contamination": ProtocolEntry(
        "benchmarks.protocols.contamination:contamination",
        "as one_vs_rest, but a fraction r of the training images are anomalies: to all n normal "
        "training images, round(r/(1-r)*n) training images of the other classes are added, drawn "
        "without replacement; within a draw, a smaller r adds a subset of a larger one",
        steps_per_x=1000,
    ),
    "groups": ProtocolEntry(
        "benchmarks.protocols.groups_of_images:groups",
        "a normal set holds one image of each of the first M classes; an anomalous set holds any M "
        "different images of these classes, drawn uniformly, and redrawn if there is one of each; "
        "n_groups normal sets of training images train the detector; n_groups normal and n_groups "
        "anomalous sets of test images are scored; members are shuffled",
        groups=True,
    ),
}


def protocol_params(name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return all parameters of a protocol: its defaults, overridden by ``asked``.

    Raises
    ------
    UsageError
        If the protocol or a parameter is unknown.
    """
    defaults = PROTOCOLS[check_name(name, PROTOCOLS, "protocol")].defaults
    for parameter in asked:
        if parameter not in defaults:
            having = [other for other, entry in PROTOCOLS.items() if parameter in entry.defaults]
            remedy = f"it has {', '.join(defaults) or 'none'}."
            if having:
                remedy = f"take --protocol {' or '.join(having)}, or leave it out."
            raise UsageError(f"protocol '{name}' has no parameter '{parameter}': {remedy}")
    return {**defaults, **asked}


def usual_classes(experiment: Experiment, dataset: Dataset) -> tuple[str, ...]:
    """Return the classes that a run goes through if none is asked for; empty means all.

    Of the data sets for which the paper says so (arXiv 2002.10445, section 4), they are the first
    in alphabetical order.
    """
    most = dataset.default_classes
    if most is None or PROTOCOLS[experiment.protocol].groups:
        return ()
    first = set(sorted(dataset.class_names)[:most])
    return tuple(name for name in dataset.class_names if name in first)


def classes_left_out(cells: Sequence[Experiment], datasets: Mapping[str, Dataset]) -> list[str]:
    """Say of which data sets a run goes through some classes only, without being asked to."""
    lines = {}
    for cell in cells:
        dataset = datasets.get(cell.dataset)
        if dataset is not None and not cell.classes:
            taken, every = len(usual_classes(cell, dataset)), len(dataset.class_names)
            if 0 < taken < every:
                lines[dataset.name] = (
                    f"{dataset.name}: as in the paper, the first {taken} of its {every} classes in "
                    "alphabetical order take turns; --classes takes others"
                )
    return list(lines.values())


def make_splits(experiment: Experiment, dataset: Dataset) -> list[Split]:
    """Make the splits of an experiment, in order.

    Those of partition ``validation`` are made inside the training partition.

    Raises
    ------
    UsageError
        If the data set has nothing to score, or the protocol finds no such class.
    """
    if dataset.files and dataset.is_train.all():
        folder = shlex.quote(commonpath([path.parent for path in dataset.files]))
        raise UsageError(
            f"{experiment.dataset} has no test image, so there is nothing to measure. To learn "
            f"from these images and find the odd ones among others: dn2 fit {folder} --out "
            "detector, then: dn2 score detector NEW"
        )
    entry = PROTOCOLS[experiment.protocol]
    function = entry.function
    if experiment.partition == "validation":
        from benchmarks.protocols.validation import validation_splits  # most runs need no folds

        function = partial(validation_splits, function, groups=entry.groups)
    return list(
        function(
            dataset.labels,
            dataset.is_train,
            dataset.class_names,
            classes=experiment.classes or usual_classes(experiment, dataset),
            seed=experiment.seed,
            **experiment.protocol_params,
        )
    )
