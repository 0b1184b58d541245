"""Ctrl-C in a program of Python: at any moment it ends, in one line, with one exit code.

Python raises KeyboardInterrupt wherever the program is. While modules are being imported, that may
be in a callback or in a library's C code, which print a traceback and go on, or raise another
error. And after a program has returned, while libraries clean up, it is a traceback or a death by a
signal, though the result is complete.

It imports hardly anything: until it has been imported, Ctrl-C is a traceback.
"""

from __future__ import annotations

import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType
    from typing import Any, Self

SOON_SECONDS, AGAIN_SECONDS = 0.02, 1.0
"""When an interrupt that was swallowed is raised once more: if that was seen, and if it was not."""


class Interrupts:
    """Let Ctrl-C end a ``with`` statement, and nothing but that.

    No KeyboardInterrupt leaves the statement, and no other error that a library made of one.

    Parameters
    ----------
    ending : bool
        Whether the process ends after the statement. If so, Ctrl-C is ignored from then on, and is
        raised each second until the statement ends: a library may have swallowed it. It needs the
        main thread. A process that was started to ignore Ctrl-C goes on to do so.

    Attributes
    ----------
    seen : bool
        Whether Ctrl-C was pressed, as far as is known.
    """

    def __init__(self, *, ending: bool) -> None:
        self.seen = False
        self._ending = ending and signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def __enter__(self) -> Self:
        if self._ending:
            signal.signal(signal.SIGINT, self._interrupt)
            signal.signal(signal.SIGALRM, self._interrupt)
            sys.excepthook = _but_for_interrupts(sys.excepthook)
            self._tell, sys.unraisablehook = sys.unraisablehook, self._raise_again
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> bool:
        if self._ending:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.seen |= kind is not None and issubclass(kind, KeyboardInterrupt)
        return self.seen

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self.seen = True
        signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)
        raise KeyboardInterrupt

    def _raise_again(self, unraisable: Any) -> None:
        """Raise an interrupt a little later, where somebody hears it; tell of other errors."""
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, SOON_SECONDS)
        else:
            self._tell(unraisable)


def _but_for_interrupts(hook: Callable[..., object]) -> Callable[..., None]:
    """Make an ``excepthook`` that is silent about interrupts: libraries in C call it, too."""

    def tell(kind: type[BaseException], *rest: Any) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            hook(kind, *rest)

    return tell
