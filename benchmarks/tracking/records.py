"""Results as MLflow and the command line show them, and how they are logged.

metric_points   a cell's results as metrics
cell_record     a cell's results as ``run --json`` prints them
measured_tags   what a run says of the code and the process that it comes from
page_params     the experiment as the page shows it
run_name        what the page calls a run
dataset_input   the data set as MLflow shows it
log             tags, params and metrics, in as few requests as MLflow takes
"""

from __future__ import annotations

import getpass
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contracts import CPU_SECONDS, Experiment, Interval, Result
from benchmarks.result_store import split_record
from benchmarks.tracking.connection import owner_tags

MetricPoint = tuple[str, float, int]
"""A metric's name, value and step.

A step must be a Python int. MLflow stores another type silently, and then cannot list the runs.
"""

ALWAYS = {"rocauc", "rocauc_low", "rocauc_high", "average_precision", "prevalence"}
"""Metrics that every result has."""

CHOSEN = "chosen_"
"""A metric with this prefix is the value of a parameter that an oracle chose for a split."""

BATCH = 500
"""Metrics in one request; MLflow takes at most 1000 entries of all kinds."""

PROGRAM = "dn2-bench"
"""What the page names as the source of our runs."""

USUAL_DATASET, USUAL_PROTOCOL, USUAL_PRESETS = "cifar10", "one_vs_rest", ("none", "paper")
"""What a run's name leaves out."""

LONGEST_RUN_NAME = 250

DECIMALS = 7
"""Of a metric, for the page would show sixteen. The exact value stands in ``results.json``."""

LONGEST_DIGEST = 36
"""MLflow's limit for the digest of a data set. The whole digest is in the data set's source."""


def whole(x: float) -> int:
    """Turn a curve's value into a step: a number of images, or of members of a group.

    Raises
    ------
    ValueError
        If it is a fraction. The caller must then give a rule of its own, such as permille.
    """
    if int(x) != x:
        raise ValueError(
            f"the curve's value {x} is not a whole number, and a step must be: "
            "give curve_step, such as permille"
        )
    return int(x)


def metric_points(
    results: Sequence[Result],
    mean: Interval | None = None,
    extra: Mapping[str, float] | None = None,
    curve_step: Callable[[float], int] = whole,
) -> list[MetricPoint]:
    """Return the metrics of a cell.

    They are means over its splits, the mean of each class, times in seconds, and the curve if its
    splits lie on one.

    Parameters
    ----------
    results : sequence of Result
        All splits of one cell.
    mean : Interval, optional
        ROCAUC over the splits, with its bounds.
    extra : mapping, optional
        Further metrics under the names that MLflow shows, such as
        ``throughput/images_per_second`` and ``memory/peak_mb``.
    curve_step : callable
        From a curve's value to its step. Different values need different steps.

    Returns
    -------
    list of (name, value, step)
        On the validation partition, every quality is named ``rocauc_validation`` and so on, so
        that it cannot be taken for a result. A curve of several values has no single ``rocauc``.

    Raises
    ------
    ValueError
        If a value is NaN or infinite, or two values of the curve have the same step.
    """
    suffix = "_validation" if results[0].experiment.partition == "validation" else ""
    rocauc, precision = f"rocauc{suffix}", f"average_precision{suffix}"
    values: dict[tuple[str, int], float] = {}
    if len({result.x for result in results}) == 1:
        values[rocauc, 0] = _mean(results, "rocauc")
        values[precision, 0] = _mean(results, "average_precision")
        for class_name, of_class in _grouped(results, lambda result: result.class_name):
            values[f"{rocauc}/{class_name}", 0] = _mean(of_class, "rocauc")
            for name in of_class[0].metrics.keys() - ALWAYS:
                values[f"{name}{suffix}/{class_name}", 0] = _mean(of_class, name)
        for name in results[0].metrics.keys() - ALWAYS:
            # The mean of what was chosen for each class means nothing.
            if not name.startswith(CHOSEN):
                values[f"{name}{suffix}", 0] = _mean(results, name)
        if mean is not None:
            values[f"{rocauc}_low", 0], values[f"{rocauc}_high", 0] = mean.low, mean.high
    for x, at_x in _grouped(
        [result for result in results if result.x is not None], lambda result: result.x
    ):
        step = int(curve_step(x))
        if (f"{rocauc}_curve", step) in values:
            raise ValueError(
                f"two values of the curve have the step {step}, the second is {x}: "
                "give a finer curve_step"
            )
        values[f"{rocauc}_curve", step] = _mean(at_x, "rocauc")
        for name in at_x[0].metrics.keys() - ALWAYS:
            if not name.startswith(CHOSEN):
                values[f"{name}{suffix}_curve", step] = _mean(at_x, name)
        for class_name, of_class in _grouped(at_x, lambda result: result.class_name):
            values[f"{rocauc}_curve/{class_name}", step] = _mean(of_class, "rocauc")
    values["time/fit_seconds", 0] = sum(result.fit_seconds for result in results)
    values["time/score_seconds", 0] = sum(result.score_seconds for result in results)
    timed = [result for result in results if CPU_SECONDS in result.cost]
    if timed:
        values[CPU_SECONDS, 0] = sum(result.cost[CPU_SECONDS] for result in timed)
        for class_name, of_class in _grouped(timed, lambda result: result.class_name):
            values[f"{CPU_SECONDS}/{class_name}", 0] = sum(
                result.cost[CPU_SECONDS] for result in of_class
            )
    values |= {(name, 0): value for name, value in (extra or {}).items()}
    for (name, _), value in values.items():
        if not math.isfinite(value):
            raise ValueError(
                f"the metric {name} of cell {results[0].experiment.key} is {value}: "
                "it cannot be logged"
            )
    return [(name, round(float(value), DECIMALS), step) for (name, step), value in values.items()]


