"""Few normal training images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.contracts import Split, UsageError
from benchmarks.protocols.classes import Turn, need_training, need_whole, turns

ALL = "all"
N_TRAIN: tuple[int | str, ...] = (10, 25, 50, 100, 250, 500, 1000, 2500, ALL)


def small_train(
    labels: np.ndarray,
    is_train: np.ndarray,
    class_names: Sequence[str],
    *,
    classes: Sequence[str] = (),
    seed: int = 0,
    n_train: Sequence[int | str] = N_TRAIN,
    draws: int = 3,
) -> Iterator[Split]:
    """Train on only n images of the normal class of `one_vs_rest`.

    They are drawn without replacement. A draw is one random order of the class's training images,
    of which the first n are taken, so the images of a smaller n are among those of a larger one.
    All images can be drawn in one way only, so that point has one draw.

    Parameters
    ----------
    labels, is_train, class_names, classes
        As for `one_vs_rest`.
    seed : int
        The order depends on the seed, the draw and the class, but not on which classes were
        requested.
    n_train : sequence of int or "all"
        Numbers of training images. "all" stands for every image of the class; if it is given,
        numbers larger than that are left out.
    draws : int
        The number of random orders.

    Yields
    ------
    Split
        ``x`` is n. Splits are ordered by class, then n, then draw.

    Raises
    ------
    UsageError
        As for `one_vs_rest`; also if a number is not a whole number of at least 1, or, without
        "all", exceeds what the class has; or if draws < 1.

    References
    ----------
    arXiv 2002.10445, Fig. 5. The paper does not give the numbers or the draws: they are this
    project's choice.
    """
    need_whole(draws, 1, "draws")
    if not n_train:
        raise UsageError(
            f"n_train needs at least one number of training images, got none: give one, or {ALL}."
        )
    for turn in turns(labels, is_train, class_names, classes):
        need_training(turn.inside, f"class '{turn.name}' has no training image")
        orders = [
            np.random.default_rng([seed, draw, turn.number]).permutation(turn.inside)
            for draw in range(draws)
        ]
        for n in _numbers(turn, n_train):
            for draw, order in enumerate(orders if n < len(turn.inside) else orders[:1]):
                name = f"{turn.name}-n{n}-draw{draw}"
                yield Split(
                    name, turn.name, float(n), draw, np.sort(order[:n]), turn.test, ~turn.is_class
                )


def _numbers(turn: Turn, n_train: Sequence[int | str]) -> list[int]:
    """Return the numbers of images for one class, each once, in the requested order."""
    there, numbers = len(turn.inside), []
    for n in n_train:
        if isinstance(n, str) and n == ALL:
            numbers.append(there)
            continue
        need_whole(n, 1, f"n_train, unless it is '{ALL}',")
        if int(n) <= there:
            numbers.append(int(n))
        elif ALL not in n_train:
            raise UsageError(
                f"class '{turn.name}' has {there} training images, n_train={n} needs more: "
                f"lower it, or add {ALL}."
            )
    return list(dict.fromkeys(numbers))
