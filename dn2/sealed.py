"""JSON files that tell whether they are as they were written: a record with its own SHA-256.

The seal is one more entry, so that other programs read the file as before. A file without one was
written by an earlier version; it is read as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SEAL = "sha256"


def seal(record: Mapping[str, Any]) -> str:
    """Return a record as JSON, with the SHA-256 of all that it says.

    Raises
    ------
    ValueError
        If it holds NaN or infinity, or has an entry of the seal's name.

    Examples
    --------
    >>> unseal(seal({"splits": [1, 2]}))
    {'splits': [1, 2]}
    """
    if SEAL in record:
        raise ValueError(f"a record has no entry {SEAL!r} of its own: name it otherwise")
    return json.dumps({**record, SEAL: _digest(record)}, indent=1, allow_nan=False)


def unseal(text: str | bytes, *, needed: bool = False) -> dict[str, Any]:
    """Return the record that a file holds, without its seal.

    Parameters
    ----------
    text : str or bytes
    needed : bool
        Whether a file without a seal is refused.

    Raises
    ------
    ValueError
        If it is no JSON object, or is not as it was written.
    """
    try:
        record = json.loads(text)
    except RecursionError:
        raise ValueError("it is no JSON of ours: it is nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError(f"it is no JSON object but a {type(record).__name__}")
    found = record.pop(SEAL, None)
    if found is None and not needed:
        return record
    if found != _digest(record):
        raise ValueError("it was altered: its checksum is another")
    return record


def _digest(record: Mapping[str, Any]) -> str:
    # Through JSON once: a tuple becomes a list, and a number of another kind its plain text.
    text = json.dumps(json.loads(json.dumps(record)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
