"""The file in which a training keeps its state: whole and as it was written, or not used at all.

    what torch.save writes, then the SHA-256 of it (32 bytes)

The zip file that torch writes has checksums, but torch does not look at them: with one byte altered
a training would continue from other weights.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

DIGEST_BYTES = 32


def write_checkpoint(path: Path, identity: str, stage: str, state: dict[str, Any]) -> None:
    """Write to a temporary name and rename, so that the file is complete at any moment.

    Parameters
    ----------
    path : Path
        Its folder must exist.
    identity, stage : str
        Of the training; see `baselines._training.Training`.
    state : dict
        Tensors, numbers and texts by name.

    Raises
    ------
    OSError
        If it cannot be written. What was under the name stays.
    """
    content = BytesIO()
    torch.save({"identity": identity, "stage": stage, **state}, content)
    content.write(hashlib.sha256(content.getbuffer()).digest())
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())  # or a power cut may leave the name without the content
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # a full disk needs the room
        raise


def read_checkpoint(path: Path | None, identity: str, stage: str) -> dict[str, Any] | None:
    """Read the checkpoint of this stage of this training.

    Returns
    -------
    dict or None
        None if there is no file, or it belongs to another training or stage. None with a warning if
        it is not as it was written, has no checksum (earlier versions wrote none), or holds NaN or
        infinity: the training then starts from the beginning.
    """
    if path is None or not path.is_file():
        return None
    try:
        state = _decode(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        warnings.warn(
            f"{path} is no checkpoint to continue from ({reason}): the training starts from the "
            "beginning",
            stacklevel=2,
        )
        return None
    fits = state.get("identity") == identity and state.get("stage") == stage
    return state if fits else None


def _decode(content: bytes) -> dict[str, Any]:
    """Read the content of a file; whatever is wrong with it is a ValueError."""
    body = memoryview(content)[:-DIGEST_BYTES]
    if hashlib.sha256(body).digest() != content[-DIGEST_BYTES:]:
        raise ValueError("it is damaged, or an earlier version wrote it")
    try:
        state = torch.load(BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as error:  # whole, but of another torch: what it raises is not documented
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if not isinstance(state, dict):
        raise ValueError("it holds no state")
    if not are_finite(state.get("network")):
        raise ValueError("its weights hold NaN or infinity")
    return state


def are_finite(state: Any) -> bool:
    """Tell whether all numbers of all tensors in a state are finite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in _tensors(state))


def _tensors(state: Any) -> Iterator[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from _tensors(value)
