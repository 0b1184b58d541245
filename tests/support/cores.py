"""Which cores threads may use while something goes on."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

CAN_TELL = hasattr(os, "sched_getaffinity") and Path("/proc/self/task").exists()


def cores_during(work: Callable[[], object], looks: int = 300) -> set[frozenset[int]]:
    """Do something again and again in a thread, and look meanwhile where each thread of this process may run."""
    seen, stop = set(), threading.Event()

    def loop() -> None:
        while not stop.is_set():
            work()

    work()  # what is done once, such as compiling, is not looked at
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(loop)
        for _ in range(looks):
            for task in Path("/proc/self/task").iterdir():
                with suppress(OSError):  # it has ended
                    seen.add(frozenset(os.sched_getaffinity(int(task.name))))
            stop.wait(0.001)
        stop.set()
        working.result()
    return seen
