"""All workers on one job: they fill the feature store of its input together, and share its splits."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from queue import SimpleQueue

from benchmarks.contracts import Progress, Result, Split
from benchmarks.executors.executor import Executor
from benchmarks.scoring import Watch, share_rows
from benchmarks.work import Job


class Together:
    """Deals jobs out to an executor's workers. May be called from several threads at once.

    Parameters
    ----------
    executor : Executor
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._filling = threading.Lock()
        self._filled: set[tuple[str, str]] = set()

    def work(
        self, job: Job, splits: Sequence[Split], share: int, watch: Watch, progress: Progress | None
    ) -> Iterator[Result]:
        """Do a job; yield each split's result the moment it is there.

        Parameters
        ----------
        job : Job
        splits : sequence of Split
            All of the job's cells.
        share : int
            How many workers may share the job. Splits that share rows go to one of them.

        Raises
        ------
        Exception
            Of the first part that fails, when the others have ended.
        """
        self._encode(job, splits, watch, progress)
        todo = [
            split
            for split in splits
            if any((cell.key, split.name) not in job.done for cell in job.experiments)
        ]
        groups = share_rows(todo) if share > 1 else [todo]
        number = min(share, len(groups))
        if number < 2:
            yield from self._executor.work(job, watch, progress)
            return
        bounds = [len(groups) * part // number for part in range(number + 1)]
        yield from self._all(
            [_only(job, splits, groups[start:stop]) for start, stop in pairwise(bounds)],
            watch,
            progress,
        )

    def _encode(
        self, job: Job, splits: Sequence[Split], watch: Watch, progress: Progress | None
    ) -> None:
        """Have the features of a job's input computed, unless they are there or the input is pixels.

        Every worker is given the job with nothing to do but to open its input, and takes the shards that nobody else is at
        (`dn2.store`).
        """
        first = job.widest
        wanted = first.dataset, first.input
        if self._executor.workers == 1 or not first.input.startswith("features:"):
            return
        with self._filling:
            if wanted not in self._filled:
                workers = self._executor.workers
                list(self._all([_only(job, splits, [])] * workers, watch, progress))
                self._filled.add(wanted)

    def _all(
        self, parts: Sequence[Job], watch: Watch, progress: Progress | None
    ) -> Iterator[Result]:
        """Do several jobs at once. When nobody takes their results any more, each ends with the one it is at."""
        found: SimpleQueue[Result | None] = SimpleQueue()
        left = threading.Event()

        def do(part: Job) -> None:
            try:
                for result in self._executor.work(part, watch, progress):
                    found.put(result)
                    if left.is_set():
                        return
            finally:
                found.put(None)

        with ThreadPoolExecutor(len(parts)) as pool:
            tasks = [pool.submit(do, part) for part in parts]
            try:
                for _ in parts:
                    while (result := found.get()) is not None:
                        yield result
            finally:
                left.set()
        for task in tasks:
            task.result()


def _only(job: Job, splits: Sequence[Split], groups: Sequence[Sequence[Split]]) -> Job:
    """A job without the splits that are in none of these groups."""
    kept = {split.name for group in groups for split in group}
    others = {
        (cell.key, split.name)
        for cell in job.experiments
        for split in splits
        if split.name not in kept
    }
    return replace(job, done=job.done | others)
