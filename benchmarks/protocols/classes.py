"""Which classes a protocol goes through, and the training and test rows of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.contracts import UsageError, check_name


@dataclass(frozen=True)
class Turn:
    """One class with its rows, as a protocol goes through the classes.

    Attributes
    ----------
    name : str
    number : int
        Its position in the data set's classes. Random draws are seeded with it, so that they do not
        depend on which classes were requested.
    inside, outside : ndarray of int64
        Training rows of the class, and of all other classes, ascending.
    test : ndarray of int64
        All test rows, ascending.
    is_class : ndarray of bool, aligned with ``test``
    """

    name: str
    number: int
    inside: np.ndarray
    outside: np.ndarray
    test: np.ndarray
    is_class: np.ndarray


def turns(
    labels: np.ndarray, is_train: np.ndarray, class_names: Sequence[str], classes: Sequence[str]
) -> list[Turn]:
    """Make a turn for each requested class, by default for each class with training images.

    Raises
    ------
    UsageError
        If a class is unknown or has no test image, or if all test images belong to one class, so
        that nothing could be told apart.
    """
    test = np.flatnonzero(~is_train)
    made = []
    # A user's own data often has training images of the normal class alone.
    # The other classes are then anomalies only.
    trained = [
        name for number, name in enumerate(class_names) if (labels[is_train] == number).any()
    ]
    for name in chosen_classes(class_names, classes, trained or class_names):
        number = class_names.index(name)
        is_class = labels == number
        of_test = is_class[test]
        if not of_test.any() and len(trained) == 1:
            n_train = int((is_class & is_train).sum())
            raise UsageError(
                f"class '{name}' has no test image, and it is the only one to train on: nothing "
                "would show how normal images score. Move about a fifth of its "
                f"{n_train:,} training images to the test set, into the class of the same name. "
                "To score images without a benchmark: dn2 fit, then dn2 score."
            )
        if not of_test.any():
            raise UsageError(
                f"class '{name}' has no test image: add some, or leave the class out of --classes. "
                "To score images without a benchmark: dn2 fit, then dn2 score."
            )
        if of_test.all():
            raise UsageError(
                f"all test images are of class '{name}': "
                "add test images of at least one other class."
            )
        made.append(
            Turn(
                name,
                number,
                np.flatnonzero(is_class & is_train),
                np.flatnonzero(~is_class & is_train),
                test,
                of_test,
            )
        )
    return made


def chosen_classes(
    class_names: Sequence[str], classes: Sequence[str], eligible: Sequence[str]
) -> list[str]:
    """Choose the classes to go through.

    These are the requested ones; if none is requested, the eligible ones.

    Raises
    ------
    UsageError
        If a class is unknown.
    """
    if not classes:
        return [name for name in class_names if name in set(eligible)]
    return [check_name(name, class_names, "class") for name in dict.fromkeys(classes)]


def need_training(rows: np.ndarray, problem: str) -> None:
    """Raise UsageError, which names the ``problem``, if there are no training rows."""
    if not len(rows):
        raise UsageError(f"{problem}: add some, or change --classes.")


def need_whole(value: object, least: int, name: str) -> None:
    """Raise UsageError unless the value is a whole number that is at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise UsageError(f"{name} must be a whole number of at least {least}, got {value!r}.")
