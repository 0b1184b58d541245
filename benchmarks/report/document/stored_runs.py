"""Read what a tracking store has: the finished cells as `Measured`, and what is not whole.

Runs that differ only in the seed become one, as in the tables that `run` prints.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from benchmarks.contracts import Progress, UsageError
from benchmarks.detectors import draws
from benchmarks.report.document.measured import (
    MEAN,
    NOT_SETTINGS,
    Measured,
    Score,
    command_of,
)
from benchmarks.report.tables import mean_of_seeds
from benchmarks.tracking import Tracker, TrackingError
from benchmarks.tracking.finding import StoredRun

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """Hold what a tracking store has.

    Attributes
    ----------
    measured : tuple of Measured
        In the order of the runs, the oldest first.
    stored : dict of str to StoredRun
        Run id -> the run.
    problems : tuple of str
        What is not whole, a line each: runs that did not finish, files that cannot be read.
    unfinished : dict
        (data set, protocol, detector) -> how many of its runs have not finished, by status.
    """

    measured: tuple[Measured, ...]
    stored: Mapping[str, StoredRun]
    problems: tuple[str, ...]
    unfinished: Mapping[tuple[str, str, str], Mapping[str, int]]


def read_store(tracker: Tracker, progress: Progress | None = None) -> Found:
    """Read all finished cells of the test partition, and count the others.

    Raises
    ------
    TrackingError
        If the store does not answer. A run whose files are missing is a line in ``problems``.
    """
    finished, others = tracker.all_cells()
    on_folds = [run for run in finished if run.params.get("partition", "test") != "test"]
    problems = []
    if on_folds:
        problems.append(
            f"{len(on_folds)} runs were scored on validation folds, as trials of a sweep are: "
            "they are choices, not results, and are left out."
        )
    wanted = [run for run in finished if run.params.get("partition", "test") == "test"]
    cells: list[tuple[StoredRun, Measured]] = []
    for number, run in enumerate(wanted, start=1):
        if progress:
            progress("reading results", number, len(wanted))
        try:
            cells.append((run, _measured(run, tracker.read_record(run))))
        except TrackingError as error:
            problems.append(f"Left out: {error}.")
        except (KeyError, TypeError, ValueError) as error:
            problems.append(
                f"Left out: the results of run '{run.name}' ({run.run_id}) are not what was "
                f"logged ({type(error).__name__}: {error})."
            )
    problems += _unfinished_lines(others)
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    for run in others:
        dataset, protocol, detector = (
            run.params.get(name, "unknown") for name in ("dataset", "protocol", "detector")
        )
        counts.setdefault((dataset, protocol, detector), Counter())[run.status] += 1
    return Found(
        measured=tuple(_join_seeds([one for _, one in cells])),
        stored={run.run_id: run for run, _ in cells},
        problems=tuple(problems),
        unfinished=counts,
    )


def _unfinished_lines(others: Sequence[StoredRun]) -> Iterator[str]:
    said = {
        "RUNNING": "not finished: running still, or broken off",
        "KILLED": "broken off; the same command continues it",
        "FAILED": "failed; the tag error says why",
    }
    for status, count in Counter(run.status for run in others).items():
        what = said.get(status, status)
        named = ", ".join(dict.fromkeys(run.name for run in others if run.status == status))
        more = f": {named}" if len(named) < 200 else ""
        yield f"{count} run{'s' * (count > 1)} {what}{more}."


def _measured(run: StoredRun, record: Record) -> Measured:
    """Make it of a run's record."""
    params = record["params"]
    settings = {name: value for name, value in params.items() if name not in NOT_SETTINGS}
    kind, _, size = str(record["input"]).partition(":")
    if kind == "pixels":
        settings = {**settings, "size": size or "native"}
    provenance = record["provenance"][0] if record["provenance"] else {}
    cores, processor = provenance.get("cores"), provenance.get("processor")
    seconds = run.metrics.get("time/cpu_seconds")
    encoding = run.metrics.get("throughput/images_per_second")
    rate, rate_of = _images_per_second(record), "with network"
    if rate is not None and kind == "features":
        rate_of = "scoring alone"
        if encoding:
            rate, rate_of = 1 / (1 / rate + 1 / encoding), "with network"
    made = Measured(
        dataset=str(record["dataset"]),
        protocol=str(record["protocol"]),
        detector=str(record["detector"]),
        variant=str(params.get("variant", "none")),
        preset=str(params.get("preset", "none")),
        settings=settings,
        scores=tuple(_scores(record)),
        selection=str(record["selection"]),
        runs=(run.run_id,),
        cpu_minutes=None if seconds is None else seconds / 60,
        images_per_second=rate,
        rate_of=rate_of if rate else "",
        date=datetime.fromtimestamp(run.started / 1000, UTC).date().isoformat(),
        commit=_commit(record["provenance"]),
        machine=f"{cores} cores of {processor}" if processor else "",
        key=str(record["key"]),
    )
    return replace(made, command=command_of(made))


