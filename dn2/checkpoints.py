"""Checkpoint files: reading one without running what is in it, and fitting its tensors to a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def read_checkpoint(name: str, path: Path) -> Mapping[str, torch.Tensor]:
    """Read the tensors of a file for the encoder ``name``, by name.

    Raises
    ------
    ValueError
        If it is not a checkpoint, or holds anything but tensors.
    """
    state: Any
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} is not a checkpoint of tensors for {name} ({reason}): give the file that torch.save wrote"
        ) from None
    for wrapper in ("state_dict", "model"):
        state = state.get(wrapper, state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict for {name} but a {type(state).__name__}: give a file of named tensors")
    return state


def rename_in_order(name: str, network: torch.nn.Module, state: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Match tensors one by one: the wheels name theirs after another package, in the same order as timm.

    Raises
    ------
    ValueError
        If their number differs, or a shape, or the last part of a name.
    """
    expected = network.state_dict()
    if len(state) != len(expected):
        raise ValueError(f"{path} has {len(state)} tensors, {name} needs {len(expected)}: get its weights again")
    for (theirs, tensor), (ours, wanted) in zip(state.items(), expected.items(), strict=True):
        # The last component (weight, bias, running_mean) tells tensors of one shape apart.
        if tensor.shape != wanted.shape or theirs.rsplit(".", 1)[-1] != ours.rsplit(".", 1)[-1]:
            found, need = f"{theirs} {tuple(tensor.shape)}", f"{ours} {tuple(wanted.shape)}"
            raise ValueError(f"{path} has {found} where {name} needs {need}: get its weights again")
    return dict(zip(expected, state.values(), strict=True))


def load_state(name: str, network: torch.nn.Module, state: Mapping[str, Any], path: Path) -> None:
    """Put tensors into a network.

    Raises
    ------
    ValueError
        If a name or a shape differs.
    """
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ValueError(f"{path} does not fit {name} ({first[:200]}): give a checkpoint of this architecture") from None
