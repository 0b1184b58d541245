"""One class is normal (one_vs_rest), or all but one (leave_one_class_out). Nothing is random."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.contracts import Split
from benchmarks.protocols.classes import need_training, turns


def one_vs_rest(
    labels: np.ndarray,
    is_train: np.ndarray,
    class_names: Sequence[str],
    *,
    classes: Sequence[str] = (),
    seed: int = 0,  # noqa: ARG001 - nothing is random
) -> Iterator[Split]:
    """Take each class in turn as the normal one.

    The normal class's training images train the detector. All test images are scored; those of the
    other classes are anomalies.

    Parameters
    ----------
    labels : ndarray of shape (n,), int
    is_train : ndarray of shape (n,), bool
    class_names : sequence of str
    classes : sequence of str
        The normal classes to take. Empty means all that have training images.
    seed : int
        Not used.

    Yields
    ------
    Split
        One per normal class.

    Raises
    ------
    UsageError
        If a class is unknown, or has no training or no test image.

    References
    ----------
    arXiv 2002.10445, section 4.1 (unimodal).
    """
    for turn in turns(labels, is_train, class_names, classes):
        need_training(turn.inside, f"class '{turn.name}' has no training image")
        yield Split(turn.name, turn.name, None, 0, turn.inside, turn.test, ~turn.is_class)


def leave_one_class_out(
    labels: np.ndarray,
    is_train: np.ndarray,
    class_names: Sequence[str],
    *,
    classes: Sequence[str] = (),
    seed: int = 0,  # noqa: ARG001 - nothing is random
) -> Iterator[Split]:
    """Leave each class out in turn: its images are the anomalies.

    The training images of all other classes train the detector, and all test images are scored.
    Parameters, errors and what is yielded are those of `one_vs_rest`, with the left-out class in
    place of the normal one.

    References
    ----------
    arXiv 2002.10445, Table 5 (multimodal).
    """
    for turn in turns(labels, is_train, class_names, classes):
        need_training(turn.outside, f"no class other than '{turn.name}' has a training image")
        yield Split(turn.name, turn.name, None, 0, turn.outside, turn.test, turn.is_class)
