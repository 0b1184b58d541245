"""What an executor is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from benchmarks.contracts import Progress, Result
from benchmarks.scoring import Watch
from benchmarks.work import Job


class Executor(Protocol):
    """Does jobs.

    Attributes
    ----------
    workers : int
        So many jobs are done at once.
    """

    workers: int

    def work(self, job: Job, watch: Watch, progress: Progress | None) -> Iterator[Result]:
        """Do one job; yield each split's result the moment it is there. May be called from any number of threads.

        Raises
        ------
        WorkerLostError
            If several workers died of the job.
        Exception
            What the job itself raises, as in this process.
        """

    def close(self) -> None:
        """End the workers."""
