r"""Compare what two workers gain over one with what two processes of plain matrix products gain.

    python speed/workers.py [--dataset cifar10] [--encoder efficientnet_lite0] \
        [--classes 4] [--rounds 5]

Every process has one thread. *Cells* are DN2's, a class each, on features that must be stored
already, done by the executor ``processes``; *products* are of 1,024 x 1,024 float32 matrices. Each
round does both, with one process and with two, in turns, so that a busy machine slows all of them
down. Printed: each round, the median time of each, both speed-ups, and their ratio (to be at least
0.9).
"""

import argparse
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = (
    "1"  # before any library reads it
)

import numpy as np
from benchmarks.work import Job

from benchmarks.commands.options import default_home
from benchmarks.contracts import Workspace
from benchmarks.datasets import load_dataset
from benchmarks.executors.processes import Processes
from benchmarks.experiments import make_experiments, resolve
from benchmarks.inputs import input_identity

PRODUCTS = 120


def products(count: int) -> None:
    """Multiply."""
    matrix = np.ones((1024, 1024), np.float32)
    for _ in range(count):
        matrix @ matrix


def jobs_of(dataset_name: str, encoder: str, classes: int, workspace: Workspace) -> list[Job]:
    """Make a job of DN2 on each of the first classes."""
    dataset = load_dataset(dataset_name, home=workspace.home)
    identity = input_identity(f"features:{encoder}", workspace)
    jobs = []
    for name in dataset.class_names[:classes]:
        (cell,) = make_experiments(datasets=[dataset_name], encoders=[encoder], classes=[name])
        jobs.append(Job((resolve(cell, dataset, identity),), {}))
    return jobs


class NoWatch:
    """Watch nothing, as DN2 trains nothing."""

    def monitor(self, *_: object) -> None:
        """Report nothing."""

    def checkpoint(self, *_: object) -> Path:
        """Write nothing."""
        return Path(os.devnull)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--encoder", default="efficientnet_lite0")
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    workspace = Workspace(default_home())
    jobs = jobs_of(arguments.dataset, arguments.encoder, arguments.classes, workspace)
    one, two = Processes(workspace, 1), Processes(workspace, 2)

    def cells(executor: Processes) -> None:
        with ThreadPoolExecutor(executor.workers) as threads:
            list(threads.map(lambda job: list(executor.work(job, NoWatch(), None)), jobs))

    with get_context("spawn").Pool(2) as pool:
        measured = {
            "products, one process": lambda: pool.map(products, [PRODUCTS] * 2, chunksize=2),
            "products, two processes": lambda: pool.map(products, [PRODUCTS] * 2, chunksize=1),
            "cells, one worker": lambda: cells(one),
            "cells, two workers": lambda: cells(two),
        }
        seconds: dict[str, list[float]] = {name: [] for name in measured}
        for number in range(
            arguments.rounds + 1
        ):  # in the first processes are started, data sets and features opened
            for name, run in measured.items():
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
            times = ", ".join(f"{name} {of_name[-1]:.2f} s" for name, of_name in seconds.items())
            print(f"round {number}{'' if number else ' (not counted)'}: {times}", flush=True)
    one.close()
    two.close()
    median = {name: statistics.median(of_name[1:]) for name, of_name in seconds.items()}
    for name, value in median.items():
        print(f"{name:25} {value:6.2f} s")
    plain = median["products, one process"] / median["products, two processes"]
    ours = median["cells, one worker"] / median["cells, two workers"]
    print(f"speed-up: products {plain:.2f}, cells {ours:.2f}, ratio {ours / plain:.2f}")


if __name__ == "__main__":
    main()
