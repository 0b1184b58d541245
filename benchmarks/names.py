"""Looking a name up in a table, with an error that helps."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from benchmarks.contracts import UsageError


def check_name(name: str, table: Iterable[str], what: str) -> str:
    """Return ``name`` if the table has it.

    Raises
    ------
    UsageError
        With the nearest names and the whole list.
    """
    names = sorted(table)
    if name in names:
        return name
    raise UsageError(f"unknown {what} '{name}'.{did_you_mean(name, names)} There are: {', '.join(names)}.")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A question that names the nearest, with a space before it; empty if none is near."""
    near = get_close_matches(name, list(names), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(near)}?" if near else ""
