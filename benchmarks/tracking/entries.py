"""What is written on a run: its name, tags, params, the data set, and the one way in which all of it is logged."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.contracts import Experiment
from benchmarks.tracking.owner import owner_tags
from benchmarks.tracking.records import Point

BATCH = 500
"""Metrics a request; MLflow takes at most 1000 of all kinds."""

LONGEST_DIGEST = 36
"""Of a data set; MLflow's limit. The whole digest stands in the data set's source."""


def log(
    client: Any,
    run_id: str,
    *,
    tags: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
    points: Iterable[Point] = (),
) -> None:
    """Log in as few requests as MLflow takes. The metrics' time is the run's start: logged twice, they are stored once."""
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


def measured_tags(kind: str, suite: str, provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of a run of ours, a cell or a summary; without a suite, ``suite`` is "none"."""
    return {"kind": kind, "suite": suite or "none", "source": "measured", **code_tags([provenance]), **owner_tags()}


def code_tags(provenances: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the commit that the results come from, or several: a cell that was continued may have splits of two."""
    commits = dict.fromkeys(str(provenance.get("commit") or "unknown") for provenance in provenances)
    dirty = any(provenance.get("dirty") for provenance in provenances)
    return {"commit": ",".join(commits), "dirty": str(dirty).lower()}


def run_name(experiment: Experiment) -> str:
    """Return what the page calls the run, what tells runs apart first, since it cuts the end: ``dn2 l2 k=2 cifar10 resnet18``.

    A trained detector has more parameters than a name can hold: of it, the preset and the seed.
    """
    params = [f"{name}={_text(value)}" for name, value in experiment.detector_params.items()]
    method = [experiment.method]
    if experiment.preset != "none":
        method += [experiment.preset, f"seed={experiment.seed}"]
        params = []
    normalize = "" if experiment.normalize == "none" else experiment.normalize
    source = experiment.input.removeprefix("features:")
    partition = "" if experiment.partition == "test" else experiment.partition
    return " ".join(filter(None, [*method, normalize, *params, partition, experiment.dataset, source]))


def dataset_input(experiment: Experiment, fingerprint: str) -> Any:
    """Return the data set as an input of the run; its context is the partition that was scored."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=experiment.dataset,
        digest=fingerprint[:LONGEST_DIGEST],
        source_type="benchmarks",
        source=json.dumps({"dataset": experiment.dataset, "fingerprint": fingerprint}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", experiment.partition)])


def _text(value: Any) -> str:
    """Spell a param: numbers plain, lists as on the command line."""
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return ",".join(_text(item) for item in value)
    return str(value)
