"""What came of a study: every trial as a line of a table, the best, and what no other beats in speed and size."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
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
from benchmarks.sweep.studies import identity_of, params_of
from dn2.encoders import get_encoder

BYTES_A_NUMBER = 4


@dataclass(frozen=True)
class Trial:
    """A trial that has ended.

    Attributes
    ----------
    number : int
    params : dict
    value : float or None
        Fraction in [0, 1]; None if its cell failed.
    run_id, key : str
        Of its cell.
    error : str
    """

    number: int
    params: Mapping[str, Any]
    value: float | None
    run_id: str = ""
    key: str = ""
    error: str = ""


@dataclass(frozen=True)
class Cost:
    """What an input costs: images encoded in a second (None if not known), and bytes of features an image."""

    images_per_second: float | None
    feature_bytes: int


@dataclass(frozen=True)
class SweepTable:
    """The trials of one study, in the order of their numbers.

    Attributes
    ----------
    question : Question
    study : str
    trials : tuple of Trial
    costs : dict
        Encoder, or encoders joined by +, to `Cost`; empty for detectors on pixels.
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
        """Trials that no other beats both in value and in a measure, by descending value.

        Parameters
        ----------
        measure : {"images_per_second", "feature_bytes"}
            More of the one is better, and less of the other.
        """
        best, front = None, []
        for trial in sorted(self.done, key=lambda trial: (-(trial.value or 0.0), trial.number)):
            cost = self.cost(trial, measure)
            if cost is None:
                continue
            merit = cost if measure == "images_per_second" else -cost
            if best is None or merit > best:
                best = merit
                front.append(trial)
        return front

    def cost(self, trial: Trial, measure: str) -> float | None:
        """What a trial's input costs."""
        cost = self.costs.get(trial.params.get("encoder", ""))
        return None if cost is None else getattr(cost, measure)

    def by_k(self, group: Sequence[str]) -> dict[tuple[Any, ...], dict[int, float]]:
        """The best value at each k, for each combination of the parameters in ``group``; of three values of k or more.

        In the order of the space.
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
        """One flat dict a trial; fractions in [0, 1], not rounded."""
        fronts = {
            measure: {trial.number for trial in self.front(measure)}
            for measure in ("images_per_second", "feature_bytes")
        }
        return [
            {
                "trial": trial.number,
                "objective": self.question.objective,
                "selection": "oracle" if self.question.objective == "oracle" else "none",
                self.question.metric: trial.value,
                **trial.params,
                **self.question.numbers(trial.params),
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

    def best_json(self, best: Trial, winner: Cell | None) -> str:
        """The best parameters, and their values on both partitions, as JSON text."""
        return json.dumps(
            {
                "study": self.study,
                "objective": self.question.objective,
                **best_record(self.question, best, winner),
            },
            indent=1,
        )

    def points(self, best: Trial | None, winner: Cell | None) -> list[tuple[str, float, int]]:
        """Points for the summary run: the best value, the winner's on the test partition, and curves with k as step."""
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


@dataclass(frozen=True)
class Found:
    """What came of a sweep.

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
        Failures, and where the MLflow page shows it.
    """

    study: str
    question: Question
    best: Trial | None
    winner: Cell | None
    table: SweepTable
    outcome: Outcome

    def record(self) -> dict[str, Any]:
        """What ``sweep --json`` prints."""
        trials = [
            {"params": dict(trial.params), "value": trial.value, "run_id": trial.run_id}
            for trial in self.table.trials
        ]
        best = None if self.best is None else best_record(self.question, self.best, self.winner)
        return {"best": best, "trials": trials}


def best_record(question: Question, best: Trial, winner: Cell | None) -> dict[str, Any]:
    """The best parameters with their ROCAUC on either partition; None where it was not measured."""
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


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The trial with the highest value; of equal ones the first."""
    return max(
        (trial for trial in trials if trial.value is not None),
        key=lambda trial: (trial.value or 0.0, -trial.number),
        default=None,
    )


def found_trials(study: optuna.Study, space: Mapping[str, Values]) -> list[Trial]:
    """The trials that have ended: those with a value, and those that failed for a reason and did not succeed later."""
    trials = study.get_trials(deepcopy=False)
    done = {identity_of(trial) for trial in trials if trial.state == TrialState.COMPLETE}
    found = []
    for trial in trials:
        failed = (
            trial.state == TrialState.FAIL
            and "error" in trial.user_attrs
            and identity_of(trial) not in done
        )
        if trial.state == TrialState.COMPLETE or failed:
            params = {name: params_of(trial)[name] for name in space}
            error = "" if trial.value is not None else str(trial.user_attrs["error"])
            found.append(
                Trial(
                    trial.number,
                    params,
                    trial.value,
                    trial.user_attrs.get("run_id", ""),
                    error=error,
                )
            )
    return found


def make_table(
    question: Question, study: str, trials: Sequence[Trial], workspace: Workspace, dataset: Dataset
) -> SweepTable:
    """The trials with what their inputs cost; joined encoders take the sum of their parts' times."""
    costs = {}
    for name in dict.fromkeys(
        trial.params["encoder"] for trial in trials if "encoder" in trial.params
    ):
        parts = encoder_names(f"features:{name}")
        rates = [_images_per_second(dataset, part, workspace) for part in parts]
        known = [rate for rate in rates if rate]
        joined = 1 / sum(1 / rate for rate in known) if len(known) == len(parts) else None
        costs[name] = Cost(joined, BYTES_A_NUMBER * sum(get_encoder(part).width for part in parts))
    return SweepTable(question, study, tuple(trials), costs)


def _images_per_second(dataset: Dataset, encoder: str, workspace: Workspace) -> float | None:
    """How fast features were extracted, if they are on this machine."""
    try:
        rate: float | None = feature_store(dataset, encoder, workspace).open().images_per_second
    except OSError:
        return None
    return rate


LINES_THAT_CAN_BE_TOLD_APART = 9
MEASURES = {
    "images_per_second": "images encoded a second",
    "feature_bytes": "bytes of features an image",
}


def draw(study: optuna.Study, table: SweepTable, say: Callable[[str], None]) -> dict[str, Any]:
    """Every figure that the study has enough trials for, by file name. One that Optuna cannot draw is left out, and said."""
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
            study, params=_two(table, varied), target_name=called
        )
    drawn = {}
    for name, plot in wanted.items():
        try:
            drawn[name] = figures.drawn_by_pyplot(plot)
        except (
            Exception
        ) as error:  # what it needs differs from plot to plot, and is written nowhere
            say(f"{name} is left out, Optuna cannot draw it of these trials: {error}")
    return drawn


def _two(table: SweepTable, varied: list[str]) -> list[str]:
    """The parameters of the contour: k and the encoder if they vary, else the first two, numbers before names."""
    preferred = [name for name in ("k", "encoder") if name in varied]
    by_kind = sorted(varied, key=lambda name: not isinstance(table.question.space[name], Range))
    return list(dict.fromkeys([*preferred, *by_kind]))[:2]


def _by_k(table: SweepTable) -> dict[str, Any]:
    """ROCAUC against k, a line for each encoder and normalisation; of many a figure for each normalisation."""
    lines = table.by_k(("encoder", "normalize"))
    if not lines:
        return {}
    if len(lines) <= LINES_THAT_CAN_BE_TOLD_APART:
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
    """The value against what an input costs, and the front that no trial passes."""
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
