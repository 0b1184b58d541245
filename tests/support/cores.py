"""Find the cores that threads may use during some work."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

CAN_TELL = hasattr(os, "sched_getaffinity") and Path("/proc/self/task").exists()


def cores_during(work: Callable[[], object], looks: int = 300) -> set[frozenset[int]]:
    """Repeat some work in a thread; return the sets of cores that our threads may use."""
    seen, stop = set(), threading.Event()

    def loop() -> None:
        while not stop.is_set():
            work()

    work()  # work that happens once, such as compiling, is left out
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(loop)
        for _ in range(looks):
            for task in Path("/proc/self/task").iterdir():
                with suppress(OSError):  # the thread has ended
                    seen.add(frozenset(os.sched_getaffinity(int(task.name))))
            stop.wait(0.001)
        stop.set()
        working.result()
    return seen
