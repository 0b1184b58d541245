"""What comes before a network: the choice of device and precision, and checks on images.

In reading order: device and precision (`pick_device` to `in_precision`), then images
(`check_images` to `to_device`).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable

import numpy as np
import torch

PRECISIONS = ("auto", "float32", "bfloat16")

BFLOAT16_UNITS = ("amx_bf16", "avx512_bf16")
"""A processor's instructions that multiply bfloat16. With them a Wide ResNet is trained 1.7 times
as fast as in float32; without them bfloat16 is emulated, and slower."""


def pick_device(device: str | None) -> torch.device:
    """Return the named device, or by default CUDA if there is a CUDA device, else the CPU.

    Raises
    ------
    ValueError
        If the name is unknown, or this machine has no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not (isinstance(device, str) and re.fullmatch(r"cpu|cuda(:\d+)?", device)):
        raise ValueError(f"unknown device {device!r}; there are cpu, cuda and cuda:<number>")
    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError(
            f"device {device!r} was asked for, but torch sees no CUDA device here: use device='cpu'"
        )
    return torch.device(device)


def pick_precision(precision: str, device: torch.device) -> torch.dtype:
    """Resolve ``auto`` to bfloat16 where the device has instructions for it, else to float32.

    CUDA has them, and so have processors with AMX or AVX512-BF16.

    Raises
    ------
    ValueError
        If the precision is not in `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; there are {', '.join(PRECISIONS)}")
    if precision == "auto":
        # torch 2.9 cannot list the capabilities, so it gets float32.
        capabilities: dict = getattr(torch.cpu, "get_capabilities", dict)()
        fast = device.type == "cuda" or any(capabilities.get(name) for name in BFLOAT16_UNITS)
        precision = "bfloat16" if fast else "float32"
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def name_arithmetic(device: str | None, precision: str) -> str:
    """Say what a detector with these parameters computes in on this machine: ``bfloat16 on cpu``.

    Raises
    ------
    ValueError
        If the device or the precision is unknown, or this machine has no such device.
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
    """Wrap a network so that its convolutions and matrix products run in ``precision``."""

    def run(x: torch.Tensor) -> torch.Tensor:
        with autocast(device, precision):
            return forward(x)

    return run


MIN_SIDE = 16
"""Pixels. In smaller images, shifts by a quarter of the side and the third stage of a Wide ResNet
have too few pixels to work on."""


def check_images(X: np.ndarray, name: str, min_side: int = MIN_SIDE) -> None:
    """Refuse anything but an array of square uint8 images.

    Parameters
    ----------
    X : ndarray of shape (n, side, side, c), uint8
        With c = 1 or 3 channels.
    name : str
        The detector's name, for the message.
    min_side : int
        Pixels.

    Raises
    ------
    ValueError
        If the type, the shape, the number of channels or the size is not as above.
    """
    if not isinstance(X, np.ndarray) or X.dtype != np.uint8:
        kind = getattr(X, "dtype", type(X).__name__)
        raise ValueError(
            f"{name} takes images as uint8 of 0 to 255, got {kind}: use the input pixels"
        )
    if X.ndim != 4 or X.shape[3] not in (1, 3):
        raise ValueError(
            f"{name} takes images of shape (n, h, w, 1 or 3), got {X.shape}: use the input pixels"
        )
    height, width = X.shape[1:3]
    if height != width:
        raise ValueError(
            f"{name} takes square images, got {height} x {width}: resize them, as --size 32 does"
        )
    if min(height, width) < min_side:
        raise ValueError(
            f"{name} takes images of at least {min_side} px a side, got {height} x {width}:"
            f" resize them, as --size {2 * min_side} does"
        )


def check_varied(X: np.ndarray, name: str) -> None:
    """Refuse training images that are all constant.

    On them all transformations look alike, and no scale can be measured.

    Parameters
    ----------
    X : ndarray of shape (n, side, side, c), uint8
    name : str
        The detector's name, for the message.

    Raises
    ------
    ValueError
        If no image has two different pixel values in one channel.
    """
    flat = X.reshape(len(X), -1, X.shape[3])
    if not (flat != flat[:, :1]).any():
        raise ValueError(
            f"{name} cannot learn from constant images, and all {len(X)} training images are:"
            " check the data"
        )


def pad_digits(X: np.ndarray) -> np.ndarray:
    """Pad 28 px images (MNIST, FashionMNIST) to 32 px with zeros, and return others as they are.

    GEOM's experiments pad FashionMNIST like this before scaling (1805.10917, authors' code),
    because the network halves the side twice.

    Parameters
    ----------
    X : ndarray of shape (n, side, side, c), uint8

    Returns
    -------
    ndarray of shape (n, side or 32, side or 32, c), uint8
    """
    return np.pad(X, ((0, 0), (2, 2), (2, 2), (0, 0))) if X.shape[1:3] == (28, 28) else X


def draw_subset(X: np.ndarray, max_images: int, generator: torch.Generator) -> np.ndarray:
    """Draw ``max_images`` images without replacement, and keep their order.

    All images are returned, and nothing is drawn, if ``max_images`` is 0 or at least their number.
    """
    if not 0 < max_images < len(X):
        return X
    rows = torch.randperm(len(X), generator=generator)[:max_images].sort().values
    return X[rows.numpy()]


def to_device(X: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy images to a device, even if the array is reversed, memory-mapped or read-only."""
    return torch.tensor(np.ascontiguousarray(X), device=device)
