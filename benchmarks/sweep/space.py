"""Say what a study asks: data set, protocol, detector, a space of parameters, and an objective."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any

from benchmarks.contracts import Experiment, UsageError, check_name
from benchmarks.detectors import (
    Method,
    Range,
    Values,
    defaults,
    detector_input,
    search_space,
    selection_of,
)
from benchmarks.experiments import make_experiments

OBJECTIVES = ("validation", "oracle")
INPUT_PARAMETERS = ("encoder", "normalize", "size")
"""Parameters of the input; all others are the detector's own."""


@dataclass(frozen=True)
class Question:
    """State what a study searches, and what it maximises.

    Attributes
    ----------
    dataset, protocol, detector, variant, preset : str
    classes : tuple of str
    seed : int
    objective : {"validation", "oracle"}
        Whether it maximises the mean ROCAUC on validation splits made of the training partition,
        or that on the test partition itself.
    space : dict
        Parameter -> its values, or a `Range`; see `make_space`.
    fit : str
        How images become squares; empty for each input's own way.
    device : str or None
        Where detectors train; it is no part of the question.
    """

    dataset: str
    protocol: str
    detector: str
    variant: str
    preset: str
    classes: tuple[str, ...]
    seed: int
    objective: str
    space: Mapping[str, Values]
    fit: str = ""
    device: str | None = field(default=None, compare=False)

    def check(self) -> None:
        """Check what needs neither data nor weights, each value of the space on its own.

        Raises
        ------
        UsageError
        """
        check_name(self.objective, OBJECTIVES, "objective")
        cell = self.probes()[0]
        if self.objective == "validation" and selection_of(cell) == "oracle":
            raise UsageError(
                f"'{cell.method}' itself chooses on the test labels, whatever validation says: "
                f"take another --variant, or --objective oracle."
            )

    def probes(self) -> list[Experiment]:
        """List cells that cover each value of the space."""
        points = [
            {**self.first, name: value}
            for name, values in self.space.items()
            for value in _examples(values)
        ]
        return [self.cell(params) for params in points or [self.first]]

    def cell(self, params: Mapping[str, Any]) -> Experiment:
        """Make the cell of one point of the space, not yet resolved."""
        of_input = {name: params[name] for name in INPUT_PARAMETERS if name in params}
        (cell,) = make_experiments(
            datasets=(self.dataset,),
            detectors=(self.detector,),
            protocol=self.protocol,
            encoders=[of_input["encoder"]] if "encoder" in of_input else (),
            normalize=[of_input["normalize"]] if "normalize" in of_input else (),
            size=of_input.get("size", 0),
            fits=(self.fit,) if self.fit else (),
            variants=(self.variant,),
            presets=(self.preset,),
            params={name: (value,) for name, value in params.items() if name not in of_input},
            classes=self.classes,
            seed=self.seed,
            device=self.device,
        )
        return replace(cell, partition="test" if self.objective == "oracle" else "validation")

    @property
    def first(self) -> dict[str, Any]:
        """One point of the space."""
        return {name: _examples(values)[0] for name, values in self.space.items()}

    @property
    def size(self) -> int | None:
        """The number of points in the space; None if one of its parameters is a range."""
        counts = [
            None if isinstance(values, Range) else len(values) for values in self.space.values()
        ]
        return None if None in counts else math.prod(count for count in counts if count is not None)

    def grid(self) -> Iterator[dict[str, Any]]:
        """Yield each point of a space without ranges."""
        for values in product(
            *(values for values in self.space.values() if not isinstance(values, Range))
        ):
            yield dict(zip(self.space, values, strict=True))

    @property
    def path(self) -> dict[str, tuple[Any, ...]]:
        """The values of the parameters whose every value one fit covers."""
        names = Method.of(self.cell(self.first)).path_parameters
        of_space = {name: self.space.get(name) for name in names}
        return {name: values for name, values in of_space.items() if isinstance(values, tuple)}

    @property
    def metric(self) -> str:
        """The name of a trial's value."""
        return "rocauc" if self.objective == "oracle" else "rocauc_validation"

    def identity(self, fingerprint: str, versions: Mapping[str, Any]) -> dict[str, str]:
        """Return what two studies of one name must share, as text.

        Parameters
        ----------
        fingerprint : str
            Of the data set.
        versions : mapping
            Of protocol and detector, as `benchmarks.experiments.resolve` writes them into a cell.
        """
        space = {
            name: asdict(values) if isinstance(values, Range) else values
            for name, values in self.space.items()
        }
        fields = ("dataset", "protocol", "detector", "variant", "preset", "seed", "objective")
        return {
            **({"fit": self.fit} if self.fit else {}),
            **{name: str(getattr(self, name)) or "none" for name in fields},
            "classes": ",".join(self.classes) or "all",
            "data": fingerprint,
            "versions": json.dumps(dict(versions)),
            **{f"space of {name}": json.dumps(values) for name, values in space.items()},
        }

    def study_name(self) -> str:
        """Name the study after what it asks, fit for a file."""
        words = (
            self.dataset,
            self.protocol,
            self.detector,
            self.variant,
            *self.classes,
            self.fit,
            self.objective,
        )
        text = "-".join(word for word in words if word)
        return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in text)


