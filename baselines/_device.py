"""Where networks compute, and in which precision.

On a CPU with matrix units for bfloat16 (AMX) a training step of a Wide ResNet takes a third of float32's time, and a forward
pass a quarter; without them bfloat16 gains nothing. In training, weights, BatchNorm's statistics and losses are float32; a Wide
ResNet that scores has weights, biases and residual sums in bfloat16. Logits and probabilities are float32 always.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable

import torch

PRECISIONS = ("auto", "float32", "bfloat16")


def pick_device(device: str | None) -> torch.device:
    """Resolve a device: the one named, or CUDA where there is one.

    Raises
    ------
    ValueError
        If the device is unknown or not there.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not (isinstance(device, str) and re.fullmatch(r"cpu|cuda(:\d+)?", device)):
        raise ValueError(f"unknown device {device!r}; there are cpu, cuda and cuda:<number>")
    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} was asked for, but torch sees no CUDA device here: use device='cpu'")
    return torch.device(device)


def pick_precision(precision: str, device: torch.device) -> torch.dtype:
    """Resolve ``auto`` to bfloat16 on CUDA and on CPUs with AMX, to float32 elsewhere.

    Raises
    ------
    ValueError
        If the precision is none of `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; there are {', '.join(PRECISIONS)}")
    if precision == "auto":
        capabilities: dict = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.9 has none: float32 there
        precision = "bfloat16" if device.type == "cuda" or capabilities.get("amx_bf16", False) else "float32"
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def name_arithmetic(device: str | None, precision: str) -> str:
    """Say what a detector with these parameters computes in on this machine: ``bfloat16 on cpu``.

    Raises
    ------
    ValueError
        If one of them is unknown, or the device is not there.
    """
    chosen = pick_device(device)
    return f"{str(pick_precision(precision, chosen)).removeprefix('torch.')} on {chosen.type}"


def autocast(device: torch.device, precision: torch.dtype) -> contextlib.AbstractContextManager:
    """Run convolutions and matrix products in ``precision`` inside the context."""
    if precision == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, precision)


def in_precision(
    forward: Callable[[torch.Tensor], torch.Tensor], device: torch.device, precision: torch.dtype
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Wrap a network so that it runs in ``precision``."""

    def run(x: torch.Tensor) -> torch.Tensor:
        with autocast(device, precision):
            return forward(x)

    return run
