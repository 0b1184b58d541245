"""SUITES: the lists of cells behind a table or a figure, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ALL_NORMALIZATIONS = ("none", "l2", "power")


@dataclass(frozen=True)
class Suite:
    """A title, and the arguments of `benchmarks.experiments.make_experiments` for each part."""

    title: str
    parts: tuple[Mapping[str, Any], ...]


SUITES: dict[str, Suite] = {
    "main": Suite("DN2 on CIFAR-10, one class against the rest", ({"datasets": ("cifar10",), "normalize": ALL_NORMALIZATIONS},)),
    "both": Suite(
        "DN2 on CIFAR-10 and FashionMNIST, one class against the rest",
        ({"datasets": ("cifar10", "fashion_mnist"), "normalize": ALL_NORMALIZATIONS},),
    ),
    "k_sweep": Suite(
        "DN2 against the number of neighbours",
        ({"datasets": ("cifar10", "fashion_mnist"), "normalize": ALL_NORMALIZATIONS, "params": {"k": (1, 2, 3, 5, 10, 20, 50)}},),
    ),
}
