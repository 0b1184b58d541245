"""Progress on stderr: one line that changes on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import click

TERMINAL_SECONDS, LOG_SECONDS = 0.2, 10.0
"""Between two lines."""


def show_progress() -> Callable[[int, int], None]:
    """Make a function that shows how many images are done, how fast, and the time left.

    Returns
    -------
    callable
        ``show(done, total)``.
    """
    is_terminal = sys.stderr.isatty()
    every = TERMINAL_SECONDS if is_terminal else LOG_SECONDS
    shown = time.monotonic()
    is_begun = is_terminal
    first: tuple[int, float] | None = None  # of images, and when: loading the network came before

    def show(done: int, total: int) -> None:
        nonlocal shown, first, is_begun
        now = time.monotonic()
        first = first or (done, now)
        if now - shown >= every or (is_begun and done == total):
            shown, is_begun = now, True
            line = f"read {done:,} of {total:,} images"
            rate = (done - first[0]) / max(now - first[1], 1e-3)
            if rate:
                line += f", {rate:.1f}/s"
            if rate and done < total:
                line += f", {_duration((total - done) / rate)} left"
            # cleared to its end, as the line before may have been longer
            click.echo(f"\r{line}\033[K" if is_terminal else line, nl=not is_terminal, err=True)
            if is_terminal and done == total:
                click.echo(err=True)

    return show


def _duration(seconds: float) -> str:
    """Write seconds for people.

    Examples
    --------
    >>> _duration(42.4), _duration(130), _duration(7300)
    ('42 s', '2 min 10 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
