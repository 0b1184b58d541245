"""Evaluate batches on a Ray cluster: one that runs already, or one started on this machine."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.contracts import Batch, OutsideError, Result, UsageError, Workspace
from benchmarks.executors.executor import ENDED, Pool, WorkerLostError, evaluate_unit
from dn2.engines import available_cores

SECONDS_TO_ANSWER = 10


class RayCluster(Pool):
    """Run each unit as a Ray task with an equal part of the cluster's cores.

    Every node needs this package, and must see the same folder as ``DN2_HOME`` at the same path.

    Parameters
    ----------
    workspace : Workspace
    workers : int
        0 means one for each core of the cluster.
    address : str
        The cluster to join; empty starts one on this machine.

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
        self._ray, self._closed = ray, False
        self._ours = not ray.is_initialized()
        if self._ours:
            where: dict[str, Any] = (
                {"address": address}
                if address
                else {"num_cpus": available_cores(), "include_dashboard": False}
            )
            try:
                _check_address(address)  # Ray itself would try for minutes
                ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
            except (OSError, RuntimeError, ValueError) as error:
                reason = str(error).strip().splitlines()[0]
                raise OutsideError(
                    f"the Ray cluster at {address or 'this machine'} cannot be reached ({reason}): "
                    f"start one with `ray start --head`, and give the address that it prints"
                ) from error
        cores = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        super().__init__(workspace, workers or max(1, sum(cores)))
        # Ray sets OMP_NUM_THREADS of a task's process to its number of cores. Ray's own retries are
        # off, because the pool counts retries and reads what each try reports.
        options: dict[str, Any] = {"num_cpus": cores_each(cores, self.workers), "max_retries": 0}
        self._task = ray.remote(**options)(evaluate_unit)

    def evaluate(self, unit: Batch, notices: Path) -> list[Result]:
        """Have a Ray task evaluate a unit, and wait for it: see `Pool`."""
        errors = self._ray.exceptions
        if self._closed:  # Ray would start another cluster by itself
            raise WorkerLostError(ENDED)
        try:
            found: list[Result] = self._ray.get(self._task.remote(self.workspace, unit, notices))
            return found
        except errors.RayTaskError as error:
            raise error.cause from None
        except errors.RayError as error:
            if self._closed:
                raise WorkerLostError(ENDED) from error
            reason = str(error).strip().splitlines()[0]
            raise WorkerLostError(
                f"Ray lost the worker of {unit.called} ({reason}); finished results are kept"
            ) from error

    def close(self) -> None:
        """Leave the cluster, and stop it if it was started here."""
        self._closed = True
        if self._ours:
            self._ray.shutdown()
        super().close()


def cores_each(cores: Sequence[int], workers: int) -> int:
    """Return how many cores each worker gets, given those of each node.

    It is never more than the largest node has: Ray would wait forever for a larger one.
    """
    return max(1, min(sum(cores) // workers, max(cores, default=1)))


def _check_address(address: str) -> None:
    """Raise OSError or ValueError unless HOST:PORT answers, with or without ``ray://``."""
    host, colon, port = address.rpartition("://")[2].partition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=SECONDS_TO_ANSWER).close()
