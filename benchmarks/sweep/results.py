"""Report the outcome of a study: its table of trials, the best one, and figures.

The table also says which trials no other beats in both ROCAUC and speed, or ROCAUC and size.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import TrialState

from benchmarks import figures
from benchmarks.contracts import Cell, Dataset, Workspace
from benchmarks.detectors import Range, Values
from benchmarks.inputs import encoder_names, feature_store
from benchmarks.session import Outcome
from benchmarks.sweep.space import Question
from benchmarks.sweep.studies import params_of, point_of
from dn2.encoders import get_encoder

BYTES_PER_NUMBER = 4
MEASURES = {
    "images_per_second": "images encoded a second",
    "feature_bytes": "bytes of features an image",
}
"""What an input costs -> its label in figures. More of the first is better, less of the second."""

BEST_IN_TEXT = 10

DISTINCT_LINES = 9
"""The most lines that a reader of one figure can tell apart."""


@dataclass(frozen=True)
class Trial:
    """Hold a trial that has ended.

    Attributes
    ----------
    number : int
    params : dict
    value : float or None
        Fraction in [0, 1]; None if its cell failed.
    run_id, key : str
        Of its cell.
    error : str
        Why its cell failed; empty if it did not.
    """

    number: int
    params: Mapping[str, Any]
    value: float | None
    run_id: str = ""
    key: str = ""
    error: str = ""


def ended_trials(study: optuna.Study, space: Mapping[str, Values]) -> list[Trial]:
    """List the trials that have a value, and those that failed and did not succeed later."""
    trials = study.get_trials(deepcopy=False)
    done = {point_of(trial) for trial in trials if trial.state == TrialState.COMPLETE}
    ended = []
    for trial in trials:
        failed = (
            trial.state == TrialState.FAIL
            and "error" in trial.user_attrs
            and point_of(trial) not in done
        )
        if trial.state == TrialState.COMPLETE or failed:
            params = {name: params_of(trial)[name] for name in space}
            error = "" if trial.value is not None else str(trial.user_attrs["error"])
            ended.append(
                Trial(
                    trial.number,
                    params,
                    trial.value,
                    trial.user_attrs.get("run_id", ""),
                    error=error,
                )
            )
    return ended


def cheapest_first(trials: Iterable[Trial]) -> list[Trial]:
    """Sort the trials that have a value by descending value; of equal ones the cheapest is first.

    Values are equal only if their last bits are.
    """
    done = [trial for trial in trials if trial.value is not None]
    return sorted(done, key=lambda trial: (-(trial.value or 0.0), *expense(trial)))


def expense(trial: Trial) -> tuple[float, ...]:
    """Rank a trial by what its parameters cost, and by its number where they cost the same.

    In this order: the encoders that are joined, the numbers in their features, the side of images,
    whether features are normalised, the share of images that is dropped, centres and neighbours.
    These are the same on every machine, other than seconds.
    """
    encoder = str(trial.params.get("encoder", ""))
    names = encoder_names(f"features:{encoder}") if encoder else ()
    return (
        len(names),
        sum(get_encoder(name).width for name in names),
        trial.params.get("size", 0),
        trial.params.get("normalize", "none") != "none",
        trial.params.get("clean", 0),
        trial.params.get("centres", 0),
        trial.params.get("k", 0),
        trial.number,
    )


def best_of(trials: Iterable[Trial]) -> Trial | None:
    """Return the trial with the highest value; of equal ones the cheapest."""
    return next(iter(cheapest_first(trials)), None)


def ties(trials: Iterable[Trial]) -> list[Trial]:
    """List the trials that have the highest value, the cheapest first."""
    ranked = cheapest_first(trials)
    return [trial for trial in ranked if trial.value == ranked[0].value]


@dataclass(frozen=True)
class Cost:
    """Hold what an input costs.

    Attributes
    ----------
    images_per_second : float or None
        How fast its images are encoded; None if unknown.
    feature_bytes : int
        The size of one image's features.
    """

    images_per_second: float | None
    feature_bytes: int


@dataclass(frozen=True)
class SweepTable:
    """Hold the trials of one study, in the order of their numbers.

    Attributes
    ----------
    question : Question
    study : str
    trials : tuple of Trial
    costs : dict
        Encoder, or encoders joined by + -> `Cost`; empty for detectors on pixels.
    """

    question: Question
    study: str
    trials: tuple[Trial, ...]
    costs: Mapping[str, Cost]

    @property
    def done(self) -> list[Trial]:
        """The trials that have a value."""
        return [trial for trial in self.trials if trial.value is not None]

    def front(self, measure: str) -> list[Trial]:
        """List the trials that no other beats in both value and a measure, by descending value.

        Parameters
        ----------
        measure : {"images_per_second", "feature_bytes"}
        """
        sign = 1 if measure == "images_per_second" else -1
        known = [
            (trial, sign * cost)
            for trial in self.done
            if (cost := self.cost(trial, measure)) is not None
        ]
        known.sort(key=lambda one: (-(one[0].value or 0.0), -one[1], one[0].number))
        best, front = None, []
        for trial, merit in known:
            if best is None or merit > best:
                best = merit
                front.append(trial)
        return front

    def cost(self, trial: Trial, measure: str) -> float | None:
        """Return what a trial's input costs; None if unknown, or if it is pixels."""
        cost = self.costs.get(trial.params.get("encoder", ""))
        return None if cost is None else getattr(cost, measure)

    def by_k(self, group: Sequence[str]) -> dict[tuple[Any, ...], dict[int, float]]:
        """Return the best value at each k, for each combination of the parameters in ``group``.

        The combinations come in the order of the space. Fewer than three values of k give nothing.
        """
        lines: dict[tuple[Any, ...], dict[int, float]] = {}
        for trial in self.done:
            if "k" in trial.params:
                line = lines.setdefault(tuple(trial.params.get(name) for name in group), {})
                line[trial.params["k"]] = max(trial.value or 0.0, line.get(trial.params["k"], 0.0))
        if len({k for line in lines.values() for k in line}) < 3:
            return {}
        space: Mapping[str, Any] = self.question.space
        choices = {name: list(space[name]) for name in group if name in space}
        return dict(
            sorted(
                lines.items(),
                key=lambda line: [
                    choices[n].index(v) for n, v in zip(group, line[0], strict=True) if n in choices
                ],
            )
        )

    def records(self) -> list[dict[str, Any]]:
        """Return one flat dict for each trial; values are fractions in [0, 1], not rounded."""
        fronts = {measure: {trial.number for trial in self.front(measure)} for measure in MEASURES}
        return [
            {
                "trial": trial.number,
                "objective": self.question.objective,
                "selection": "oracle" if self.question.objective == "oracle" else "none",
                self.question.metric: trial.value,
                **trial.params,
                **{measure: self.cost(trial, measure) for measure in fronts},
                **{
                    f"on_front_{measure}": trial.number in front
                    for measure, front in fronts.items()
                },
                "key": trial.key,
                "run_id": trial.run_id,
                "error": trial.error,
            }
            for trial in self.trials
        ]

    def to_csv(self) -> str:
        """Write `records` as CSV with a header; None is an empty field."""
        records, text = self.records(), io.StringIO()
        writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return text.getvalue()

    def to_text(self) -> str:
        """Write the best trials as lines of text, the best first."""
        best = cheapest_first(self.done)
        lines = [f"{self.study}: the best of {len(self.done)} trials, {self.question.metric}"]
        for trial in best[:BEST_IN_TEXT]:
            point = " ".join(f"{name}={value}" for name, value in trial.params.items())
            lines.append(f"{trial.value:.4f}  trial {trial.number}: {point}")
        return "\n".join([*lines, ""])

    def best_json(self, best: Trial, winner: Cell | None) -> str:
        """Write the best parameters and their values on both partitions as JSON."""
        return json.dumps(
            {
                "study": self.study,
                "objective": self.question.objective,
                **best_record(self.question, best, winner),
            },
            indent=1,
        )

    def points(self, best: Trial | None, winner: Cell | None) -> list[tuple[str, float, int]]:
        """Return the summary run's points.

        These are the best value, the winner's value on the test partition, and curves over k.
        """
        if best is None or best.value is None:
            return []
        points = [(self.question.metric, best.value, 0)]
        tested = best_record(self.question, best, winner)["rocauc"]
        if tested is not None and self.question.objective == "validation":
            points.append(("rocauc", tested, 0))
        for names, line in self.by_k(("encoder", "normalize")).items():
            name = "/".join(
                [
                    f"{self.question.metric}_by_k",
                    *(str(part).replace("+", " ") for part in names if part is not None),
                ]
            )
            points += [(name, value, int(k)) for k, value in sorted(line.items())]
        return points


