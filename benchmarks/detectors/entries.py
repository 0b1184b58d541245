"""What the table of detectors knows of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PRESETS = {
    "paper": "the published settings",
    "cpu": "training shortened for a laptop, scoring not",
}
"""The budgets that a trained detector can have, and what each means. ``paper`` are a detector's defaults.

Under ``cpu`` at most 60,000 images go through a network in the training of a class, and 150,000 through Deep SVDD's small one.
"""

Changes = Mapping[str, Any]


@dataclass(frozen=True)
class Range:
    """The numbers from ``low`` to ``high``, both included, on a logarithmic scale or not: what a sweep may choose from."""

    low: float
    high: float
    log: bool = False


Values = tuple[Any, ...] | Range
"""What a parameter is chosen from."""


@dataclass(frozen=True)
class Variant:
    """A named way to use a detector.

    Attributes
    ----------
    params : dict
        What it changes of the defaults.
    presets : dict
        Preset -> what that changes, in place of what the detector's own preset does.
    input, selection : str
        As in `DetectorEntry`; empty: the detector's.
    note : str
        What of it is not as published, whatever its parameters are, in a few words that tables print.
    """

    params: Changes = field(default_factory=dict)
    presets: Mapping[str, Changes] = field(default_factory=dict)
    input: str = ""
    selection: str = ""
    note: str = ""


@dataclass(frozen=True)
class DetectorEntry:
    """What the table knows of a detector.

    Attributes
    ----------
    target : str
        ``module:Class``.
    input : str
        What it eats: ``features`` (of an encoder), ``pixels``, or ``pixels:256`` for images of that size.
    encoder, normalize : str
        Of features, unless others are asked for.
    groups : bool
        Whether it eats groups of them, (n, size, ...), as only some protocols give.
    summary : str
        One line for ``ls``.
    defaults : dict
        Its parameters that can be set, with their defaults: the published values.
    for_dataset : dict
        Data set -> `Variant` that is always on there: its authors' values for that one.
    variants : dict
        Name -> `Variant`.
    default_variant : str
        The one that is meant if none is named; it changes nothing.
    presets : dict
        Preset -> the parameters it changes; ``paper`` changes none and is not in it. Empty: nothing is trained.
    draws : bool
        Whether it draws at random, so that its scores depend on the seed.
    path : tuple of str
        Parameters that ``score_path`` covers: experiments that differ in these alone are fitted once, at the largest value.
    path_while : dict
        The path is there only while these parameters have these values.
    joined_while : dict or None
        While these parameters have these values, ``score_joined`` serves every input that is joined of the same encoders.
    space : dict
        Parameter -> what a sweep tries for it: several values, or a `Range`.
    toy : dict
        Parameters small enough for the laws, which run on 40 rows.
    selection : str
        ``oracle`` if the point of its path is reported that is best on the test labels, else ``none``.
    note : str
        As in `Variant`.
    version : int
        Raised when a change of code changes results, so that old cells are not taken for new ones.
    """

    target: str
    input: str
    summary: str
    defaults: Changes = field(default_factory=dict)
    for_dataset: Mapping[str, Variant] = field(default_factory=dict)
    variants: Mapping[str, Variant] = field(default_factory=dict)
    default_variant: str = ""
    presets: Mapping[str, Changes] = field(default_factory=dict)
    draws: bool = False
    encoder: str = "efficientnet_lite0"
    normalize: str = "none"
    groups: bool = False
    path: tuple[str, ...] = ()
    path_while: Changes = field(default_factory=dict)
    joined_while: Changes | None = None
    space: Mapping[str, Values] = field(default_factory=dict)
    toy: Changes = field(default_factory=dict)
    selection: str = "none"
    note: str = ""
    version: int = 1
