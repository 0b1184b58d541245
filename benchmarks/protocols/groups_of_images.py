"""Sets of images: a normal set holds one image of each class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.contracts import Split, UsageError
from benchmarks.protocols.classes import chosen_classes, need_whole

GROUP_SIZES = tuple(range(2, 11))


def groups(
    labels: np.ndarray,
    is_train: np.ndarray,
    class_names: Sequence[str],
    *,
    classes: Sequence[str] = (),
    seed: int = 0,
    group_sizes: Sequence[int] = GROUP_SIZES,
    n_groups: int = 1000,
    draws: int = 1,
) -> Iterator[Split]:
    """Tell normal sets of M images, one of each of M classes, from anomalous sets.

    The classes are the first M of the data set, or of the requested ones. Training takes
    ``n_groups`` normal sets from the training partition. The test takes as many normal and as many
    anomalous sets from the test partition. An anomalous set is M different test images of these
    classes; every choice is equally likely, and a choice that happens to be normal is redrawn. An
    image may be in several sets, but not twice in one. The members of each set are shuffled.

    Parameters
    ----------
    labels, is_train, class_names
        As for `one_vs_rest`.
    classes : sequence of str
        The classes to take from, always in the data set's order; empty means all.
    seed : int
        The sets depend on the seed, the draw and M.
    group_sizes : sequence of int
        Sizes M, at least 2.
    n_groups, draws : int

    Yields
    ------
    Split
        ``train`` is (n_groups, M), ``test`` is (2 n_groups, M) with the normal sets first; ``x`` is
        M, ``class_name`` is "all".

    Raises
    ------
    UsageError
        If a class is unknown or has no training or test image, M exceeds the number of classes, no
        class has the two test images that an anomalous set needs, or a number is not a whole number
        in range.

    References
    ----------
    arXiv 2002.10445, Fig. 4. Everything beyond the figure's caption is this project's choice.
    """
    need_whole(n_groups, 1, "n_groups")
    need_whole(draws, 1, "draws")
    if not group_sizes:
        raise UsageError("group_sizes needs at least one size, got none: give one of at least 2.")
    chosen = set(chosen_classes(class_names, classes, class_names) if classes else class_names)
    numbers = [number for number, name in enumerate(class_names) if name in chosen]
    for size in dict.fromkeys(group_sizes):
        need_whole(size, 2, "group size")
        if size > len(numbers):
            raise UsageError(
                f"a group of {size} images takes one of each of {size} classes, but there are "
                f"{len(numbers)}: lower group_sizes."
            )
        train, test = (
            [np.flatnonzero((labels == c) & part) for c in numbers[:size]]
            for part in (is_train, ~is_train)
        )
        _check(train, test, [class_names[c] for c in numbers[:size]])
        for draw in range(draws):
            generator = np.random.default_rng([seed, draw, size])
            normal = _normal(train, n_groups, generator)
            scored = np.concatenate(
                [_normal(test, n_groups, generator), _anomalous(test, n_groups, generator)]
            )
            is_anomaly = np.arange(2 * n_groups) >= n_groups
            yield Split(f"m{size}-draw{draw}", "all", float(size), draw, normal, scored, is_anomaly)


def _check(train: list[np.ndarray], test: list[np.ndarray], names: list[str]) -> None:
    for partition, of_classes in (("training", train), ("test", test)):
        for name, rows in zip(names, of_classes, strict=True):
            if not len(rows):
                raise UsageError(
                    f"class '{name}' has no {partition} image: "
                    "add some, or leave the class out of --classes."
                )
    if max(map(len, test)) < 2:
        raise UsageError(
            f"an anomalous group needs two test images of one class, but {', '.join(names)} "
            "have one each: add images."
        )


def _normal(of_classes: list[np.ndarray], n: int, generator: np.random.Generator) -> np.ndarray:
    """Draw n sets of one row of each class: (n, classes)."""
    return generator.permuted(
        np.stack([generator.choice(rows, n) for rows in of_classes], axis=1), axis=1
    )


def _anomalous(of_classes: list[np.ndarray], n: int, generator: np.random.Generator) -> np.ndarray:
    """Draw n sets of different rows that do not hold one of each class: (n, classes)."""
    size, rows = len(of_classes), np.concatenate(of_classes)
    class_of = np.repeat(np.arange(size), [len(of_class) for of_class in of_classes])
    sets: list[np.ndarray] = []
    while len(sets) < n:
        drawn = generator.choice(len(rows), size, replace=False)
        if len(np.unique(class_of[drawn])) < size:
            sets.append(rows[drawn])
    return np.stack(sets)