def make_table(
    question: Question, study: str, trials: Sequence[Trial], workspace: Workspace, dataset: Dataset
) -> SweepTable:
    """Make the table of trials, with what their inputs cost.

    Joined encoders take the sum of their parts' times.
    """
    costs = {}
    for name in dict.fromkeys(
        trial.params["encoder"] for trial in trials if "encoder" in trial.params
    ):
        parts = encoder_names(f"features:{name}")
        rates = [_images_per_second(dataset, part, workspace, question.fit) for part in parts]
        known = [rate for rate in rates if rate]
        joined = 1 / sum(1 / rate for rate in known) if len(known) == len(parts) else None
        costs[name] = Cost(
            joined, BYTES_PER_NUMBER * sum(get_encoder(part).width for part in parts)
        )
    return SweepTable(question, study, tuple(trials), costs)


def _images_per_second(
    dataset: Dataset, encoder: str, workspace: Workspace, fit: str
) -> float | None:
    """Return how fast features were extracted; None if they are not on this machine."""
    try:
        store = feature_store(dataset, encoder, workspace, fit)
        rate: float | None = store.open().images_per_second
    except OSError:
        return None
    return rate


@dataclass(frozen=True)
class SweepOutcome:
    """Hold the outcome of a sweep.

    Attributes
    ----------
    study : str
    question : Question
    best : Trial or None
        None if every trial failed.
    winner : Cell or None
        The best parameters on the test partition.
    table : SweepTable
    outcome : Outcome
        Of the session: failures, and where the MLflow page shows it.
    """

    study: str
    question: Question
    best: Trial | None
    winner: Cell | None
    table: SweepTable
    outcome: Outcome

    def record(self) -> dict[str, Any]:
        """Return what ``sweep --json`` prints."""
        trials = [
            {"params": dict(trial.params), "value": trial.value, "run_id": trial.run_id}
            for trial in self.table.trials
        ]
        best = None if self.best is None else best_record(self.question, self.best, self.winner)
        return {"best": best, "trials": trials}


