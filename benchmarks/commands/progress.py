"""What goes on, on stderr: a spinner and bars on a terminal, a line now and then elsewhere.

A verb enters `show_progress` before its imports, which take seconds, and prints its results when
it has left it: stdout has results alone, and nothing of the display stays on a terminal.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

    from benchmarks.sweep import Standing

LOADING = "loading libraries"
"""The first stage of the verbs that compute."""

SECONDS_BETWEEN_LINES = 15
"""A log gets a line of each work that lasts longer, and then one in each such time."""

SECONDS_OF_SILENCE = 0.7
"""A log gets its first line after this time, so that a quick command prints its result alone."""

SECONDS_OF_A_STAGE = 2.0
"""A log gets a line of each later stage that lasts longer."""

UNITS = ("images", "results", "MB", "percent")
"""What the name of a work may end in, after a comma: what its numbers count."""


@contextmanager
def show_progress(doing: str = "") -> Iterator[Display]:
    """Yield a `Progress` that shows how much is done, how fast, and the time left.

    Called with a total of 0, it shows a stage, of which only the name is known. A stage ends when
    something else begins.

    Parameters
    ----------
    doing : str
        The first stage.
    """
    is_terminal = sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    display = _Bars() if is_terminal else _Lines()
    try:
        display.start()
        if doing:
            display(doing, 0, 0)
        yield display
    finally:
        display.stop()


class Display(ABC):
    """A `benchmarks.contracts.Progress` that any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._works: dict[str, _Work] = {}
        self._stage = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show a stage if the total is 0, else how much of a work is done."""
        with self._lock:
            if not total:
                name = _Work(what, 0).name
                if name != self._stage:
                    self._stage = name
                    self.show_stage(name)
                return
            if self._stage:
                self._stage = ""
                self.end_stage()
            work = self._works.get(what)
            if work is None or done < work.first:  # work of the same name, once more
                work = self._works[what] = _Work(what, done)
            self.show_work(work, done, total)
            if done >= total:
                del self._works[what]
                self.end_work(work)

    @abstractmethod
    def start(self) -> None:
        """Begin to show."""

    @abstractmethod
    def stop(self) -> None:
        """End, and leave nothing on a terminal."""

    @abstractmethod
    def show_stage(self, name: str) -> None:
        """Show a stage in the place of the one before."""

    @abstractmethod
    def end_stage(self) -> None:
        """Show no stage."""

    @abstractmethod
    def show_work(self, work: _Work, done: int, total: int) -> None:
        """Show how much of a work is done."""

    @abstractmethod
    def end_work(self, work: _Work) -> None:
        """Take a work away that is done."""

    @abstractmethod
    def show_study(self, standing: Standing) -> None:
        """Show how far a study is."""


class _Work:
    """Something that is counted: what it is called, and since when it goes on from where."""

    def __init__(self, what: str, done: int) -> None:
        name, _, unit = what.rpartition(", ")
        self.what = what
        self.name, self.unit = (name, unit) if unit in UNITS else (what, "")
        self.first, self.started = done, time.monotonic()

    def rate(self, done: int) -> float:
        """Compute the rate per second, without what an earlier process did."""
        return (done - self.first) / max(time.monotonic() - self.started, 1e-3)

    def text(self, done: int, total: int) -> str:
        """Say how much is done, how fast, and the time left: ``4 of 9 images, 2.0/s, 3 s left``."""
        rate = self.rate(done)
        if self.unit == "percent":
            parts = [f"{100 * done / total:.0f} %"]
        else:
            parts = [f"{done:,} of {total:,} {self.unit}".rstrip()]
            if rate >= 0.1:
                parts.append(f"{rate:,.{0 if rate >= 10 else 1}f}{' MB' * (self.unit == 'MB')}/s")
        if rate > 0 and done < total:
            parts.append(time_left((total - done) / rate))
        return ", ".join(parts)


def time_left(seconds: float) -> str:
    """Say a time that is left in the unit that suits it.

    Examples
    --------
    >>> [time_left(seconds) for seconds in (4.2, 200, 9000)]
    ['4 s left', '3 min left', '2.5 h left']
    """
    if seconds < 90:
        return f"{seconds:.0f} s left"
    return f"{seconds / 60:.0f} min left" if seconds < 5400 else f"{seconds / 3600:.1f} h left"


def study_text(standing: Standing) -> str:
    """Say how far a study is: ``12/126, best 0.9603 so far, 3 min left``."""
    parts = [f"{standing.done}/{standing.total}"]
    if standing.best is not None:
        parts.append(f"best {standing.best:.4f} so far")
    if standing.seconds_left and standing.done < standing.total:
        parts.append(time_left(standing.seconds_left))
    return ", ".join(parts)


class _Bars(Display):
    """Show a spinner for the stage, and a bar for each work, and take them away in the end."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn
        from rich.progress import Progress as Bars

        super().__init__()
        self._bars: RichProgress = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[text]}", markup=False),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,
        )
        self._numbers: dict[str, Any] = {}

    def start(self) -> None:
        self._bars.start()

    def stop(self) -> None:
        self._bars.stop()

    def show_stage(self, name: str) -> None:
        self.end_stage()
        self._show("", name, "...", 0, 0)

    def end_stage(self) -> None:
        self._remove("")

    def show_work(self, work: _Work, done: int, total: int) -> None:
        self._show(work.what, work.name, work.text(done, total), done, total)

    def end_work(self, work: _Work) -> None:
        self._remove(work.what)

    def show_study(self, standing: Standing) -> None:
        with self._lock:
            text = study_text(standing)
            self._show("\n", f"study {standing.study}", text, standing.done, standing.total)

    def _show(self, key: str, name: str, text: str, done: int, total: int) -> None:
        if key not in self._numbers:
            self._numbers[key] = self._bars.add_task(name, total=total or None, text="")
        self._bars.update(self._numbers[key], completed=done, total=total or None, text=text)

    def _remove(self, key: str) -> None:
        if (number := self._numbers.pop(key, None)) is not None:
            self._bars.remove_task(number)