def what_fits(
    question: Question, check: Callable[[Experiment], object]
) -> tuple[Question, list[str]]:
    """Drop values that need more training rows than a split has, such as k = 50.

    Parameters
    ----------
    question : Question
    check : callable
        Raises UsageError for a cell that cannot run.

    Returns
    -------
    question : Question
        With the values that fit.
    reasons : list of str
        The values that were dropped, and why.

    Raises
    ------
    UsageError
        If no value is left.
    """
    space, reasons = dict(question.space), []
    for name, values in question.path.items():
        kept = list(values)
        while True:  # from the largest, which needs the most rows
            try:
                check(question.cell({**question.first, name: kept[-1]}))
                break
            except UsageError as error:
                if len(kept) == 1:
                    raise
                reasons.append(f"{name}={kept.pop()}: {error}")
        space[name] = tuple(kept)
    return replace(question, space=space), reasons


def make_space(
    detector: str,
    variant: str,
    dataset: str,
    *,
    encoders: Sequence[str],
    normalize: Sequence[str],
    sizes: Sequence[int] = (),
    k_values: Sequence[int] = (),
    clean: Sequence[float] = (),
) -> dict[str, Values]:
    """Make the space of a study: the detector's own parameters and those of its input.

    Parameters
    ----------
    detector, variant, dataset : str
    encoders, normalize : sequences of names
        For detectors on features; ``a+b`` joins encoders.
    sizes : sequence of int
        Sides in pixels for detectors on pixels; empty means the images' own size.
    k_values, clean : sequences
        Values that replace those of the detector's space.

    Raises
    ------
    UsageError
        If something is given that the detector cannot use.
    """
    on_features = detector_input(detector, variant, dataset) == "features"
    of_input = {"encoder": encoders, "normalize": normalize} if on_features else {"size": sizes}
    if on_features and sizes:
        raise UsageError(
            f"--sizes is for detectors on pixels, and '{detector}' has features: leave it out."
        )
    own = search_space(detector)
    for name, option, values in (("k", "--k-values", k_values), ("clean", "--clean", clean)):
        if values:
            if name not in defaults(detector):
                raise UsageError(
                    f"{option} is for detectors with the parameter '{name}', "
                    f"and '{detector}' has none: leave it out."
                )
            own[name] = tuple(values)
    space = {**{name: values for name, values in of_input.items() if values}, **own}
    # Sorted, because the same values in another order make the same study.
    return {
        name: values if isinstance(values, Range) else tuple(sorted(set(values), key=_rank))
        for name, values in space.items()
    }


def _rank(value: Any) -> tuple[bool, Any]:
    """Sort numbers by size, then names alphabetically."""
    return (isinstance(value, str), value)


def _examples(values: Values) -> tuple[Any, ...]:
    """Return all values, or the ends of a range."""
    return (values.low, values.high) if isinstance(values, Range) else values
