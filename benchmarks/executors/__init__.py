"""EXECUTORS: evaluate batches in this process, in several, or on a Ray cluster.

    Session --Batch--> Executor --some of its splits--> Worker --Results--> Executor --> Session

More threads than there are workers may call an executor; their units wait in a queue. Neither the
executor nor its workers write to MLflow. Results, losses and progress go to the calling thread,
which belongs to the driver.
"""

from __future__ import annotations

import importlib
from typing import Any

from benchmarks.contracts import Most, UsageError, Workspace, check_name
from benchmarks.executors.executor import Executor, Serial, WorkerLostError
from dn2.engines import available_cores

__all__ = ["EXECUTORS", "Executor", "Serial", "WorkerLostError", "make_executor"]

EXECUTORS = {
    "serial": "benchmarks.executors.executor:Serial",
    "processes": "benchmarks.executors.processes:Processes",
    "ray": "benchmarks.executors.ray_cluster:RayCluster",
}
"""Name -> ``module:Class``, imported when it is used."""


def make_executor(
    name: str, workspace: Workspace, workers: int = 0, ray_address: str = ""
) -> Executor:
    """Make an executor by name.

    Parameters
    ----------
    name : {"serial", "processes", "ray"}
    workspace : Workspace
    workers : int
        How many units are evaluated at once; 0 means one for each core.
    ray_address : str
        The cluster to join; empty starts one on this machine.

    Raises
    ------
    UsageError
        If the name is unknown, the executor does not take an option that was given, or Ray is not
        installed.
    """
    target = EXECUTORS[check_name(name, EXECUTORS, "executor")]
    if workers < 0:
        raise UsageError(f"--workers must be at least 1, or 0 for one per core, got {workers}.")
    most = max(Most.WORKERS_OF_A_MACHINE, Most.WORKERS_PER_CORE * available_cores())
    if name == "processes" and workers > most:
        raise UsageError(
            f"--workers must be at most {most} on this machine with {available_cores()} cores, "
            f"got {workers}: leave it out for one per core."
        )
    if name == "serial" and workers > 1:
        raise UsageError(
            f"--executor serial has one worker, got {workers}: take --executor processes or ray."
        )
    if name != "ray" and ray_address:
        raise UsageError(
            f"--ray-address is for --executor ray, got --executor {name}: give one or the other."
        )
    options: dict[str, Any] = {} if name == "serial" else {"workers": workers}
    if name == "ray":
        options["address"] = ray_address
    module, _, made = target.partition(":")
    executor: Executor = getattr(importlib.import_module(module), made)(workspace, **options)
    return executor
