"""The journal of a study: a file to which each operation is appended, as a line of JSON.

The lines are Optuna's, and any reader of Optuna's reads them. Three things are added:

- A line that was cut short, by a full disk or a power cut, is removed before the next is appended.
  Optuna would glue the next line to it, and never read the file again.
- Each line ends in a checksum of the file so far. An altered byte is found when the file is read,
  wherever it is.
- A line without a checksum, such as another program's, must be an operation of Optuna's.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend, JournalFileSymlinkLock

from benchmarks.contracts import OutsideError

SUM = "sum"
DIGITS = 16
LONGEST_LINE = 10_000_000
"""Bytes. Ours have some hundreds."""

NUMBERS = {"study_id", "trial_id", "state", "step"}
TABLES = {"user_attr", "system_attr", "user_attrs", "system_attrs", "params", "distributions"}
OPERATIONS: dict[int, tuple[set[str], set[str]]] = {
    0: ({"study_name", "directions"}, set()),
    1: ({"study_id"}, set()),
    2: ({"study_id", "user_attr"}, set()),
    3: ({"study_id", "system_attr"}, set()),
    4: (
        {"study_id", "datetime_start"},
        {"state", "value", "values", "datetime_complete", "distributions", "params"}
        | {"user_attrs", "system_attrs", "intermediate_values"},
    ),
    5: ({"trial_id", "param_name", "param_value_internal", "distribution"}, set()),
    6: ({"trial_id", "state", "values"}, {"datetime_start", "datetime_complete"}),
    7: ({"trial_id", "step", "intermediate_value"}, set()),
    8: ({"trial_id", "user_attr"}, set()),
    9: ({"trial_id", "system_attr"}, set()),
}
"""Number of an operation -> the names that it has, and those that it may have."""


class JournalError(OutsideError):
    """Report a journal that is not what was written. Exit code 1."""


class Journal(BaseJournalBackend):
    """Read and append the lines of a journal: see the module.

    Parameters
    ----------
    path : Path
        The file, which is made if it is missing.

    Raises
    ------
    JournalError
        When a line is read that is none, or was altered.
    OSError
        If the file cannot be read or written. What was in it stays.
    """

    def __init__(self, path: Path) -> None:
        if path.exists() and not path.is_file():
            raise JournalError(f"the study's journal {path} is no file: move it away")
        self.path = path
        # Optuna's own lock: processes of an earlier version may be at work.
        self._lock = JournalFileSymlinkLock(str(path))
        self._forget()
        with path.open("ab"):
            pass

    def _forget(self) -> None:
        self._known = 0  # operations that Optuna has, and will not ask for again
        self._lines: list[dict[str, Any]] = []  # those after them
        self._end, self._hash = 0, hashlib.sha256()  # of what has been read

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the operations from one on."""
        if log_number_from < self._known:
            self._forget()
        with self.path.open("rb") as file:
            self._read(file.fileno())
        del self._lines[: log_number_from - self._known]
        self._known = log_number_from
        yield from self._lines

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append operations, all of them or none."""
        with self._locked():
            file = os.open(self.path, os.O_RDWR)
            try:
                self._read(file)
                if os.fstat(file).st_size > self._end:
                    os.ftruncate(file, self._end)  # a line that was cut short
                try:
                    _write(file, self._end, self._summed_lines(logs))
                except BaseException:
                    os.ftruncate(file, self._end)
                    raise
                os.fsync(file)
            finally:
                os.close(file)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

    def _summed_lines(self, logs: list[dict[str, Any]]) -> bytes:
        """Return operations as lines that end in a checksum of all before."""
        so_far, lines = self._hash.copy(), b""
        for log in logs:
            begun = json.dumps(log, separators=(",", ":")).encode()[:-1]
            so_far.update(begun)
            line = b'%s,"%s":"%s"}\n' % (begun, SUM.encode(), _digits(so_far))
            so_far.update(line[len(begun) :])
            lines += line
        return lines

    def _read(self, file: int) -> None:
        """Read the whole lines that were added since the last time."""
        size = os.fstat(file).st_size
        if size < self._end:
            raise self._error(self._known + len(self._lines), "the file has become shorter")
        added = _pread(file, self._end, size - self._end)
        added = added[: added.rfind(b"\n") + 1]
        for line in added.split(b"\n")[:-1]:
            log, self._hash = self._checked(line + b"\n")
            self._lines.append(log)
            self._end += len(line) + 1

    def _checked(self, line: bytes) -> tuple[dict[str, Any], Any]:
        """Return a line's operation, and the hash of the file up to its end."""
        number, so_far = self._known + len(self._lines) + 1, self._hash.copy()
        if len(line) > LONGEST_LINE:
            raise self._error(number, f"it has {len(line):,} bytes")
        try:
            log = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise self._error(number, f"it is no JSON: {str(error).splitlines()[0]}") from None
        if not isinstance(log, dict):
            raise self._error(number, "it is no JSON object")
        tail = line.rpartition(b"," + json.dumps(SUM).encode())[2]
        found = log.pop(SUM, None)
        if found is not None:
            begun = line[: -len(tail) - len(SUM) - 3]
            so_far.update(begun)
            if line != b'%s,"%s":"%s"}\n' % (begun, SUM.encode(), _digits(so_far)):
                raise self._error(number, "its checksum is another")
            so_far.update(line[len(begun) :])
        else:
            so_far.update(line)
        if fault := _fault(log):
            raise self._error(number, fault)
        return log, so_far

    def _error(self, number: int, fault: str) -> JournalError:
        return JournalError(
            f"line {number} of the study's journal {self.path} is not what was written ({fault}): "
            "move that file away, and the same command makes the study again from the finished runs"
        )


def _digits(so_far: Any) -> bytes:
    digits: bytes = so_far.hexdigest()[:DIGITS].encode()
    return digits


def _pread(file: int, start: int, size: int) -> bytes:
    parts = []
    while size > 0 and (part := os.pread(file, size, start)):
        parts.append(part)
        start, size = start + len(part), size - len(part)
    return b"".join(parts)


def _write(file: int, start: int, content: bytes) -> None:
    while content:
        written = os.pwrite(file, content, start)
        start, content = start + written, content[written:]


def _fault(log: dict[str, Any]) -> str:
    """Say why a line is no operation of Optuna's; empty if it is one."""
    kind = log.get("op_code")
    if type(kind) is not int or kind not in OPERATIONS:
        return f"there is no operation {str(kind)[:40]}"
    needed, more = OPERATIONS[kind]
    names = log.keys() - {"op_code", "worker_id"}
    if not isinstance(log.get("worker_id"), str) or not needed <= names <= needed | more:
        return f"operation {kind} has other fields"
    for name in names & NUMBERS:
        if type(log[name]) is not int or not 0 <= log[name] < 1 << 31:
            return f"{name} is {str(log[name])[:40]}"
    for name in names & TABLES:
        if not isinstance(log[name], dict):
            return f"{name} is no table"
    for name in names & {"user_attr", "system_attr"}:
        if len(log[name]) != 1:
            return f"{name} has {len(log[name])} names"
    return ""
