"""Which process a run belongs to, and whether that process still lives."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path


def owner_tags() -> dict[str, str]:
    """Tags that name this process: its number, and when it started, since numbers are used again."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": str(pid), "pid_started": _started(pid)}


def is_ours(tags: Mapping[str, str]) -> bool:
    """Return whether these tags name this very process."""
    return all(tags.get(name) == value for name, value in owner_tags().items())


def is_dead(tags: Mapping[str, str]) -> bool:
    """Return whether these tags name a process of this host that has ended. Of other hosts nothing is known: False."""
    if tags.get("host") != socket.gethostname() or not tags.get("pid", "").isdecimal():
        return False
    pid = int(tags["pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it lives, under another user
    return _started(pid) != tags.get("pid_started", "")


def _started(pid: int) -> str:
    """When a process started, in clock ticks since the machine did; "ended" if it did not outlive its killing but has not been
    collected by its parent; "" where there is no /proc.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if state in "ZX" else fields[18]