def best_record(question: Question, best: Trial, winner: Cell | None) -> dict[str, Any]:
    """Return the best parameters and their ROCAUC on each partition, None if not measured."""
    if question.objective == "oracle":
        return {
            "params": dict(best.params),
            "rocauc_validation": None,
            "rocauc": best.value,
            "selection": "oracle",
        }
    tested = (
        None
        if winner is None
        else sum(result.metrics["rocauc"] for result in winner.results) / len(winner.results)
    )
    return {
        "params": dict(best.params),
        "rocauc_validation": best.value,
        "rocauc": tested,
        "selection": "validation",
    }


def draw_figures(
    study: optuna.Study, table: SweepTable, say: Callable[[str], None]
) -> dict[str, Any]:
    """Draw every figure that the study has enough trials for, by file name.

    A figure that Optuna cannot draw is left out, and ``say`` is called with the reason.
    """
    if len(table.done) < 2:
        return {}
    return {**_of_optuna(study, table, say), **_by_k(table), **_fronts(table)}


def _title(table: SweepTable) -> str:
    question = table.question
    labels = (
        "the test partition (oracle)"
        if question.objective == "oracle"
        else "validation folds of the training partition"
    )
    method = f"{question.detector} {question.variant}".rstrip()
    return f"ROCAUC of {method} on {question.dataset}, {question.protocol}, {labels}"


def _of_optuna(
    study: optuna.Study, table: SweepTable, say: Callable[[str], None]
) -> dict[str, Any]:
    from optuna.visualization import matplotlib as plots

    varied = [
        name
        for name in table.question.space
        if len({str(trial.params[name]) for trial in table.done}) > 1
    ]
    called = (
        f"{table.question.metric} (oracle)"
        if table.question.objective == "oracle"
        else table.question.metric
    )
    wanted: dict[str, Callable[[], Any]] = {
        "history.png": lambda: plots.plot_optimization_history(study, target_name=called)
    }
    if len(varied) > 1:
        wanted["importances.png"] = lambda: plots.plot_param_importances(study, params=varied)
        wanted["contour.png"] = lambda: plots.plot_contour(
            study, params=_contour_axes(table, varied), target_name=called
        )
    drawn = {}
    for name, plot in wanted.items():
        try:
            drawn[name] = figures.drawn_by_pyplot(plot)
        except Exception as error:  # each plot needs something else, which Optuna documents nowhere
            say(f"{name} is left out, because Optuna cannot draw it from these trials: {error}")
    return drawn


def _contour_axes(table: SweepTable, varied: list[str]) -> list[str]:
    """Choose the contour's parameters: k and the encoder if they vary, then numbers, then names."""
    preferred = [name for name in ("k", "encoder") if name in varied]
    by_kind = sorted(varied, key=lambda name: not isinstance(table.question.space[name], Range))
    return list(dict.fromkeys([*preferred, *by_kind]))[:2]


def _by_k(table: SweepTable) -> dict[str, Any]:
    """Draw ROCAUC against k, a line for each encoder and normalisation.

    If there are too many lines, each normalisation gets a figure of its own.
    """
    lines = table.by_k(("encoder", "normalize"))
    if not lines:
        return {}
    if len(lines) <= DISTINCT_LINES:
        parts = {"by_k.png": lines}
    else:
        names = dict.fromkeys(normalize for _, normalize in lines)
        parts = {
            f"by_k-{name}.png": {key: line for key, line in lines.items() if key[1] == name}
            for name in names
        }
    return {
        name: figures.curves(
            _title(table),
            "neighbours k",
            {float(k): str(k) for line in part.values() for k in line},
            {
                ", ".join(str(word) for word in key if word is not None)
                or table.question.detector: {
                    float(k): (value, value, value) for k, value in line.items()
                }
                for key, line in part.items()
            },
            "none",
        )
        for name, part in parts.items()
    }


def _fronts(table: SweepTable) -> dict[str, Any]:
    """Draw the value against what an input costs, and the front that no trial passes."""
    drawn = {}
    for measure, label in MEASURES.items():
        places = {trial.number: (table.cost(trial, measure), trial.value) for trial in table.done}
        dots = {
            number: (x, y) for number, (x, y) in places.items() if x is not None and y is not None
        }
        if len({x for x, _ in dots.values()}) > 1:
            named = [
                (*dots[trial.number], str(trial.params["encoder"]))
                for trial in table.front(measure)
            ]
            drawn[f"pareto-{measure}.png"] = figures.front(
                _title(table), label, list(dots.values()), named
            )
    return drawn
