"""Damage files by seed, and judge what a reader makes of them.

A reader that meets a damaged file may do two things: give the same content as before, or refuse in
one line. Everything else (other content, a traceback, a hang) is a fault. `try_damaged` writes the
damaged files one after the other, counts the outcomes of a format in `TALLIES`, and fails at the
first that is neither. The counts of all tests are printed as one table by `conftest.py`.

Tests import it as `from mutations import Refused, try_damaged`: `tests/faults` is on pytest's path
(`pythonpath` in `pyproject.toml`). A try is found again by its number: `damaged(content, seed,
number)` depends on nothing else.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

LONGEST_SECONDS = 20.0


class Refused(Exception):
    """Say that a reader has refused without raising, for instance by computing it anew.

    The text is the line that was said, in a log or in a warning.
    """


@dataclass
class Tally:
    """Count the outcomes of the tries of one format."""

    tries: int = 0
    same: int = 0
    refused: int = 0
    others: list[str] = field(default_factory=list)


TALLIES: dict[str, Tally] = {}


def tally_of(format_name: str) -> Tally:
    """Return the counts of a format, made when they are first asked for."""
    return TALLIES.setdefault(format_name, Tally())


def try_damaged(
    format_name: str,
    path: Path,
    read: Callable[[], object],
    is_same: Callable[[object], bool],
    refusals: tuple[type[BaseException], ...],
    *,
    tries: int,
    seed: int = 0,
    lines: bool = False,
    names: str | None = None,
) -> Tally:
    """Damage the file at `path` `tries` times and read it each time; no outcome may be another.

    Parameters
    ----------
    format_name : str
        The row of the table that counts these tries.
    path : Path
        A whole file. It is whole again when this returns.
    read : callable
        Reads the file, raises one of `refusals`, or raises `Refused`.
    is_same : callable
        Says whether what `read` returned is what the whole file gives.
    refusals : tuple of exception types
        What counts as a refusal, if its text is one line, beside `Refused`.
    lines : bool, default False
        Damage whole lines as well, for formats that are read line by line.
    names : str, optional
        What the refusal's text must contain, for instance the name of the file.
    """
    content = path.read_bytes()
    assert is_same(read()), f"the whole {format_name} is not read as the same content"
    tally = tally_of(format_name)
    found: list[str] = []
    try:
        for number in range(tries):
            what, mutated = damaged(content, seed, number, lines=lines)
            path.write_bytes(mutated)
            tally.tries += 1
            outcome = judge(read, is_same, refusals, names)
            if outcome == "same":
                tally.same += 1
            elif outcome == "refused":
                tally.refused += 1
            else:
                found.append(f"seed {seed}, number {number}, {what}: {outcome}")
    finally:
        path.write_bytes(content)
        tally.others += found
    assert not found, f"{len(found)} of {tries} damaged files of {format_name}: {found[:5]}"
    return tally


def judge(
    read: Callable[[], object],
    is_same: Callable[[object], bool],
    refusals: tuple[type[BaseException], ...],
    names: str | None = None,
) -> str:
    """Return "same", "refused", or a line that describes another outcome."""
    start = time.monotonic()
    try:
        outcome = "same" if is_same(read()) else "other content, without a word"
    except (Refused, *refusals) as refusal:
        outcome = _judge_text(str(refusal), names)
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"[:300]
    seconds = time.monotonic() - start
    if seconds > LONGEST_SECONDS:
        return f"{outcome}, after {seconds:.0f} s"
    return outcome


def _judge_text(text: str, names: str | None) -> str:
    if not text.strip():
        return "a refusal without a word"
    if "\n" in text.strip():
        return f"a refusal of more than one line: {text[:300]!r}"
    if names is not None and names not in text:
        return f"a refusal that does not name {names}: {text[:300]!r}"
    return "refused"


def damaged(content: bytes, seed: int, number: int, *, lines: bool = False) -> tuple[str, bytes]:
    """Return what was done and the damaged bytes, which differ from `content`, by seed and number.

    One to three changes are made. A third of them lies near the start of the file and a third near
    its end, where formats keep what they are read by.
    """
    rng = random.Random(f"{seed}/{number}")
    changes = [*_BYTES, *_LINES] if lines else list(_BYTES)
    while True:
        mutated, done = content, []
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            change = rng.choice(changes)
            mutated = change(mutated, rng)
            done.append(change.__name__.strip("_").replace("_", " "))
        if mutated != content:
            return ", ".join(done), mutated


def _place(size: int, rng: random.Random) -> int:
    near = min(size, 512)
    start = rng.choice((0, max(0, size - near), rng.randrange(max(1, size))))
    return min(max(0, size - 1), start + rng.randrange(max(1, near)))


def _length(rng: random.Random) -> int:
    return int(2 ** rng.uniform(0, 12))


def _flip_a_bit(content: bytes, rng: random.Random) -> bytes:
    if not content:
        return content
    mutated, at = bytearray(content), _place(len(content), rng)
    mutated[at] ^= 1 << rng.randrange(8)
    return bytes(mutated)


def _change_a_byte(content: bytes, rng: random.Random) -> bytes:
    if not content:
        return content
    mutated, at = bytearray(content), _place(len(content), rng)
    mutated[at] = rng.choice((0, 0xFF, 0x7F, 0x80, rng.randrange(256)))
    return bytes(mutated)


def _cut_the_end(content: bytes, rng: random.Random) -> bytes:
    return content[: _place(len(content), rng)]


def _extend(content: bytes, rng: random.Random) -> bytes:
    size = _length(rng)
    return content + rng.choice((bytes(size), rng.randbytes(size), b"\n", content[:size]))


def _zero_a_block(content: bytes, rng: random.Random) -> bytes:
    at = _place(len(content), rng)
    size = min(_length(rng), len(content) - at)
    return content[:at] + bytes(size) + content[at + size :]


def _overwrite_a_block(content: bytes, rng: random.Random) -> bytes:
    at = _place(len(content), rng)
    size = min(_length(rng), len(content) - at)
    return content[:at] + rng.randbytes(size) + content[at + size :]


def _swap_two_blocks(content: bytes, rng: random.Random) -> bytes:
    size = min(_length(rng), len(content) // 2)
    first, second = sorted((_place(len(content), rng), _place(len(content), rng)))
    first = max(0, min(first, second - size))
    second = min(max(second, first + size), len(content) - size)
    return (
        content[:first]
        + content[second : second + size]
        + content[first + size : second]
        + content[first : first + size]
        + content[second + size :]
    )


def _repeat_a_block(content: bytes, rng: random.Random) -> bytes:
    at, size = _place(len(content), rng), _length(rng)
    return content[: at + size] + content[at : at + size] + content[at + size :]


def _remove_a_block(content: bytes, rng: random.Random) -> bytes:
    at = _place(len(content), rng)
    return content[:at] + content[at + _length(rng) :]


def _insert_a_block(content: bytes, rng: random.Random) -> bytes:
    at = _place(len(content), rng)
    return content[:at] + rng.randbytes(_length(rng)) + content[at:]


def _repeat_a_line(content: bytes, rng: random.Random) -> bytes:
    rows = content.splitlines(keepends=True) or [b""]
    at = rng.randrange(len(rows))
    return b"".join([*rows[: at + 1], *rows[at:]])


def _remove_a_line(content: bytes, rng: random.Random) -> bytes:
    rows = content.splitlines(keepends=True) or [b""]
    at = rng.randrange(len(rows))
    return b"".join([*rows[:at], *rows[at + 1 :]])


def _swap_two_lines(content: bytes, rng: random.Random) -> bytes:
    rows = content.splitlines(keepends=True) or [b""]
    first, second = rng.randrange(len(rows)), rng.randrange(len(rows))
    rows[first], rows[second] = rows[second], rows[first]
    return b"".join(rows)


_BYTES = (
    _flip_a_bit,
    _change_a_byte,
    _cut_the_end,
    _extend,
    _zero_a_block,
    _overwrite_a_block,
    _swap_two_blocks,
    _repeat_a_block,
    _remove_a_block,
    _insert_a_block,
)
_LINES = (_repeat_a_line, _remove_a_line, _swap_two_lines)
