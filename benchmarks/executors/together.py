"""All workers fill the feature store of an input together, before one of them begins with its cells."""

from __future__ import annotations

import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.contracts import Progress
from benchmarks.scoring import Watch
from benchmarks.work import Job

if TYPE_CHECKING:
    from benchmarks.executors import Executor


class Together:
    """Has images encoded by all workers of an executor: each takes the shards that nobody else is at (`dn2.store`).

    Parameters
    ----------
    executor : Executor
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._filling = threading.Lock()
        self._filled: set[tuple[str, str]] = set()

    def encode(self, job: Job, splits: Collection[str], watch: Watch, progress: Progress | None) -> None:
        """Have the features of a job's input computed, unless they are there or the input is pixels.

        Every worker is given the job with nothing to do but to open its input.

        Parameters
        ----------
        job : Job
        splits : collection of str
            The names of all splits of the job's cells.
        """
        first = job.widest
        wanted = first.dataset, first.input
        if self._executor.workers == 1 or not first.input.startswith("features:"):
            return
        nothing = replace(job, done=frozenset((cell.key, name) for cell in job.experiments for name in splits))
        with self._filling:
            if wanted in self._filled:
                return
            with ThreadPoolExecutor(self._executor.workers) as pool:
                tasks = [pool.submit(list, self._executor.work(nothing, watch, progress)) for _ in range(self._executor.workers)]
                for task in tasks:
                    task.result()
            self._filled.add(wanted)
