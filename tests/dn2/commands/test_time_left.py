"""Progress: what a terminal and a log see."""

import io
import sys
import time

import pytest

from dn2.commands.time_left import show_progress


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_one_changing_line_or_few_lines(is_terminal, monkeypatch):
    class Stream(io.StringIO):
        def isatty(self):
            return is_terminal

    now = [0.0]
    monkeypatch.setattr(sys, "stderr", stream := Stream())
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    show = show_progress()
    for done in range(100, 2501, 100):
        now[0] += 1.0
        show(done, 2500)
    shown = stream.getvalue()
    assert "read 2,500 of 2,500 images, 100.0/s" in shown
    if is_terminal:
        assert shown.count("\r") == 25
        assert shown.count("\n") == 1
    else:
        assert shown.splitlines() == [
            "read 1,000 of 2,500 images, 100.0/s, 15 s left",
            "read 2,000 of 2,500 images, 100.0/s, 5 s left",
            "read 2,500 of 2,500 images, 100.0/s",  # what is begun is brought to its end
        ]
