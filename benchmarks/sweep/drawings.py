"""A study's figures: Optuna's own (history, importances, contour), ROCAUC against k, and the Pareto fronts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna

from benchmarks import figures
from benchmarks.detectors import Range
from benchmarks.sweep.found import SweepTable

LINES_THAT_CAN_BE_TOLD_APART = 9
MEASURES = {"images_per_second": "images encoded a second", "feature_bytes": "bytes of features an image"}


def draw(study: optuna.Study, table: SweepTable, say: Callable[[str], None]) -> dict[str, Any]:
    """Every figure that the study has enough trials for, by file name. One that Optuna cannot draw is left out, and said."""
    if len(table.done) < 2:
        return {}
    return {**_of_optuna(study, table, say), **_by_k(table), **_fronts(table)}


def _title(table: SweepTable) -> str:
    question = table.question
    labels = "the test partition (oracle)" if question.objective == "oracle" else "validation folds of the training partition"
    method = f"{question.detector} {question.variant}".rstrip()
    return f"ROCAUC of {method} on {question.dataset}, {question.protocol}, {labels}"


def _of_optuna(study: optuna.Study, table: SweepTable, say: Callable[[str], None]) -> dict[str, Any]:
    from optuna.visualization import matplotlib as plots

    varied = [name for name in table.question.space if len({str(trial.params[name]) for trial in table.done}) > 1]
    called = f"{table.question.metric} (oracle)" if table.question.objective == "oracle" else table.question.metric
    wanted: dict[str, Callable[[], Any]] = {"history.png": lambda: plots.plot_optimization_history(study, target_name=called)}
    if len(varied) > 1:
        wanted["importances.png"] = lambda: plots.plot_param_importances(study, params=varied)
        wanted["contour.png"] = lambda: plots.plot_contour(study, params=_two(table, varied), target_name=called)
    drawn = {}
    for name, plot in wanted.items():
        try:
            drawn[name] = figures.drawn_by_pyplot(plot)
        except Exception as error:  # what it needs differs from plot to plot, and is written nowhere
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
        parts = {f"by_k-{name}.png": {key: line for key, line in lines.items() if key[1] == name} for name in names}
    return {
        name: figures.curves(
            _title(table),
            "neighbours k",
            {float(k): str(k) for line in part.values() for k in line},
            {
                ", ".join(str(word) for word in key if word is not None) or table.question.detector: {
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
        dots = {number: (x, y) for number, (x, y) in places.items() if x is not None and y is not None}
        if len({x for x, _ in dots.values()}) > 1:
            named = [(*dots[trial.number], str(trial.params["encoder"])) for trial in table.front(measure)]
            drawn[f"pareto-{measure}.png"] = figures.front(_title(table), label, list(dots.values()), named)
    return drawn