class _Lines(Display):
    """Print a line of each stage and each work that takes its time, so that a log shows them."""

    def __init__(self) -> None:
        super().__init__()
        self._started = time.monotonic()
        self._is_silent = True
        self._printed: dict[str, float] = {}
        self._timer: threading.Timer | None = None

    def start(self) -> None:
        """Do nothing: there is something to say when time has passed."""

    def stop(self) -> None:
        with self._lock:
            self.end_stage()

    def show_stage(self, name: str) -> None:
        self.end_stage()
        wait = SECONDS_OF_A_STAGE
        if self._is_silent:
            wait = max(self._started + SECONDS_OF_SILENCE - time.monotonic(), 0)
        self._timer = threading.Timer(wait, self._say_stage, (name,))
        self._timer.daemon = True
        self._timer.start()

    def end_stage(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    def _say_stage(self, name: str) -> None:
        with self._lock:
            if name == self._stage:
                self._say(f"{name} ...")

    def show_work(self, work: _Work, done: int, total: int) -> None:
        now = time.monotonic()
        is_due = now - self._printed.get(work.what, work.started) >= SECONDS_BETWEEN_LINES
        # a work of which there is a line is brought to its end
        is_end = done >= total and self._printed.get(work.what, -1) >= work.started
        if is_due or is_end or (self._is_silent and now - self._started >= SECONDS_OF_SILENCE):
            self._printed[work.what] = now
            self._say(f"{work.name}: {work.text(done, total)}")

    def end_work(self, work: _Work) -> None:
        """Do nothing: a line that is printed stays."""

    def show_study(self, standing: Standing) -> None:
        """Show nothing: the line of each trial says it."""

    def _say(self, line: str) -> None:
        self._is_silent = False
        click.echo(line, err=True)
