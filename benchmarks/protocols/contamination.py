"""Unlabelled anomalies among the training images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.contracts import Split, UsageError
from benchmarks.protocols.classes import need_training, need_whole, turns

RATIOS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)


def contamination(
    labels: np.ndarray,
    is_train: np.ndarray,
    class_names: Sequence[str],
    *,
    classes: Sequence[str] = (),
    seed: int = 0,
    contamination: Sequence[float] = RATIOS,
    draws: int = 3,
) -> Iterator[Split]:
    """Contaminate the training images of `one_vs_rest` with a fraction r of anomalies.

    All normal training images stay. To them, ``round(r / (1 - r) * n_normal)`` training images of
    the other classes are added, drawn without replacement. A draw is one random order of those
    images, of which the first are taken, so the anomalies of a smaller fraction are among those of
    a larger one. If all or none are taken, there is only one way to do so, and therefore one draw.

    Parameters
    ----------
    labels, is_train, class_names, classes
        As for `one_vs_rest`.
    seed : int
        The order depends on the seed, the draw and the class, but not on which classes were
        requested.
    contamination : sequence of float
        Fractions r of the whole training set that are anomalies, in [0, 1).
    draws : int
        The number of random orders.

    Yields
    ------
    Split
        ``x`` is r. Splits are ordered by class, then fraction, then draw.

    Raises
    ------
    UsageError
        As for `one_vs_rest`; also if a fraction is outside [0, 1) or needs more anomalies than
        there are, or if draws < 1.

    References
    ----------
    arXiv 2002.10445, Fig. 5. The paper does not give the definition, the fractions or the draws:
    they are this project's choice.
    """
    need_whole(draws, 1, "draws")
    if not contamination:
        raise UsageError("contamination needs at least one fraction, got none: give one in [0, 1).")
    for fraction in contamination:
        if isinstance(fraction, bool | str) or not 0 <= fraction < 1:
            raise UsageError(
                f"contamination must be a fraction of the training set in [0, 1), got {fraction!r}."
            )
    for turn in turns(labels, is_train, class_names, classes):
        need_training(turn.inside, f"class '{turn.name}' has no training image")
        orders = [
            np.random.default_rng([seed, draw, turn.number]).permutation(turn.outside)
            for draw in range(draws)
        ]
        for fraction in dict.fromkeys(map(float, contamination)):
            n = round(fraction / (1 - fraction) * len(turn.inside))
            if n > len(turn.outside):
                raise UsageError(
                    f"contamination={fraction:g} of class '{turn.name}' needs {n} anomalies, but "
                    f"the other classes have only {len(turn.outside)} training images: lower it."
                )
            for draw, order in enumerate(orders if 0 < n < len(turn.outside) else orders[:1]):
                train = np.sort(np.concatenate([turn.inside, order[:n]]))
                yield Split(
                    f"{turn.name}-c{fraction}-draw{draw}",
                    turn.name,
                    fraction,
                    draw,
                    train,
                    turn.test,
                    ~turn.is_class,
                )
