"""Waiting for other threads without missing Ctrl-C, or while they are one result ahead."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")
SECONDS_BETWEEN_LOOKS = 0.5


def result_of(task: Future[T]) -> T:
    """Wait for a task of another thread, and return what it returns or raise what it raises.

    Wakes up now and then: a signal that comes in the moment before a wait begins does not end that wait, and Python acts on a
    signal only when its main thread is awake.
    """
    while not wait([task], SECONDS_BETWEEN_LOOKS).done:
        pass
    return task.result()


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each of which is computed, in another thread, while the one before it is made use of.

    Who stops early, or is interrupted, waits for the one that is being computed.
    """
    end = object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, end)
        while (item := result_of(coming)) is not end:
            coming = pool.submit(next, items, end)
            yield item  # type: ignore[misc]
