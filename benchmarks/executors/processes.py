"""Evaluate batches in several processes of this machine, which joblib's loky starts.

If a process of a loky executor dies, the executor loses every unit that is running. Each worker
therefore has an executor of its own, with one process, and only this executor is replaced.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import threading
import time
from pathlib import Path
from queue import LifoQueue
from typing import TYPE_CHECKING

from benchmarks.contracts import Batch, Result, Workspace
from benchmarks.executors.executor import ENDED, Pool, WorkerLostError, evaluate_unit
from dn2.engines import available_cores

if TYPE_CHECKING:
    from joblib.externals.loky.process_executor import ProcessPoolExecutor

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Processes(Pool):
    """Start worker processes with an equal part of the cores; replace one that dies.

    Parameters
    ----------
    workspace : Workspace
    workers : int
        0 means one for each core.
    """

    def __init__(self, workspace: Workspace, workers: int = 0) -> None:
        # Imported here, not in the threads of the units: two that import joblib at once may each
        # see a part of it that is not finished.
        from joblib.externals.loky import process_executor

        super().__init__(workspace, workers or available_cores())
        self._loky = process_executor
        self._environment = dict.fromkeys(THREADS, str(max(1, available_cores() // self.workers)))
        self._closed, self._lock = False, threading.Lock()
        self._started: set[ProcessPoolExecutor] = set()
        # The last one that became idle is the next to work: no process starts while another idles.
        self._idle: LifoQueue[ProcessPoolExecutor | None] = LifoQueue()
        for _ in range(self.workers):
            self._idle.put(None)  # the process is started when the first unit arrives

    def evaluate(self, unit: Batch, notices: Path) -> list[Result]:
        """Wait for an idle worker, and have it evaluate a unit: see `Pool`."""
        executor = self._idle.get()
        try:
            executor = executor or self._start()
            doing = executor.submit(evaluate_unit, self.workspace, unit, notices)
            found: list[Result] = doing.result()
            return found
        except self._loky.ShutdownExecutorError as error:
            executor = None
            raise WorkerLostError(ENDED) from error
        except self._loky.BrokenProcessPool as error:
            if executor is not None:
                self._started.discard(executor)
                executor.shutdown(kill_workers=True)
            executor = None
            if self._closed:
                raise WorkerLostError(ENDED) from error
            code = re.search(r"\{(.+)\}", str(error))  # only the message has it
            reason = f"exit code {code[1]}" if code else type(error).__name__
            raise WorkerLostError(
                f"the worker process of {unit.called} died ({reason}): if it ran out of memory, "
                f"lower --workers; finished results are kept"
            ) from error
        finally:
            self._idle.put(executor)

    def close(self) -> None:
        """End the workers, even in the middle of a unit."""
        with self._lock:
            self._closed, started = True, list(self._started)
        for executor in started:
            executor.shutdown(kill_workers=True)
        super().close()

    def _start(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._closed:
                raise WorkerLostError(ENDED)
            executor = self._loky.ProcessPoolExecutor(
                1, env=self._environment, initializer=_prepare, initargs=(os.getpid(),)
            )
            self._started.add(executor)
            return executor


def _prepare(driver: int) -> None:
    """Prepare a worker process, so that it ends with its driver and may start processes."""
    # loky sets a start method that torch's DataLoader and plain multiprocessing cannot use.
    multiprocessing.set_start_method(None, force=True)

    def watch() -> None:
        while os.getppid() == driver:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
