"""Batches in several processes of this machine: joblib's loky, one executor of one process a worker.

A single loky executor loses every unit in flight when one of its processes dies. Each worker
therefore has an executor of its own, and only that one is replaced.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import threading
import time
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from benchmarks.contracts import Batch, Result, Workspace
from benchmarks.executors.executor import ENDED, Pool, WorkerLostError, evaluate_unit
from dn2.engines import available_cores

if TYPE_CHECKING:
    from joblib.externals.loky.process_executor import ProcessPoolExecutor

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Processes(Pool):
    """Worker processes, each with its part of the cores; one that dies is replaced.

    Parameters
    ----------
    workspace : Workspace
    workers : int
        0 means one for each core.
    """

    def __init__(self, workspace: Workspace, workers: int = 0) -> None:
        super().__init__(workspace, workers or available_cores())
        self._environment = dict.fromkeys(THREADS, str(max(1, available_cores() // self.workers)))
        self._closed, self._lock = False, threading.Lock()
        self._started: set[ProcessPoolExecutor] = set()
        self._idle: SimpleQueue[ProcessPoolExecutor | None] = SimpleQueue()
        for _ in range(self.workers):
            self._idle.put(None)  # started when there is something to do

    def evaluate(self, unit: Batch, notices: Path) -> list[Result]:
        """Wait for an idle worker, and have it do a unit: see `Pool`."""
        from joblib.externals.loky.process_executor import BrokenProcessPool, ShutdownExecutorError

        executor = self._idle.get()
        try:
            executor = executor or self._start()
            doing = executor.submit(evaluate_unit, self.workspace, unit, notices)
            found: list[Result] = doing.result()
            return found
        except ShutdownExecutorError as error:
            executor = None
            raise WorkerLostError(ENDED) from error
        except BrokenProcessPool as error:
            if executor is not None:
                self._started.discard(executor)
                executor.shutdown(kill_workers=True)
            executor = None
            if self._closed:
                raise WorkerLostError(ENDED) from error
            code = re.search(r"\{(.+)\}", str(error))  # loky tells it in its message alone
            reason = f"exit code {code[1]}" if code else type(error).__name__
            raise WorkerLostError(
                f"the worker process of {unit.called} died ({reason}): if it ran out of memory, "
                f"lower --workers; what is finished is kept"
            ) from error
        finally:
            self._idle.put(executor)

    def close(self) -> None:
        """End the workers, whatever they do."""
        with self._lock:
            self._closed, started = True, list(self._started)
        for executor in started:
            executor.shutdown(kill_workers=True)
        super().close()

    def _start(self) -> ProcessPoolExecutor:
        from joblib.externals.loky.process_executor import ProcessPoolExecutor

        with self._lock:
            if self._closed:
                raise WorkerLostError(ENDED)
            executor = ProcessPoolExecutor(
                1, env=self._environment, initializer=_begin, initargs=(os.getpid(),)
            )
            self._started.add(executor)
            return executor


def _begin(driver: int) -> None:
    """Prepare a worker process: it ends with its driver, and may start processes of its own."""
    # loky sets a start method that torch's DataLoader and plain multiprocessing cannot use.
    multiprocessing.set_start_method(None, force=True)

    def watch() -> None:
        while os.getppid() == driver:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
