"""Standard streams that never end a command: closed, full, or of a terminal that has no UTF-8.

What is computed is kept before it is printed. So a reader that has gone, or a full disk behind
stdout, must not end the command, nor change what it says of its work. `open_streams` comes first,
`close_streams` last.

    stdout closed, or its reader gone (`| head -1`)   the exit code is that of the work
    stdout cannot be written (a full disk)            one line on stderr; exit code 1 instead of 0
    stderr closed or full                             nothing is said, and nothing else changes
    a letter that the terminal's encoding has not     a question mark
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any


class _Tolerant(io.FileIO):
    """A descriptor whose first error is kept, and after which nothing more is written.

    Attributes
    ----------
    error : OSError or None
    """

    error: OSError | None = None

    def write(self, content: Any) -> int:
        """Write what can be written, and say that all of it was."""
        size = memoryview(content).nbytes
        if self.error is None:
            try:
                while (written := super().write(content)) is None:  # a pipe that does not block
                    select.select([], [self], [])
                return written
            except OSError as error:
                self.error = error
        return size


def open_streams() -> None:
    """Make stdout and stderr streams that can always be written to.

    A descriptor that is closed is opened on the null device: otherwise the next file to be opened
    would get its number, and what is printed. Streams that somebody has replaced are left alone.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number is this one
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream, first = getattr(sys, name), getattr(sys, f"__{name}__")
        if stream is not first or isinstance(getattr(_raw(stream), "error", 0), OSError | None):
            continue
        encoding = getattr(stream, "encoding", None) or "utf-8"
        errors = getattr(stream, "errors", None) or "strict"
        raw = _Tolerant(descriptor, "wb", closefd=False)
        made = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=encoding,
            errors="replace" if errors == "strict" else errors,
            line_buffering=descriptor == 2 or raw.isatty(),
        )
        setattr(sys, name, made)
        setattr(sys, f"__{name}__", made)


def close_streams(code: int) -> int:
    """Write out what is left, and return the exit code.

    Parameters
    ----------
    code : int
        That of the work.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()
    error = getattr(_raw(sys.stdout), "error", None)
    if error is None or isinstance(error, BrokenPipeError):
        return code
    sys.stderr.write(
        f"error: cannot write to standard output ({error.strerror}): what was computed is kept, "
        "and the same command prints it again\n"
    )
    return code or 1


def _raw(stream: Any) -> Any:
    return getattr(getattr(stream, "buffer", None), "raw", None)
