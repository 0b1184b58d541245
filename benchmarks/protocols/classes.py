"""Which classes take their turn, and a class's training and test rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.contracts import UsageError, check_name

MANY_CLASSES = 20  # arXiv 2002.10445, section 4: of data sets with many categories, the first 20 take their turn


@dataclass(frozen=True)
class Turn:
    """One class's turn.

    Attributes
    ----------
    name : str
    number : int
        Its position in the data set's classes: draws are seeded with it, so that they do not depend on the classes asked for.
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
    """The turns of the classes asked for, by default of those with training images.

    Raises
    ------
    UsageError
        If a class is unknown or has no test image, or if all test images are of one class: nothing could be told apart.
    """
    test = np.flatnonzero(~is_train)
    made = []
    # Of one's own data the usual layout has training images of the normal class alone: the other classes are anomalies only.
    trained = [
        name for number, name in enumerate(class_names) if (labels[is_train] == number).any()
    ]
    for name in chosen_classes(class_names, classes, trained or class_names):
        number = class_names.index(name)
        is_class = labels == number
        of_test = is_class[test]
        if not of_test.any():
            raise UsageError(
                f"class '{name}' has no test image: add some, or leave it out of --classes."
            )
        if of_test.all():
            raise UsageError(
                f"all test images are of class '{name}': a data set needs test images of two classes at least."
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
    """The classes that take their turn: those asked for, else the eligible, or their first 20 by the alphabet if there are more.

    Raises
    ------
    UsageError
        If a class is unknown.
    """
    if not classes:
        first = set(sorted(eligible)[:MANY_CLASSES])
        return [name for name in class_names if name in first]
    return [check_name(name, class_names, "class") for name in dict.fromkeys(classes)]


def need_training(rows: np.ndarray, which: str) -> None:
    """Raise UsageError if there are no training rows."""
    if not len(rows):
        raise UsageError(f"{which} has no training image: leave it out of --classes.")


def need_whole(value: object, least: int, name: str) -> None:
    """Raise UsageError unless the value is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise UsageError(f"{name} must be a whole number of at least {least}, got {value!r}.")
