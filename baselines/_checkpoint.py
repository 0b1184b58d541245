"""One file that a killed training continues from."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch


def training_identity(detector: object, X: np.ndarray, *arithmetic: Any) -> str:
    """Hash what a training's result follows from: the detector, its parameters, the images, the device and the precision."""
    params = {name: value for name, value in vars(detector).items() if not name.endswith("_")}
    text = json.dumps([type(detector).__name__, params, X.shape, list(map(str, arithmetic))], sort_keys=True)
    digest = hashlib.sha256(text.encode())
    digest.update(np.ascontiguousarray(X).data)
    return digest.hexdigest()


def write_checkpoint(path: Path, identity: str, stage: str, state: dict[str, Any]) -> None:
    """Write by temporary name and rename, so that the file is whole at any moment."""
    temporary = path.with_name(path.name + ".tmp")
    torch.save({"identity": identity, "stage": stage, **state}, temporary)
    temporary.replace(path)


def read_checkpoint(path: Path | None, identity: str, stage: str) -> dict[str, Any] | None:
    """Read the state of this stage of this training; None if there is no file, or it is damaged or another training's."""
    if path is None or not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, pickle.UnpicklingError):
        return None  # truncated, or no checkpoint at all: start anew
    fits = isinstance(state, dict) and state.get("identity") == identity and state.get("stage") == stage
    return state if fits else None
