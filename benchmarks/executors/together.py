"""All workers on one job: they fill the feature store of its input together, and share its splits."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import pairwise
from queue import SimpleQueue
from typing import TYPE_CHECKING

from benchmarks.contracts import Progress, Result, Split
from benchmarks.scoring import Watch
from benchmarks.sharing import share_rows
from benchmarks.work import Job

if TYPE_CHECKING:
    from benchmarks.executors import Executor


class Together:
    """Deals jobs out to an executor's workers. May be called from several threads at once.

    Parameters
    ----------
    executor : Executor
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._filling, self._dealing = threading.Lock(), threading.Lock()
        self._filled: set[tuple[str, str]] = set()
        self._dealt = 0  # parts that are being done, or wait for a worker

    def work(self, job: Job, splits: Sequence[Split], watch: Watch, progress: Progress | None) -> Iterator[Result]:
        """Do a job; yield each split's result the moment it is there.

        Parameters
        ----------
        job : Job
        splits : sequence of Split
            All of the job's cells.

        Raises
        ------
        Exception
            Of the first part that fails, when the others have ended.
        """
        self._encode(job, splits, watch, progress)
        todo = [split for split in splits if any((cell.key, split.name) not in job.done for cell in job.experiments)]
        groups = share_rows(todo)
        with self._dealing:
            number = max(1, min(self._executor.workers - self._dealt, len(groups)))
            self._dealt += number
        try:
            if number == 1:
                yield from self._executor.work(job, watch, progress)
            else:
                bounds = [len(groups) * part // number for part in range(number + 1)]
                parts = [_only(job, splits, groups[start:stop]) for start, stop in pairwise(bounds)]
                yield from self._all(parts, watch, _summed(progress, number))
        finally:
            with self._dealing:
                self._dealt -= number

    def _encode(self, job: Job, splits: Sequence[Split], watch: Watch, progress: Progress | None) -> None:
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
                list(self._all([_only(job, splits, [])] * workers, watch, [progress] * workers))
                self._filled.add(wanted)

    def _all(self, parts: Sequence[Job], watch: Watch, progress: Sequence[Progress | None]) -> Iterator[Result]:
        """Do several jobs at once. When nobody takes their results any more, each ends with the one it is at."""
        found: SimpleQueue[Result | None] = SimpleQueue()
        left = threading.Event()

        def do(part: Job, progress: Progress | None) -> None:
            try:
                for result in self._executor.work(part, watch, progress):
                    found.put(result)
                    if left.is_set():
                        return
            finally:
                found.put(None)

        with ThreadPoolExecutor(len(parts)) as pool:
            tasks = [pool.submit(do, *part) for part in zip(parts, progress, strict=True)]
            try:
                for _ in parts:
                    while (result := found.get()) is not None:
                        yield result
            finally:
                left.set()
        for task in tasks:
            task.result()


def _summed(progress: Progress | None, number: int) -> Sequence[Progress | None]:
    """A progress for each of several parts of the same work, whose sums are told."""
    if progress is None:
        return [None] * number
    told: dict[str, dict[int, tuple[int, int]]] = {}
    lock = threading.Lock()

    def report(part: int, what: str, done: int, total: int) -> None:
        with lock:  # or a smaller sum could be told after a larger one
            parts = told.setdefault(what, {})
            parts[part] = done, total
            progress(what, *map(sum, zip(*parts.values(), strict=True)))

    return [partial(report, part) for part in range(number)]


def _only(job: Job, splits: Sequence[Split], groups: Sequence[Sequence[Split]]) -> Job:
    """A job without the splits that are in none of these groups."""
    kept = {split.name for group in groups for split in group}
    others = {(cell.key, split.name) for cell in job.experiments for split in splits if split.name not in kept}
    return replace(job, done=job.done | others)
