"""Pseudo-splits inside the training partition, on which to choose parameters: no test row is in them.

The training rows are dealt into folds, class by class. In each fold's turn the protocol is applied to the training rows alone, as
if that fold were the test partition: held-out images of the normal class against training images of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.contracts import Split, UsageError
from benchmarks.protocols.classes import chosen_classes

FOLDS = 5
"""Each training image is held out in one of them."""

ANOMALIES_PER_NORMAL = 1
"""Of a fold's anomalies so many are scored for each normal image: ROCAUC does not depend on their share, and of ten classes a
fold then costs a fifth of what it would with all nine of the others; each normal image is scored all the same."""

VERSION = 2
"""Raised when a change of code changes the pseudo-splits."""


def validation_splits(
    protocol: Callable[..., Iterator[Split]],
    labels: np.ndarray,
    is_train: np.ndarray,
    class_names: Sequence[str],
    *,
    classes: Sequence[str] = (),
    seed: int = 0,
    groups: bool = False,
    **params: object,
) -> Iterator[Split]:
    """Apply a protocol to the training partition alone, once a fold.

    Parameters
    ----------
    protocol : callable
        From `benchmarks.protocols.PROTOCOLS`.
    labels, is_train, class_names, classes
        As for the protocol.
    seed : int
        The folds and the choice of anomalies depend on it, and on nothing that a sweep varies.
    groups : bool
        Whether the protocol gives sets of images; those are not thinned.
    **params
        The protocol's own.

    Yields
    ------
    Split
        The protocol's, fold by fold, their names ending in ``-fold0`` .. ``-fold4``; ``draw`` counts the folds of each draw.

    Raises
    ------
    UsageError
        As the protocol; also if a class that takes its turn has fewer training images than there are folds, or all training
        images are of one class.
    """
    rows = np.flatnonzero(is_train)
    of_training = labels[rows]
    if not groups:
        classes = _check(of_training, class_names, classes)
    fold_of = deal(of_training, len(class_names), seed)
    for fold in range(FOLDS):
        for split in protocol(
            of_training, fold_of != fold, class_names, classes=classes, seed=seed, **params
        ):
            kept = (
                np.arange(len(split.test))
                if groups
                else _thinned(split, [seed, fold, class_names.index(split.class_name)])
            )
            yield replace(
                split,
                name=f"{split.name}-fold{fold}",
                draw=split.draw * FOLDS + fold,
                train=rows[split.train],
                test=rows[split.test[kept]],
                is_anomaly=split.is_anomaly[kept],
            )


def deal(labels: np.ndarray, n_classes: int, seed: int) -> np.ndarray:
    """Deal rows into folds, each class in an order of its own: (n,), and a class's folds differ by one row at most.

    Parameters
    ----------
    labels : ndarray of shape (n,), int
    n_classes, seed : int
    """
    fold_of = np.empty(len(labels), np.int64)
    for number in range(n_classes):
        of_class = np.flatnonzero(labels == number)
        fold_of[np.random.default_rng([seed, number]).permutation(of_class)] = (
            np.arange(len(of_class)) % FOLDS
        )
    return fold_of


def _check(labels: np.ndarray, class_names: Sequence[str], classes: Sequence[str]) -> list[str]:
    """The classes that take their turn, the same in every fold."""
    counts = np.bincount(labels, minlength=len(class_names))
    if np.count_nonzero(counts) < 2:
        raise UsageError(
            "validation takes the training images of the other classes for anomalies, and all training images are of one class: "
            "add some of another, or take --objective oracle."
        )
    trained = [name for name, count in zip(class_names, counts, strict=True) if count]
    chosen = chosen_classes(class_names, classes, trained)
    for name in chosen:
        if (count := counts[class_names.index(name)]) < FOLDS:
            raise UsageError(
                f"class '{name}' has {count} training images, and each of the {FOLDS} folds of a validation needs one: "
                "leave it out of --classes, or take --objective oracle."
            )
    return chosen


def _thinned(split: Split, seed: list[int]) -> np.ndarray:
    """Positions in the test rows that are kept: all normal ones, and so many anomalies as `ANOMALIES_PER_NORMAL` allows."""
    normal, anomalous = np.flatnonzero(~split.is_anomaly), np.flatnonzero(split.is_anomaly)
    most = ANOMALIES_PER_NORMAL * len(normal)
    if len(anomalous) > most:
        anomalous = np.random.default_rng(seed).choice(anomalous, most, replace=False)
    return np.sort(np.concatenate([normal, anomalous]))
