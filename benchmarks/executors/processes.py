"""Cells in several processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue

from benchmarks.contracts import Progress, Result, Workspace
from benchmarks.executors.messages import Message, WorkerLostError, messages, until_done
from benchmarks.scoring import Watch
from benchmarks.work import Job, Worker
from dn2.engines import available_cores

GRACE_SECONDS = 5
_STARTING = threading.Lock()


class Processes:
    """Worker processes, each with its share of the cores; one that dies is replaced.

    Parameters
    ----------
    workspace : Workspace
    workers : int
        0 means one a core.
    """

    def __init__(self, workspace: Workspace, workers: int = 0) -> None:
        self.workers = workers or available_cores()
        self._workspace = workspace
        self._cores = max(1, available_cores() // self.workers)
        self._started: set[_Process] = set()
        self._closed = False
        self._idle: SimpleQueue[_Process | None] = SimpleQueue()
        for _ in range(self.workers):
            self._idle.put(None)  # started when there is something to do

    def work(self, job: Job, watch: Watch, progress: Progress | None) -> Iterator[Result]:
        """Do one job: see `benchmarks.executors.Executor`."""
        return until_done(job, self._once, watch, progress)

    def close(self) -> None:
        """End the workers, whatever they do."""
        self._closed = True
        started = list(self._started)
        for process in started:
            process.let_go()
        for process in started:
            process.see_off()

    def _once(self, job: Job) -> Iterator[Message]:
        process = self._idle.get()
        try:
            process = process or self._start()
            yield from process.messages(job)
        except BaseException:  # it died, or nobody listens any more
            if process is not None:
                process.end()
                self._started.discard(process)
            process = None
            raise
        finally:
            self._idle.put(process)

    def _start(self) -> _Process:
        if not self._closed:
            process = _Process(self._workspace, self._cores)
            self._started.add(process)
            if not self._closed:  # by another thread, meanwhile
                return process
            process.end()
        raise WorkerLostError("the workers have been ended; what is finished is kept")


class _Process:
    """One worker process and the line to it."""

    def __init__(self, workspace: Workspace, cores: int) -> None:
        context = multiprocessing.get_context(
            "spawn"
        )  # a fork would inherit threads' locks, and MLflow's connection
        self._line, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, workspace), daemon=True)
        with _STARTING, _environment(OMP_NUM_THREADS=str(cores), OPENBLAS_NUM_THREADS=str(cores)):
            self._process.start()
        theirs.close()
        self._busy = False
        self._ending = threading.Lock()

    def messages(self, job: Job) -> Iterator[Message]:
        """Have it do a job; yield what it says.

        Raises
        ------
        WorkerLostError
        """
        self._busy = True
        try:
            self._line.send(job)
            while (message := self._line.recv())[0] != "end":
                yield message
            self._busy = False
        except (EOFError, OSError):
            self._process.join(10)
            names = ", ".join(sorted({experiment.method for experiment in job.experiments}))
            raise WorkerLostError(
                f"the worker process of {names} on {job.experiments[0].dataset} died (exit code {self._process.exitcode}): if it "
                f"ran out of memory, lower --workers; what is finished is kept"
            ) from None

    def let_go(self) -> None:
        """Have it end by itself, or, if it is at a job, at once: the thread that waits for it then ends with `end`."""
        if self._busy:
            self._process.kill()
        else:
            with suppress(OSError):  # it has ended already
                self._line.send(None)

    def see_off(self) -> None:
        """End it, unless it was at a job and a thread waits for it: two that close one line close somebody else's."""
        if not self._busy:
            self._process.join(
                GRACE_SECONDS
            )  # one that is killed leaves semaphores, of which Python warns
            self.end()

    def end(self) -> None:
        """End it at once."""
        self._process.kill()
        with self._ending:
            self._process.join()
            self._line.close()


def _serve(line: Connection, workspace: Workspace) -> None:
    """Do the jobs that come, until the driver has no more or is gone."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C goes to all: the driver ends its workers itself
    worker = Worker(workspace)
    try:
        while (job := line.recv()) is not None:
            for message in messages(worker, job):
                line.send(message)
            line.send(("end",))
    except (EOFError, OSError):
        pass


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Variables that a child process finds when it starts: libraries read them when they are loaded."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
