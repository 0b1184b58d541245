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
    """As `one_vs_rest`, with anomalies making up a share r of the training images.

    All normal training images stay, and ``round(r / (1 - r) * n_normal)`` training images of the other classes join them, drawn
    without replacement. A draw is one random order of those, of which the first are taken: the anomalies of a smaller share are
    among those of a larger one. Where all or none are taken there is one way to do so, and one draw.

    Parameters
    ----------
    labels, is_train, class_names, classes
        As for `one_vs_rest`.
    seed : int
        The order depends on it, the draw and the class, and not on the classes asked for.
    contamination : sequence of float
        Shares r of the whole training set, fractions in [0, 1).
    draws : int
        How many random orders.

    Yields
    ------
    Split
        ``x`` is r; class by class, share by share, draw by draw.

    Raises
    ------
    UsageError
        As for `one_vs_rest`; if a share is outside [0, 1) or asks for more anomalies than there are; draws < 1.

    References
    ----------
    arXiv 2002.10445, Fig. 5. The definition, the shares and the draws are this project's choice: the paper does not give them.
    """
    need_whole(draws, 1, "draws")
    if not contamination:
        raise UsageError("contamination needs at least one share, got none.")
    for share in contamination:
        if isinstance(share, bool | str) or not 0 <= share < 1:
            raise UsageError(
                f"contamination must be a fraction of the training set in [0, 1), got {share!r}."
            )
    for turn in turns(labels, is_train, class_names, classes):
        need_training(turn.inside, f"class '{turn.name}'")
        orders = [
            np.random.default_rng([seed, draw, turn.number]).permutation(turn.outside)
            for draw in range(draws)
        ]
        for share in dict.fromkeys(map(float, contamination)):
            n = round(share / (1 - share) * len(turn.inside))
            if n > len(turn.outside):
                there = f"{len(turn.outside)} training images of other classes"
                raise UsageError(
                    f"contamination={share:g} of class '{turn.name}' needs {n} anomalies, there are {there}: lower it."
                )
            for draw, order in enumerate(orders if 0 < n < len(turn.outside) else orders[:1]):
                train = np.sort(np.concatenate([turn.inside, order[:n]]))
                yield Split(
                    f"{turn.name}-c{share}-draw{draw}",
                    turn.name,
                    share,
                    draw,
                    train,
                    turn.test,
                    ~turn.is_class,
                )
