"""What a worker elsewhere says of a job, and the driver hearing it: results, progress, losses, the error that ends it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from benchmarks.contracts import Experiment, OutsideError, Progress, Result, Split
from benchmarks.result_store import ResultStore
from benchmarks.scoring import Watch
from benchmarks.work import Job, Worker

TRIES = 3
"""A job that has lost so many workers is the reason, and is given up."""

Message = tuple[Any, ...]


class WorkerLostError(OutsideError):
    """A worker died in the middle of a job: killed, out of memory, its machine gone."""


def messages(worker: Worker, job: Job) -> Iterator[Message]:
    """Do a job and yield all that is to be told of it, in order. An error of the job is a message, too, the last."""
    said: SimpleQueue[Message] = SimpleQueue()
    Thread(target=_work, args=(worker, job, said.put), daemon=True).start()
    while (message := said.get())[0] != "end":
        yield message


def _work(worker: Worker, job: Job, say: Callable[[Message], None]) -> None:
    try:
        for result in worker.work(
            job, _FarWatch(worker.workspace.home, say), lambda *told: say(("progress", *told))
        ):
            say(("result", result))
    except Exception as error:
        say(("error", fit_to_travel(error.with_traceback(None))))
    finally:
        say(("end",))


def fit_to_travel(error: Exception) -> Exception:
    """The error, or, if it cannot be sent to another process, its text in a plain one: it would look like a lost worker."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an error of another library's, with a constructor or a content of its own
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


class _FarWatch:
    """A worker's watch: losses are told to the driver, checkpoints are where the driver's would be."""

    def __init__(self, home: Path, say: Callable[[Message], None]) -> None:
        self.disk, self.say = ResultStore(home), say

    def monitor(self, experiment: Experiment, split: Split) -> Callable[..., None]:
        return lambda *told: self.say(("monitor", experiment, split, told))

    def checkpoint(self, experiment: Experiment, split: Split) -> Path:
        path = self.disk.checkpoint(experiment, split.name)
        path.parent.mkdir(
            parents=True, exist_ok=True
        )  # the driver's lock made it, unless this machine has another disk
        return path


def hear(told: Iterable[Message], watch: Watch, progress: Progress | None) -> Iterator[Result]:
    """Pass on what a worker says, and yield its results.

    Raises
    ------
    Exception
        The job's, when all is said: what is left unheard would keep the worker for as long as somebody keeps the error.
    """
    failed: Exception | None = None
    for kind, *content in told:
        if kind == "result":
            yield content[0]
        elif kind == "progress" and progress:
            progress(*content)
        elif kind == "monitor":
            experiment, split, values = content
            watch.monitor(experiment, split)(*values)
        elif kind == "error":
            failed = content[0]
    if failed is not None:
        raise failed


def until_done(
    job: Job, once: Callable[[Job], Iterable[Message]], watch: Watch, progress: Progress | None
) -> Iterator[Result]:
    """Have a job done by ``once``, and what is left of it again where that loses its worker.

    Raises
    ------
    WorkerLostError
        The third time.
    """
    for left in reversed(range(TRIES)):
        try:
            for result in hear(once(job), watch, progress):
                job = replace(job, done=job.done | {(result.experiment.key, result.split)})
                yield result
            return
        except WorkerLostError:
            if not left:
                raise
