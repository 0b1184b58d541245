"""Find the finished runs that a user names: by id, by name, or by a filter such as detector=dn2.

Unlike a look-up by key, it looks in all experiments of the store, and only at runs of cells that
we measured.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from benchmarks.contracts import UsageError, did_you_mean
from benchmarks.tracking.moving import local_folder

CELLS = "tags.kind = 'cell' and tags.source = 'measured'"
"""What MLflow searches for to find runs of cells that we measured."""

SEARCHABLE = ("dataset", "protocol", "detector", "variant", "normalize", "preset", "partition")
"""Params that have the same values in every version, so that MLflow can search for them."""

CONDITION = re.compile(r"([\w./-]+)=(.*)")
NEXT_CONDITION = re.compile(r",(?=[\w./-]+=)")
"""A comma inside a value, as in contamination=0,0.05, begins no other condition."""

LABEL = re.compile(r"([\w:.-]+)(?: ([\w-]+))?((?: [\w./-]+=\S+)+)")
"""How a comparison labels runs: detector, variant, parameters."""

PAGE = 1000

ID_SHOWN = 8
"""How much of a run's id tells it apart: so much may stand for it."""


@dataclass(frozen=True)
class StoredRun:
    """Hold what a tracking store says of a run.

    Attributes
    ----------
    run_id, name : str
    params, tags : mapping of str to str
    folder : Path or None
        Where its files are, unless only a server can reach them.
    metrics : mapping of str to float
    started : int
        In milliseconds since 1970.
    status : str
        MLflow's word: ``FINISHED``, ``FAILED`` and so on.
    experiment_id : str
    """

    run_id: str
    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    folder: Path | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    started: int = 0
    status: str = "FINISHED"
    experiment_id: str = ""


def find_runs(client: Any, asked: str) -> list[StoredRun]:
    """Find the newest finished run of each cell that ``asked`` names.

    Parameters
    ----------
    client : mlflow.MlflowClient
    asked : str
        A run's id, or at least 8 letters of its beginning; else a run's name; else conditions,
        separated by commas, on params and tags: ``detector=dn2,normalize=l2``, which a comparison
        prints as ``dn2 normalize=l2``. Conditions look at the test partition, unless they name
        another.

    Raises
    ------
    UsageError
        If there is none: with the nearest names, or with the values that there are.
    """
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = _by_id(client, asked) or list(_by_name(client, experiments, asked))
    if not found and (begins := re.fullmatch(rf"(?:.* )?([0-9a-f]{{{ID_SHOWN},31}})", asked)):
        cells = _search(client, experiments, CELLS)
        found = [run for run in cells if run.info.run_id.startswith(begins[1])]
    if found:
        return _newest(_finished(found, asked))
    conditions = _conditions(asked)
    if conditions:
        partition = {} if "partition" in conditions else {"partition": "test"}
        found = _by_conditions(client, experiments, {**conditions, **partition})
        if found:
            return _newest(found)
    raise UsageError(_unknown(client, experiments, asked, conditions))


def all_cells(client: Any) -> tuple[list[StoredRun], list[StoredRun]]:
    """Find the newest finished run of each cell, and the runs of cells that have none.

    Of a cell that was tried more than once without success, the newest try is returned.
    """
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = list(_search(client, experiments, CELLS))
    finished = _newest(run for run in runs if run.info.status == "FINISHED")
    there = {run.tags.get("key", run.run_id) for run in finished}
    return finished, _newest(
        run for run in runs if run.data.tags.get("key", run.info.run_id) not in there
    )


def _by_id(client: Any, asked: str) -> list[Any]:
    from mlflow.exceptions import MlflowException

    if not re.fullmatch("[0-9a-f]{32}", asked):
        return []
    try:
        return [client.get_run(asked)]
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return []


def _by_name(client: Any, experiments: list[str], asked: str) -> Iterator[Any]:
    where = "" if '"' in asked else f'attributes.run_name = "{asked}"'
    for run in _search(client, experiments, where):
        if run.info.run_name == asked:
            yield run


def _by_conditions(client: Any, experiments: list[str], conditions: Mapping[str, str]) -> list[Any]:
    where = [CELLS, "attributes.status = 'FINISHED'"]
    where += [
        f'params.{name} = "{value}"'
        for name, value in conditions.items()
        if name in SEARCHABLE and '"' not in value
    ]
    return [
        run
        for run in _search(client, experiments, " and ".join(where))
        if all(_has(run, name, value) for name, value in conditions.items())
    ]


