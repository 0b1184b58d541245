"""Progress on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from benchmarks.contracts import Progress

SECONDS_BETWEEN_LINES = 15


@contextmanager
def show_progress() -> Iterator[Progress]:
    """Yield a `Progress` that shows how much is done, how fast, and the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
    )
    with Bars(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:
        tasks: dict[str, _Task] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = _Task(
                    bars.add_task(what, total=total or None, completed=done, rate=""), done
                )
            task = tasks[what]
            bars.update(
                task.number,
                completed=done,
                total=total or None,
                rate=f"{task.rate(done):.1f}/s" if done else "",
            )
            if 0 < total <= done:
                bars.remove_task(tasks.pop(what).number)

        yield report


class _Task:
    def __init__(self, number: Any, done: int) -> None:
        self.number, self.first, self.started = number, done, time.monotonic()

    def rate(self, done: int) -> float:
        """Compute the rate per second, without what an earlier process did."""
        return (done - self.first) / max(time.monotonic() - self.started, 1e-3)


class _Lines:
    """Print a line for each task every 15 s, so that a log file shows progress."""

    def __init__(self) -> None:
        self.tasks: dict[str, _Task] = {}
        self.printed: dict[str, float] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if not total:  # unknown: npm, pip and apt-get do not say
            click.echo(f"{what} ...", err=True)
            return
        task = self.tasks.get(what)
        if task is None or done < task.first:  # work of the same name, once more
            task = self.tasks[what] = _Task(0, done)
        now = time.monotonic()
        if now - self.printed.setdefault(what, task.started) < SECONDS_BETWEEN_LINES:
            return
        self.printed[what] = now
        rate = task.rate(done)
        left = f", {(total - done) / rate:.0f} s left" if rate else ""
        click.echo(f"{what}: {done}/{total}, {rate:.1f}/s{left}", err=True)
