"""Sum up the tries of all tests of this folder, and print them as a table at the end.

The counts travel with each test's report, so that they arrive from workers of pytest-xdist too.
"""

from collections import Counter

import pytest
from mutations import TALLIES

COUNTS = ("tries", "same", "refused", "other")


def counts():
    return {
        name: (tally.tries, tally.same, tally.refused, len(tally.others))
        for name, tally in TALLIES.items()
    }


@pytest.fixture(autouse=True)
def count_tries(request):
    before = counts()
    yield
    for name, after in counts().items():
        new = [now - was for now, was in zip(after, before.get(name, (0,) * 4), strict=True)]
        if any(new):
            request.node.user_properties.append(("tries", (name, new)))


def pytest_terminal_summary(terminalreporter):
    sums = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "teardown":
                for key, value in report.user_properties:
                    if key == "tries":
                        name, new = value
                        sums.setdefault(name, Counter()).update(dict(zip(COUNTS, new, strict=True)))
    if not sums:
        return
    terminalreporter.write_line("")
    terminalreporter.write_line("| what was tried | tries | same content | refused | other |")
    terminalreporter.write_line("|---|--:|--:|--:|--:|")
    for name, sum_ in sorted(sums.items()):
        numbers = " | ".join(f"{sum_[count]:,}" for count in COUNTS)
        terminalreporter.write_line(f"| {name} | {numbers} |")
