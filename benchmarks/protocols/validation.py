"""Validation splits inside the training partition, for choosing parameters.

No test row is in them. The training rows are divided into folds, class by class. For each fold, the
protocol is applied to the training rows alone, as if that fold were the test partition: held-out
images of the normal class against training images of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.contracts import Split, UsageError
from benchmarks.protocols.classes import chosen_classes

FOLDS = 5
"""Each training image is held out in one of these folds."""

ANOMALIES_PER_NORMAL = 1
"""The most anomalies that a fold scores per normal image.

ROCAUC does not depend on this ratio. With ten classes, a fold costs a fifth of what it would with
the anomalies of all nine other classes. Every normal image is scored in any case.
"""

VERSION = 2
"""Raise it when a change of code changes the validation splits."""


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
    """Apply a protocol to the training partition alone, once per fold.

    Parameters
    ----------
    protocol : callable
        From `benchmarks.protocols.PROTOCOLS`.
    labels, is_train, class_names, classes
        As for the protocol.
    seed : int
        The folds and the choice of anomalies depend on the seed, and on nothing that a sweep
        varies.
    groups : bool
        True if the protocol yields sets of images; their anomalies are not subsampled.
    **params
        The protocol's own parameters.

    Yields
    ------
    Split
        The protocol's splits, fold by fold. Their names end in ``-fold0`` .. ``-fold4``; ``draw``
        counts the folds of each draw.

    Raises
    ------
    UsageError
        As for the protocol; also if a chosen class has fewer training images than there are folds,
        or all training images are of one class.
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
    """Assign rows to folds, each class in a random order of its own.

    The result has shape (n,). The folds of a class differ in size by at most one row.

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
    """Return the classes to go through, which are the same in every fold."""
    counts = np.bincount(labels, minlength=len(class_names))
    if np.count_nonzero(counts) < 2:
        raise UsageError(
            "validation uses training images of the other classes as anomalies, but "
            "all training images are of one class: "
            "add images of another class, or use --objective oracle."
        )
    trained = [name for name, count in zip(class_names, counts, strict=True) if count]
    chosen = chosen_classes(class_names, classes, trained)
    for name in chosen:
        if (count := counts[class_names.index(name)]) < FOLDS:
            raise UsageError(
                f"class '{name}' has {count} training images, but validation needs one for each "
                f"of its {FOLDS} folds: "
                "leave the class out of --classes, or use --objective oracle."
            )
    return chosen


def _thinned(split: Split, seed: list[int]) -> np.ndarray:
    """Choose the positions in the test rows to keep, ascending.

    All normal rows stay, and as many anomalies as `ANOMALIES_PER_NORMAL` allows.
    """
    normal, anomalous = np.flatnonzero(~split.is_anomaly), np.flatnonzero(split.is_anomaly)
    most = ANOMALIES_PER_NORMAL * len(normal)
    if len(anomalous) > most:
        anomalous = np.random.default_rng(seed).choice(anomalous, most, replace=False)
    return np.sort(np.concatenate([normal, anomalous]))
