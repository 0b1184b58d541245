"""Cells in this process, one after the other."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.contracts import Progress, Result, Workspace
from benchmarks.scoring import Watch
from benchmarks.work import Job, Worker


class Serial:
    """One worker, in the process and thread that asks.

    Parameters
    ----------
    workspace : Workspace
    """

    workers = 1

    def __init__(self, workspace: Workspace) -> None:
        self.worker = Worker(workspace)

    def work(self, job: Job, watch: Watch, progress: Progress | None) -> Iterator[Result]:
        """Do one job: see `benchmarks.executors.Executor`."""
        return self.worker.work(job, watch, progress)

    def close(self) -> None:
        """Nothing is to be ended."""
