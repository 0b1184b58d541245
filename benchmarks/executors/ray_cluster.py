"""Cells on a Ray cluster: one started on this machine, or one that is there."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from benchmarks.contracts import OutsideError, Progress, Result, UsageError, Workspace
from benchmarks.executors.messages import Message, WorkerLostError, messages, until_done
from benchmarks.scoring import Watch
from benchmarks.work import Job, Worker
from dn2.engines import available_cores

SECONDS_TO_ANSWER = 10


class OnRay:
    """One Ray task a job, each with its share of the cluster's cores.

    Every node needs this package, and ``DN2_HOME`` at the same path: a folder that they share.

    Parameters
    ----------
    workspace : Workspace
    workers : int
        0 means one a core of the cluster.
    address : str
        Of the cluster to join; empty starts one on this machine.

    Raises
    ------
    UsageError
        If Ray is not installed.
    OutsideError
        If the cluster cannot be reached.
    """

    def __init__(self, workspace: Workspace, workers: int = 0, address: str = "") -> None:
        try:
            import ray
        except ImportError as error:
            raise UsageError(
                "--executor ray needs Ray, which is not installed: pip install '.[ray]'."
            ) from error
        self._ray, self._workspace, self._closed = ray, workspace, False
        self._ours = not ray.is_initialized()
        if self._ours:
            where = (
                {"address": address}
                if address
                else {"num_cpus": available_cores(), "include_dashboard": False}
            )
            try:
                _knock(address)  # Ray itself would try for minutes
                ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
            except (OSError, RuntimeError, ValueError) as error:
                reason = str(error).strip().splitlines()[0]
                raise OutsideError(
                    f"the Ray cluster at {address or 'this machine'} cannot be reached ({reason}): start one with "
                    f"`ray start --head`, and give the address that it prints"
                ) from error
        cores = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        self.workers = workers or max(1, sum(cores))
        # Ray tells a task's process its share of the cores by OMP_NUM_THREADS.
        self._task = ray.remote(num_cpus=share(cores, self.workers), max_retries=0)(_messages)

    def work(self, job: Job, watch: Watch, progress: Progress | None) -> Iterator[Result]:
        """Do one job: see `benchmarks.executors.Executor`."""
        return until_done(job, self._once, watch, progress)

    def close(self) -> None:
        """Leave the cluster, which ends one that was started here."""
        self._closed = True
        if self._ours:
            self._ray.shutdown()

    def _once(self, job: Job) -> Iterator[Message]:
        if self._closed:  # Ray would start a cluster of its own accord
            raise WorkerLostError("the workers have been ended; what is finished is kept")
        try:
            told: Any = self._task.options(num_returns="streaming").remote(self._workspace, job)
            for reference in told:
                yield self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0]
            first = job.experiments[0]
            raise WorkerLostError(
                f"Ray lost the worker of {first.method} on {first.dataset} ({reason}); what is finished is kept"
            ) from error


def share(cores: Sequence[int], workers: int) -> int:
    """How many cores each worker gets, given those of each node: never more than one node has, or Ray waits forever for one."""
    return max(1, min(sum(cores) // workers, max(cores, default=1)))


def _knock(address: str) -> None:
    """Raise OSError or ValueError unless somebody answers at HOST:PORT, with or without ``ray://``."""
    host, colon, port = address.rpartition("://")[2].partition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=SECONDS_TO_ANSWER).close()


def _messages(workspace: Workspace, job: Job) -> Iterator[Any]:
    yield from messages(_worker(workspace), job)


@lru_cache(maxsize=1)
def _worker(workspace: Workspace) -> Worker:
    """Ray uses a process for one task after the other."""
    return Worker(workspace)