def _commit(provenances: Sequence[Mapping[str, Any]]) -> str:
    """Name the commits of a record's results; a plus marks changes that were not committed."""
    return " ".join(
        dict.fromkeys(
            f"{str(one.get('commit') or 'unknown')[:12]}{'+' * bool(one.get('dirty'))}"
            for one in provenances
        )
    )


def _images_per_second(record: Record) -> float | None:
    """Return how many test images a second the method scores, of what it takes."""
    images = sum(split["n_test"] for split in record["splits"])
    seconds = sum(split["score_seconds"] for split in record["splits"])
    return images / seconds if seconds > 0 else None


def _scores(record: Record) -> Iterator[Score]:
    splits = record["splits"]
    for split in splits:
        if not all(0 <= split[name] <= 1 for name in ("rocauc", "rocauc_low", "rocauc_high")):
            raise ValueError(f"a ROCAUC of split '{split['name']}' is no fraction")
    if any(split["x"] is not None or split["draw"] > 0 for split in splits):
        yield from _curve(splits)
        return
    for split in splits:
        yield Score(
            split["class_name"],
            split["rocauc"],
            split["rocauc_low"],
            split["rocauc_high"],
            average_precision=split["average_precision"],
        )
    if record["rocauc"] is not None:
        mean = float(np.mean([split["average_precision"] for split in splits]))
        bounds = record["rocauc_low"], record["rocauc_high"]
        yield Score(MEAN, record["rocauc"], *bounds, average_precision=mean)


def _curve(splits: Sequence[Mapping[str, Any]]) -> Iterator[Score]:
    """Average over classes and draws at each x, as `benchmarks.report.curves.mean_curve` does."""
    at: dict[float | None, dict[str, dict[int, float]]] = {}
    for split in splits:
        of_class = at.setdefault(split["x"], {}).setdefault(split["class_name"], {})
        of_class[split["draw"]] = split["rocauc"]
    for x, classes in sorted(at.items(), key=lambda item: item[0] or 0):
        drawn = sorted({draw for values in classes.values() for draw in values})
        means = {name: float(np.mean(list(values.values()))) for name, values in classes.items()}
        of_draws = [
            np.mean([values.get(draw, means[name]) for name, values in classes.items()])
            for draw in drawn
        ]
        error = float(np.std(of_draws, ddof=1) / len(drawn) ** 0.5) if len(drawn) > 1 else None
        yield Score(MEAN, float(np.mean(of_draws)), x=x, standard_error=error, draws=len(drawn))


def _join_seeds(cells: Sequence[Measured]) -> list[Measured]:
    """Join runs that differ only in the seed, if their detector draws at random."""
    groups: dict[str, list[Measured]] = {}
    for one in cells:
        settings = {name: value for name, value in one.settings.items() if name != "seed"}
        if not _draws(one.detector):
            settings = dict(one.settings)
        same = repr(
            (one.subject, one.method, one.preset, one.selection, sorted(settings.items(), key=str))
        )
        groups.setdefault(same, []).append(one)
    return [group[0] if len(group) == 1 else _mean_of(group) for group in groups.values()]


def _draws(detector: str) -> bool:
    try:
        return draws(detector)
    except UsageError:  # a class that this installation does not know
        return True


def _mean_of(group: Sequence[Measured]) -> Measured:
    """Average the scores of several seeds; a score that not all have is left out."""
    first = group[0]
    scores = []
    for score in first.scores:
        same = [
            [one for one in other.scores if (one.class_name, one.x) == (score.class_name, score.x)]
            for other in group
        ]
        if all(same):
            values = [found[0] for found in same]
            mean = mean_of_seeds([one.rocauc for one in values])
            precisions = [one.average_precision for one in values]
            known = [value for value in precisions if value is not None]
            scores.append(
                Score(
                    score.class_name,
                    mean.value,
                    x=score.x,
                    standard_error=mean.high - mean.value,
                    draws=sum(one.draws for one in values),
                    average_precision=math.fsum(known) / len(known) if known else None,
                )
            )
    minutes = [one.cpu_minutes for one in group if one.cpu_minutes is not None]
    settings = {name: value for name, value in first.settings.items() if name != "seed"}
    joined = replace(
        first,
        settings=settings,
        scores=tuple(scores),
        seeds=len(group),
        runs=tuple(run for one in group for run in one.runs),
        cpu_minutes=sum(minutes) if minutes else None,
        date=max(one.date for one in group),
    )
    return replace(joined, command=command_of(joined))
