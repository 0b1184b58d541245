"""PROTOCOLS: labels in, splits out. Pure functions that only choose rows: no pixels, no detector, no file.

A protocol is called with ``labels`` (n,), ``is_train`` (n,), ``class_names``, the ``classes`` asked for (empty: all), a ``seed``
and its own parameters. It never puts a test row into training, and an anomaly there only if that is what it is about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.contracts import Dataset, Experiment, Split, UsageError
from benchmarks.names import check_name

MANY_CLASSES = 20  # arXiv 2002.10445, section 4: of data sets with many categories, the first 20 take their turn


@dataclass(frozen=True)
class ProtocolEntry:
    """What the table knows of a protocol: its function, its definition in a line, its parameters' defaults, its version."""

    function: Callable[..., Iterator[Split]]
    definition: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1


def one_vs_rest(
    labels: np.ndarray, is_train: np.ndarray, class_names: Sequence[str], *, classes: Sequence[str] = (), seed: int = 0
) -> Iterator[Split]:
    """Take each class in turn as the normal one: its training images train, all test images are scored, the rest are anomalies.

    Parameters
    ----------
    labels : ndarray of shape (n,), int
    is_train : ndarray of shape (n,), bool
    class_names : sequence of str
    classes : sequence of str
        The normal classes to take; empty means all, or the first 20 in alphabetical order where there are more.
    seed : int
        Not used: nothing is drawn.

    Yields
    ------
    Split
        One a normal class.

    Raises
    ------
    UsageError
        If a class is unknown, or has no training or no test image.

    References
    ----------
    arXiv 2002.10445, section 4.1 (unimodal).
    """
    del seed
    test = np.flatnonzero(~is_train)
    for class_name in normal_classes(class_names, classes):
        is_class = labels == class_names.index(class_name)
        train = np.flatnonzero(is_class & is_train)
        is_anomaly = ~is_class[test]
        for rows, partition in ((train, "training"), (test[~is_anomaly], "test")):
            if not len(rows):
                raise UsageError(f"class '{class_name}' has no {partition} image: leave it out of --classes.")
        yield Split(class_name, class_name, None, 0, train, test, is_anomaly)


def normal_classes(class_names: Sequence[str], classes: Sequence[str]) -> list[str]:
    """The classes that take their turn, in the data set's order."""
    if not classes:
        first = set(sorted(class_names)[:MANY_CLASSES])
        return [name for name in class_names if name in first]
    return [check_name(name, class_names, "class") for name in classes]


PROTOCOLS: dict[str, ProtocolEntry] = {
    "one_vs_rest": ProtocolEntry(
        one_vs_rest, "one class is normal and trains; every test image is scored; the other classes are the anomalies"
    ),
}


def make_splits(experiment: Experiment, dataset: Dataset) -> list[Split]:
    """The splits of an experiment, in order."""
    entry = PROTOCOLS[experiment.protocol]
    return list(
        entry.function(
            dataset.labels,
            dataset.is_train,
            dataset.class_names,
            classes=experiment.classes,
            seed=experiment.seed,
            **experiment.protocol_params,
        )
    )
