"""EXECUTORS: where cells are computed: in this process, in several, on a Ray cluster. A job in, its results out.

An executor may be called from more threads than it has workers: the others wait. It never writes to MLflow, nor do its workers:
they hand results, losses and progress to the thread that called, which is the driver's. A worker that is lost takes no result
with it, and its job goes on elsewhere.
"""

from __future__ import annotations

import importlib
from typing import Any

from benchmarks.contracts import UsageError, Workspace, check_name
from benchmarks.executors.executor import Executor
from benchmarks.executors.serial import Serial
from benchmarks.executors.together import Together
from benchmarks.work import Job

__all__ = ["EXECUTORS", "Executor", "Job", "Serial", "Together", "make_executor"]


EXECUTORS = {
    "serial": "benchmarks.executors.serial:Serial",
    "processes": "benchmarks.executors.processes:Processes",
    "ray": "benchmarks.executors.ray_cluster:OnRay",
}
"""Name to ``module:Class``, imported when it is used."""


def make_executor(
    name: str, workspace: Workspace, workers: int = 0, ray_address: str = ""
) -> Executor:
    """Make an executor by name.

    Parameters
    ----------
    name : {"serial", "processes", "ray"}
    workspace : Workspace
    workers : int
        0 means one a core.
    ray_address : str
        Of a cluster to join; empty starts one on this machine.

    Raises
    ------
    UsageError
        If the name is unknown, an option is given to an executor that has no use for it, or Ray is not there.
    """
    target = EXECUTORS[check_name(name, EXECUTORS, "executor")]
    if workers < 0:
        raise UsageError(f"--workers must be at least 1, or 0 for one a core, got {workers}.")
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
