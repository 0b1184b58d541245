"""Define executors: the one in this process, and the base of those with workers elsewhere.

A `Pool` sends a worker one unit at a time: a batch with some of its splits. The worker appends
losses and progress to a file under ``DN2_HOME``, and the driver reads it (`Notices`).
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import lru_cache
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Protocol

from benchmarks.contracts import (
    Batch,
    Experiment,
    OutsideError,
    Progress,
    Result,
    Split,
    Workspace,
)
from benchmarks.evaluate import Worker
from benchmarks.result_store import ResultStore
from benchmarks.scoring import Watch, share_rows

TRIES = 3
"""A unit that has killed this many workers is given up."""

SECONDS_BETWEEN_LOOKS = 0.25

Results = Generator[Result, None, None]
"""Results as they come. Closing it drops what has not begun."""

ENDED = "the workers have been ended; finished results are kept"


class WorkerLostError(OutsideError):
    """Report a worker that died: it was killed, ran out of memory, or its machine is gone."""


class Executor(Protocol):
    """Evaluate batches.

    Attributes
    ----------
    workers : int
        How many units are evaluated at once.
    worker : Worker
        The one of this process: it opens data sets for the driver.
    """

    workers: int
    worker: Worker

    def work(self, batch: Batch, watch: Watch, progress: Progress | None) -> Results:
        """Evaluate what is left of a batch, yielding each result as soon as it exists.

        Any number of threads may call it.

        Raises
        ------
        WorkerLostError
            If one unit has killed several workers.
        Exception
            The unit's own error, as in this process.
        """

    def close(self) -> None:
        """End the workers."""


class Serial:
    """Evaluate batches in the process and thread that call it.

    Parameters
    ----------
    workspace : Workspace
    """

    workers = 1

    def __init__(self, workspace: Workspace) -> None:
        self.worker = Worker(workspace)

    def work(self, batch: Batch, watch: Watch, progress: Progress | None) -> Results:
        """Evaluate what is left of a batch: see `Executor`."""
        return self.worker.work(batch, watch, progress)

    def close(self) -> None:
        """End nothing: there are no workers."""


class Pool(ABC):
    """Deal units out to workers elsewhere; a unit whose worker dies is retried.

    Parameters
    ----------
    workspace : Workspace
    workers : int
    """

    def __init__(self, workspace: Workspace, workers: int) -> None:
        self.workspace = workspace
        self.workers = workers
        self.worker = Worker(workspace)
        self._filling = threading.Lock()
        self._filled: set[tuple[str, str, str]] = set()
        # Started later, the tracker would unblock SIGINT again.
        resource_tracker.ensure_running()
        # Ctrl-C reaches every process of the group, but only the driver may act on it. Workers
        # inherit the signal mask of the thread that starts them.
        self._threads = ThreadPoolExecutor(
            workers,
            initializer=signal.pthread_sigmask,
            initargs=(signal.SIG_BLOCK, {signal.SIGINT}),
        )

    @abstractmethod
    def evaluate(self, unit: Batch, notices: Path) -> list[Result]:
        """Have a worker run `evaluate_unit`, and wait for its results.

        Raises
        ------
        WorkerLostError
            If the worker dies, or the workers have been ended.
        """

    def close(self) -> None:
        """End the workers, even in the middle of a unit."""
        self._threads.shutdown(cancel_futures=True)

    def work(self, batch: Batch, watch: Watch, progress: Progress | None) -> Results:
        """Evaluate what is left of a batch: see `Executor`.

        Splits that share rows make one unit.
        """
        self._fill_feature_store(batch, watch, progress)
        yield from self._do(
            [batch.only(group) for group in share_rows(batch.left)], watch, progress
        )

    def _fill_feature_store(self, batch: Batch, watch: Watch, progress: Progress | None) -> None:
        """Have workers compute an input's features together, no more than shards are missing.

        Each gets the batch without splits, so that it only opens the input: it computes the shards
        of the feature store that no other worker has claimed.
        """
        wanted = batch.cells[-1].dataset, batch.input, batch.cells[-1].fit
        if not batch.input.startswith("features:"):
            return
        with self._filling:
            if wanted not in self._filled:
                missing = self.worker.shards_missing(batch, progress)
                list(self._do([batch.only(())] * min(self.workers, missing), watch, progress))
                self._filled.add(wanted)

    def _do(self, units: Sequence[Batch], watch: Watch, progress: Progress | None) -> Results:
        """Evaluate units and yield their results; raise the first failure at the end."""
        failed: Exception | None = None
        disk = ResultStore(self.workspace.home)
        notices = [Notices(disk, unit, i, watch, progress) for i, unit in enumerate(units)]
        running = {self._submit(unit, notices[i]): i for i, unit in enumerate(units)}
        lost = [0] * len(units)
        try:
            while running:
                finished = wait(running, SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED).done
                for i in running.values():
                    notices[i].pass_on()
                for future in sorted(finished, key=running.__getitem__):
                    i = running.pop(future)
                    try:
                        yield from future.result()
                    except WorkerLostError as error:
                        lost[i] += 1
                        if lost[i] < TRIES and failed is None:
                            running[self._submit(units[i], notices[i])] = i
                        else:
                            failed = failed or error
                    except Exception as error:
                        failed = failed or error
                if failed is not None:  # running units still end; the others are dropped
                    running = {future: i for future, i in running.items() if not future.cancel()}
        finally:
            for future in running:
                future.cancel()
            for notice in notices:
                notice.end()
        if failed is not None:
            raise failed

    def _submit(self, unit: Batch, notices: Notices) -> Future[list[Result]]:
        try:
            return self._threads.submit(self.evaluate, unit, notices.begin())
        except RuntimeError as error:  # the threads have been shut down
            raise WorkerLostError(ENDED) from error


class Notices:
    """Read the losses, the progress and the warnings that a unit's worker appends to a file.

    Parameters
    ----------
    disk : ResultStore
    unit : Batch
    number : int
        The unit's position in its batch.
    watch : Watch
    progress : callable, optional
    """

    def __init__(
        self,
        disk: ResultStore,
        unit: Batch,
        number: int,
        watch: Watch,
        progress: Progress | None,
    ) -> None:
        name = f"{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}-{number}.notices"
        self.path = disk.folder(unit.asked[0]) / name  # whose lock is held
        self.watch, self.progress = watch, progress
        self._cells = {cell.key: cell for cell in unit.cells}
        self._splits = {split.name: split for split in unit.splits}
        self._read = 0

    def begin(self) -> Path:
        """Empty the file, and return its path."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(b"")
        self._read = 0
        return self.path

    def pass_on(self) -> None:
        """Pass on the complete lines that were added since the last call."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._read)
                text = file.read()
        except FileNotFoundError:
            return
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            try:
                kind, *content = json.loads(line)
            except ValueError:  # the worker's disk was full in the middle of a line
                continue
            if kind == "warning":
                warnings.warn(content[0], stacklevel=2)
            elif kind == "loss":
                key, split, *values = content
                self.watch.monitor(self._cells[key], self._splits[split])(*values)
            elif self.progress:
                self.progress(*content)

    def end(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)


class _Reporter:
    """Write the worker's side of `Notices`, and put checkpoints where the driver expects them."""

    def __init__(self, path: Path, disk: ResultStore) -> None:
        self._path, self._disk = path, disk
        self._is_torn = False

    def monitor(self, experiment: Experiment, split: Split) -> Callable[..., None]:
        return lambda *values: self._write("loss", experiment.key, split.name, *values)

    def checkpoint(self, experiment: Experiment, split: Split) -> Path:
        path = self._disk.checkpoint(experiment, split.name)
        # The worker's disk may be another than the driver's.
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def progress(self, what: str, done: int, total: int) -> None:
        self._write("progress", what, done, total)

    def warn(self, message: str) -> None:
        self._write("warning", message)

    def _write(self, *notice: Any) -> None:
        # A full disk costs only what is seen meanwhile. A line that was cut short gets an end.
        with suppress(OSError), self._path.open("ab") as file:
            file.write(b"\n" * self._is_torn + json.dumps(notice).encode() + b"\n")
            self._is_torn = True
            file.flush()
            self._is_torn = False


def evaluate_unit(workspace: Workspace, unit: Batch, notices: Path) -> list[Result]:
    """Evaluate a unit in a worker; a unit without splits only opens its input.

    Raises
    ------
    Exception
        The unit's own error, or a RuntimeError with its text if it cannot be pickled.
    """
    worker, reporter = _worker(workspace), _Reporter(notices, ResultStore(workspace.home))
    try:
        with warnings.catch_warnings():
            # said by the driver, in its own way
            warnings.showwarning = lambda message, *_, **__: reporter.warn(str(message))
            return list(worker.work(unit, reporter, reporter.progress))
    except Exception as error:
        raise fit_to_travel(error.with_traceback(None)) from None


@lru_cache(maxsize=1)
def _worker(workspace: Workspace) -> Worker:
    """Return this process's worker, which is kept for the next unit."""
    return Worker(workspace)


def fit_to_travel(error: Exception) -> Exception:
    """Return the error, or a RuntimeError with its text if it cannot be pickled.

    An error that cannot be pickled would look like a lost worker.
    """
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an error of another library whose constructor or content prevents it
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
