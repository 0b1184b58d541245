"""Wait for other threads without missing Ctrl-C, and compute one result ahead."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")
SECONDS_BETWEEN_LOOKS = 0.5


def result_of(task: Future[T]) -> T:
    """Wait for a task of another thread; return its result or raise its error.

    The wait is short and repeated: Python handles a signal only when its main thread is awake, and
    a signal that arrives just before a wait begins does not end that wait.
    """
    while not wait([task], SECONDS_BETWEEN_LOOKS).done:
        pass
    return task.result()


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield the same items, each computed in another thread while the one before it is used.

    A caller that stops early, or is interrupted, waits for the item that is being computed.
    """
    end = object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, end)
        while (item := result_of(coming)) is not end:
            coming = pool.submit(next, items, end)
            yield item  # type: ignore[misc]
