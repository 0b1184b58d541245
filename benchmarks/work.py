"""A job is what travels to wherever cells are computed; a worker does one job after the other."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.contracts import Dataset, Experiment, Progress, Result, Workspace
from benchmarks.datasets import load_dataset
from benchmarks.detectors import widest
from benchmarks.evaluate import run
from benchmarks.inputs import Input, Rows, load_input
from benchmarks.scoring import Watch


@dataclass(frozen=True)
class Job:
    """Cells that one fit serves.

    Attributes
    ----------
    experiments : tuple of Experiment
        Resolved, sharing data set and normalisation; their inputs are that of the widest, or joined of some of its encoders.
    provenance : mapping
        Copied into each result.
    done : frozenset of (key, split name)
        What is left out because its result is there.
    """

    experiments: tuple[Experiment, ...]
    provenance: Mapping[str, Any]
    done: frozenset[tuple[str, str]] = frozenset()

    @property
    def widest(self) -> Experiment:
        """The one whose input is joined of all encoders."""
        return widest(self.experiments)


class Worker:
    """Does jobs, and keeps what the next one probably needs: every data set, and the last input.

    Parameters
    ----------
    workspace : Workspace
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._datasets: dict[str, Dataset] = {}
        self._input: tuple[tuple[str, str], Input] | None = None

    def dataset(self, name: str, progress: Progress | None = None) -> Dataset:
        """Open a data set where and how the workspace says.

        Raises
        ------
        UsageError, MissingDataError
        """
        if name not in self._datasets:
            where = self.workspace
            self._datasets[name] = load_dataset(
                name,
                home=where.home,
                root=where.root,
                skip_corrupt=where.skip_corrupt,
                progress=progress,
            )
        return self._datasets[name]

    def input(self, experiment: Experiment, progress: Progress | None = None) -> Input:
        """Read what a cell's detector eats, computing first whatever the feature store does not hold yet."""
        wanted = experiment.dataset, experiment.input
        if self._input is None or self._input[0] != wanted:
            self._input = None  # two at once may not fit
            dataset = self.dataset(experiment.dataset, progress)
            self._input = wanted, load_input(dataset, experiment.input, self.workspace, progress)
        X = self._input[1]
        return X.normalized(experiment.normalize) if isinstance(X, Rows) else X

    def work(
        self, job: Job, watch: Watch | None = None, progress: Progress | None = None
    ) -> Iterator[Result]:
        """Do a job; yield each split's result the moment it is there."""
        first = job.widest
        X = self.input(first, progress)
        for result in run(
            job.experiments,
            self.dataset(first.dataset),
            X,
            provenance=job.provenance,
            done=job.done,
            progress=progress,
            watch=watch,
        ):
            rate = (
                X.only(result.experiment.encoders).images_per_second
                if isinstance(X, Rows)
                else None
            )
            speed = {"throughput/images_per_second": rate} if rate else {}
            yield replace(result, cost={**speed, "memory/peak_mb": peak_megabytes()})


def peak_megabytes() -> float:
    """The most memory this process has held, in MB; macOS counts in bytes, Linux in kB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
