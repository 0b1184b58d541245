"""What a log file shows of work that goes on."""

import re

from benchmarks.commands import progress


def test_rates_are_of_this_work_and_never_negative(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    seconds = iter(range(100))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(seconds)))
    with progress.show_progress() as report:
        for done in (4, 5, 10, 1, 2):  # the second time from its beginning, once more
            report("images", done, 10)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        f"images: {done}/10" for done in (4, 5, 10, 1, 2)
    ]
    rates = [float(re.search(r"([-0-9.]+)/s", line)[1]) for line in lines]
    assert min(rates) == 0
    assert rates[2] > 0
    assert rates[4] > 0