def _has(run: Any, name: str, value: str) -> bool:
    known = _short(run.data.params.get(name, run.data.tags.get(name, "")))
    return known == _short(value)


def _short(value: str) -> str:
    """Return a name without the prefix that some versions of the page leave out."""
    return value.replace("efficientnet_", "")


def _search(client: Any, experiments: list[str], where: str) -> Iterator[Any]:
    """Yield all runs that match, the newest first."""
    token = None
    while True:
        page = client.search_runs(
            experiments,
            where,
            max_results=PAGE,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def _finished(found: list[Any], asked: str) -> list[Any]:
    """Keep the finished runs of cells that we measured; say why if there is none.

    Raises
    ------
    UsageError
    """
    reason = ""
    kept = []
    for run in found:
        kind, source = run.data.tags.get("kind"), run.data.tags.get("source")
        if source == "paper":
            reason = "it holds published numbers, which have no scores to compare"
        elif kind != "cell":
            reason = f"it is {'a summary' if kind else 'not a run of this suite'}: name a cell's"
        elif run.info.status == "RUNNING":
            reason = "it is not finished: wait, or run the same command again if it was broken off"
        elif run.info.status != "FINISHED":
            reason = f"it ended as {run.info.status}: run the same command again"
        else:
            kept.append(run)
    if not kept:
        raise UsageError(f"run '{asked}' cannot be compared, {reason}.")
    return kept


def _newest(found: Iterable[Any]) -> list[StoredRun]:
    """Keep the newest run of each cell, the oldest of them first."""
    newest: dict[str, Any] = {}
    for run in found:
        key = run.data.tags.get("key", run.info.run_id)
        if key not in newest or run.info.start_time > newest[key].info.start_time:
            newest[key] = run
    return [
        StoredRun(
            run_id=run.info.run_id,
            name=run.info.run_name or run.info.run_id,
            params=dict(run.data.params),
            tags=dict(run.data.tags),
            folder=local_folder(run.info.artifact_uri),
            metrics=dict(run.data.metrics),
            started=run.info.start_time,
            status=run.info.status,
            experiment_id=run.info.experiment_id,
        )
        for run in sorted(newest.values(), key=lambda run: run.info.start_time)
    ]


def _conditions(asked: str) -> dict[str, str]:
    """Read ``detector=dn2,normalize=l2`` or ``dn2 normalize=l2``; empty if it is something else."""
    if label := LABEL.fullmatch(asked):
        variant = {"variant": label[2]} if label[2] else {}
        told = dict(part.split("=", 1) for part in label[3].split())
        return {"detector": label[1], **variant, **told}
    read = [CONDITION.fullmatch(part.strip()) for part in NEXT_CONDITION.split(asked)]
    if not all(read):
        return {}
    return {match[1]: match[2].strip() for match in read if match}


def _unknown(client: Any, experiments: list[str], asked: str, conditions: Mapping[str, str]) -> str:
    """Say that there is no such run, and what there is."""
    cells = [run for run in _search(client, experiments, CELLS) if run.info.status == "FINISHED"]
    if not cells:
        return "the tracking store has no finished run: make some with `run`, then compare them"
    for name, value in conditions.items():
        values = {run.data.params.get(name, run.data.tags.get(name, "")) for run in cells} - {""}
        if not values:
            names = {name for run in cells for name in (*run.data.params, *run.data.tags)}
            return f"no run has the parameter or tag '{name}'.{did_you_mean(name, names)}"
        if _short(value) not in map(_short, values):
            return (
                f"no finished run has {name}={value}.{did_you_mean(value, values)} "
                f"There are: {_some(values)}."
            )
    if conditions:
        return f"no finished run on the test partition has all of {asked}: leave out a condition"
    called = dict.fromkeys(run.info.run_name or "" for run in cells)
    near = [f"'{name}'" for name in get_close_matches(asked, list(called), n=3, cutoff=0.4)]
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return (
        f"there is no run '{asked}'.{hint} Name a run's id, its name, or a filter such as "
        "detector=dn2,normalize=l2."
    )


def _some(values: Iterable[str], most: int = 10) -> str:
    shown = sorted(values)
    return ", ".join(shown[:most]) + (", ..." if len(shown) > most else "")
