"""One budget of bytes for all images that a process decodes at a time, in whatever threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """Let threads hold bytes as long as their sum stays within a total; the others wait in turn.

    One that needs more than the total goes alone. A thread must not ask again while it holds some.

    Parameters
    ----------
    total : int
        Bytes.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._held = 0
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def held(self) -> int:
        """How many bytes are held now."""
        return self._held

    @contextmanager
    def hold(self, n: int) -> Iterator[None]:
        """Wait for n bytes, and hold them."""
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                # First come, first served, or a large image would wait for ever behind small ones.
                while self._queue[0] is not ticket or (self._held and self._held + n > self.total):
                    self._changed.wait()
                self._held += n
            finally:  # also if Ctrl-C ends the wait
                self._queue.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._held -= n
                self._changed.notify_all()


DECODING = Budget(2**30)
"""For decoded images: enough for ten photos of 24 megapixels at a time."""
