"""What a study asks: one data set, protocol and detector, a space of parameters, and what is maximised."""

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
OF_INPUT = ("encoder", "normalize", "size")
"""Parameters of what a detector eats; the others are its own."""


@dataclass(frozen=True)
class Question:
    """What is searched, and where.

    Attributes
    ----------
    dataset, protocol, detector, variant, preset : str
    classes : tuple of str
    seed : int
    objective : {"validation", "oracle"}
        The mean ROCAUC on pseudo-splits inside the training partition, or on the test partition itself.
    space : dict
        Parameter -> values to choose from, or a `Range`; see `make_space`.
    device : str or None
        Where detectors train; no part of the question.
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
    device: str | None = field(default=None, compare=False)

    def check(self) -> None:
        """Check all that needs neither data nor weights, each value of the space by itself.

        Raises
        ------
        UsageError
        """
        check_name(self.objective, OBJECTIVES, "objective")
        cell = self.probes()[0]
        if self.objective == "validation" and selection_of(cell) == "oracle":
            raise UsageError(
                f"'{cell.method}' chooses on the test labels itself, whatever validation says: "
                "take another --variant, or --objective oracle."
            )

    def probes(self) -> list[Experiment]:
        """Cells in which each value of the space comes up."""
        points = [
            {**self.first, name: value}
            for name, values in self.space.items()
            for value in _some(values)
        ]
        return [self.cell(params) for params in points or [self.first]]

    def cell(self, params: Mapping[str, Any]) -> Experiment:
        """The cell of one point of the space, not yet resolved."""
        of_input = {name: params[name] for name in OF_INPUT if name in params}
        (cell,) = make_experiments(
            datasets=(self.dataset,),
            detectors=(self.detector,),
            protocol=self.protocol,
            encoders=[of_input[name] for name in ("encoder",) if name in of_input],
            normalize=[of_input[name] for name in ("normalize",) if name in of_input],
            size=of_input.get("size", 0),
            variants=(self.variant,),
            presets=(self.preset,),
            params={name: (value,) for name, value in params.items() if name not in OF_INPUT},
            classes=self.classes,
            seed=self.seed,
            device=self.device,
        )
        return replace(cell, partition="test" if self.objective == "oracle" else "validation")

    @property
    def first(self) -> dict[str, Any]:
        """One point of the space."""
        return {name: _some(values)[0] for name, values in self.space.items()}

    @property
    def size(self) -> int | None:
        """How many points the space has; None if one of its parameters is a range."""
        counts = [
            None if isinstance(values, Range) else len(values) for values in self.space.values()
        ]
        return None if None in counts else math.prod(count for count in counts if count is not None)

    def grid(self) -> Iterator[dict[str, Any]]:
        """Each point of a space without ranges."""
        for values in product(
            *(values for values in self.space.values() if not isinstance(values, Range))
        ):
            yield dict(zip(self.space, values, strict=True))

    def numbers(self, params: Mapping[str, Any]) -> dict[str, float]:
        """The places, from 1, of values that are names, as ``<parameter>_number``: axes of MLflow's contour are numbers."""
        places = {
            name: values
            for name, values in self.space.items()
            if not isinstance(values, Range) and len(values) > 1
        }
        names = [name for name in places if isinstance(params[name], str)]
        return {f"{name}_number": float(places[name].index(params[name]) + 1) for name in names}

    @property
    def path(self) -> dict[str, tuple[Any, ...]]:
        """The values of the parameters for which one fit covers every value."""
        names = Method.of(self.cell(self.first)).path_parameters
        of_space = {name: self.space.get(name) for name in names}
        return {name: values for name, values in of_space.items() if isinstance(values, tuple)}

    @property
    def metric(self) -> str:
        """What the value of a trial is called."""
        return "rocauc" if self.objective == "oracle" else "rocauc_validation"

    def identity(self, fingerprint: str, versions: Mapping[str, Any]) -> dict[str, str]:
        """What two studies of one name must share, as text.

        Parameters
        ----------
        fingerprint : str
            The data set's.
        versions : mapping
            Of protocol and detector, as `benchmarks.experiments.resolve` writes them into a cell.
        """
        space = {
            name: asdict(values) if isinstance(values, Range) else values
            for name, values in self.space.items()
        }
        words = (*("dataset", "protocol", "detector", "variant", "preset", "seed", "objective"),)
        said = {name: str(getattr(self, name)) or "none" for name in words}
        about = {
            "classes": ",".join(self.classes) or "all",
            "data": fingerprint,
            "versions": json.dumps(dict(versions)),
        }
        return {
            **said,
            **about,
            **{f"space of {name}": json.dumps(values) for name, values in space.items()},
        }

    def study_name(self) -> str:
        """A name for the study: what it is about, fit for a file."""
        words = (
            self.dataset,
            self.protocol,
            self.detector,
            self.variant,
            *self.classes,
            self.objective,
        )
        text = "-".join(word for word in words if word)
        return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in text)


def what_fits(
    question: Question, check: Callable[[Experiment], object]
) -> tuple[Question, list[str]]:
    """Leave out values that ask for more training rows than a split has, such as k = 50.

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
        Which values were left out, and why.

    Raises
    ------
    UsageError
        If no value is left.
    """
    space, reasons = dict(question.space), []
    for name, values in question.path.items():
        kept = list(values)
        while True:  # from the largest, which is the first that does not fit
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
    """What a study of a detector may choose from: the detector's own space, and that of its input.

    Parameters
    ----------
    detector, variant, dataset : str
    encoders, normalize : sequences of names
        For detectors on features; joined encoders as ``a+b``.
    sizes : sequence of int
        Sides in pixels for detectors on pixels; none given: the images' own.
    k_values, clean : sequences
        In place of those of the detector's space.

    Raises
    ------
    UsageError
        If something is given that the detector has no use for.
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
                    f"{option} is for detectors with the parameter '{name}', and '{detector}' has none: leave it out."
                )
            own[name] = tuple(values)
    space = {**{name: values for name, values in of_input.items() if values}, **own}
    # Sorted, so that the order in which they were asked for makes no other study.
    return {
        name: values if isinstance(values, Range) else tuple(sorted(set(values), key=_rank))
        for name, values in space.items()
    }


def _rank(value: Any) -> tuple[bool, Any]:
    """Numbers by size, then names by the alphabet."""
    return (isinstance(value, str), value)


def _some(values: Values) -> tuple[Any, ...]:
    return (values.low, values.high) if isinstance(values, Range) else values