def _mean(results: Sequence[Result], metric: str) -> float:
    return float(np.mean([result.metrics[metric] for result in results]))


def _grouped(
    results: Iterable[Result], key: Callable[[Result], Any]
) -> Iterable[tuple[Any, list[Result]]]:
    """Group results by a key, in the order in which the keys appear first."""
    groups: dict[Any, list[Result]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return groups.items()


def cell_record(
    results: Sequence[Result], mean: Interval | None = None, selection: str = "none"
) -> dict[str, Any]:
    """Return a cell as ``run --json`` prints it and ``results.json`` keeps it.

    A curve of several values has ``rocauc`` None.

    Parameters
    ----------
    results : sequence of Result
        All splits of one cell.
    mean : Interval, optional
        ROCAUC over the splits, with its bounds.
    selection : {'none', 'oracle', 'validation'}
    """
    experiment = results[0].experiment
    one_value = len({result.x for result in results}) == 1
    low, high = (mean.low, mean.high) if mean is not None and one_value else (None, None)
    return {
        "key": experiment.key,
        "dataset": experiment.dataset,
        "protocol": experiment.protocol,
        "detector": experiment.detector,
        "input": experiment.input,
        "params": experiment.params,
        "selection": selection,
        "rocauc": _mean(results, "rocauc") if one_value else None,
        "rocauc_low": low,
        "rocauc_high": high,
        "splits": split_records(results),
        "seconds": sum(result.fit_seconds + result.score_seconds for result in results),
        "resolved": dict(experiment.resolved),
        "provenance": _distinct(dict(result.provenance) for result in results),
    }


def split_records(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return one record a split: its metrics as fractions in [0, 1], counts and seconds."""
    return [split_record(result) for result in results]


def _distinct(items: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out each item that equals an earlier one."""
    found: list[dict[str, Any]] = []
    for item in items:
        if item not in found:
            found.append(item)
    return found


def measured_tags(kind: str, suite: str, provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of a run that we measured, among them those that MLflow's page shows.

    Parameters
    ----------
    kind : {'cell', 'summary'}
    suite : str
        If it is empty, the tag is "none".
    provenance : mapping
        With ``commit`` and ``dirty``.
    """
    return {
        "kind": kind,
        "suite": suite or "none",
        "source": "measured",
        "mlflow.user": _user(),
        "mlflow.source.name": PROGRAM,
        "mlflow.source.type": "LOCAL",
        **code_tags([provenance]),
        **owner_tags(),
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number without a name
        return "unknown"


def code_tags(provenances: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the commit that the results come from, and whether it had changes.

    A cell that was continued may have splits of several commits.
    """
    commits = dict.fromkeys(
        str(provenance.get("commit") or "unknown") for provenance in provenances
    )
    dirty = any(provenance.get("dirty") for provenance in provenances)
    return {"commit": ",".join(commits), "dirty": str(dirty).lower()}


def short_encoders(names: Sequence[str]) -> str:
    """Name encoders as the page does: ``lite0+lite1``, or ``none``.

    The page cuts off long names, also those of an axis.
    """
    return "+".join(name.removeprefix("efficientnet_") for name in names) or "none"


def short_dataset(name: str) -> str:
    """Name a data set as a run's name does: of one's own data, the last part of their path.

    Examples
    --------
    >>> short_dataset("folder:/home/me/photos/line 3"), short_dataset("cifar10")
    ('line 3', 'cifar10')
    """
    kind, _, path = name.partition(":")
    return Path(path).name or path or kind


def page_params(experiment: Experiment) -> dict[str, Any]:
    """Return the experiment as the page shows it: flat, and each fact once.

    The input is not among them, because it is the encoder, or the size of the images. Its exact
    name is a tag of the run.
    """
    params = {**experiment.params, "encoder": short_encoders(experiment.encoders)}
    if not experiment.encoders:
        params["size"] = experiment.input.partition(":")[2] or "native"
    del params["input"]
    return params


def run_name(experiment: Experiment, usual: Mapping[str, Any]) -> str:
    """Return what the page calls the run: ``dn2 power k=5``, ``contamination dn2 clean=0.5``.

    What distinguishes runs comes first, since the page cuts off the end. What is usual is left out.

    Parameters
    ----------
    experiment : Experiment
    usual : mapping
        The values that the parameters of this detector and protocol have unless others are asked
        for, with ``input`` and ``normalize``.
    """
    own = {**experiment.protocol_params, **experiment.detector_params}
    changed = {
        name: _text(value)
        for name, value in own.items()
        if name not in usual or _text(value) != _text(usual[name])
    }
    if experiment.seed:
        changed["seed"] = _text(experiment.seed)
    if experiment.classes:
        changed["classes"] = _text(experiment.classes)
    normalize = "normalize=none" if experiment.normalize == "none" else experiment.normalize
    if experiment.normalize == usual.get("normalize", "none"):
        normalize = ""
    source = ""
    if experiment.input != usual.get("input"):
        source = short_encoders(experiment.encoders) if experiment.encoders else experiment.input
    words = [
        "" if experiment.protocol == USUAL_PROTOCOL else experiment.protocol,
        experiment.method,
        "" if experiment.preset in USUAL_PRESETS else experiment.preset,
        normalize,
        *(f"{name}={value}" for name, value in changed.items()),
        source,
        "" if experiment.partition == "test" else experiment.partition,
        "" if experiment.dataset == USUAL_DATASET else short_dataset(experiment.dataset),
    ]
    return " ".join(filter(None, words))[:LONGEST_RUN_NAME]


def dataset_input(experiment: Experiment, fingerprint: str) -> Any:
    """Return the data set as an input of the run. Its context is the partition that was scored."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=experiment.dataset,
        digest=fingerprint[:LONGEST_DIGEST],
        source_type="benchmarks",
        source=json.dumps({"dataset": experiment.dataset, "fingerprint": fingerprint}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", experiment.partition)])


def log(
    client: Any,
    run_id: str,
    *,
    tags: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
    points: Iterable[MetricPoint] = (),
) -> None:
    """Log tags, params and metrics to a run, in as few requests as MLflow takes.

    The time of a metric is the start of the run. So a metric that is logged twice is stored once.
    """
    from mlflow.entities import Metric, Param, RunTag

    if params or tags:
        client.log_batch(
            run_id,
            params=[Param(name, _text(value)) for name, value in (params or {}).items()],
            tags=[RunTag(name, value) for name, value in (tags or {}).items()],
        )
    points = list(points)
    started = client.get_run(run_id).info.start_time if points else 0
    metrics = [Metric(name, float(value), started, int(step)) for name, value, step in points]
    for first in range(0, len(metrics), BATCH):
        client.log_batch(run_id, metrics=metrics[first : first + BATCH])


def _text(value: Any) -> str:
    """Spell a param: a number plainly, a list as on the command line."""
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return ",".join(_text(item) for item in value)
    return str(value)
