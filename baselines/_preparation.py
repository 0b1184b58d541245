"""What the trained rivals have in common before a training, and before they score."""

from __future__ import annotations

import contextlib
import inspect
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
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
        raise ValueError(
            f"device {device!r} was asked for, but torch sees no CUDA device here: use device='cpu'"
        )
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
        capabilities: dict = getattr(
            torch.cpu, "get_capabilities", dict
        )()  # torch 2.9 has none: float32 there
        precision = (
            "bfloat16"
            if device.type == "cuda" or capabilities.get("amx_bf16", False)
            else "float32"
        )
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


MIN_SIDE = 16
"""Pixels: below this a quarter of the side, which shifts move by, and the third stage of a Wide ResNet have nothing left."""


def check_images(X: np.ndarray, name: str, min_side: int = MIN_SIDE) -> None:
    """Refuse what is not a block of images.

    Parameters
    ----------
    X : ndarray of shape (n, h, w, c), uint8
        With c = 1 or 3 channels.
    name : str
        The detector, for the message.

    Raises
    ------
    ValueError
        If the type, shape, number of channels or size is another.
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
        remedy = f"resize them, as --size {2 * min_side} does"
        raise ValueError(
            f"{name} takes images of at least {min_side} px a side, got {height} x {width}: {remedy}"
        )


def check_varied(X: np.ndarray, name: str) -> None:
    """Refuse training images that are all constant: no transformation can be told from another, and no scale be measured.

    Raises
    ------
    ValueError
        If no image has two different pixel values in one channel.
    """
    flat = X.reshape(len(X), -1, X.shape[3])
    if not (flat != flat[:, :1]).any():
        raise ValueError(
            f"{name} cannot learn from constant images, and all {len(X)} training images are: check the data"
        )


def pad_digits(X: np.ndarray) -> np.ndarray:
    """Pad 28 px images (MNIST's and its kin) with two zero pixels on each side, others not; uint8 (n, h, w, c) both ways.

    GEOM's experiments pad FashionMNIST so before scaling (1805.10917, code), for its network halves the side twice.
    """
    return np.pad(X, ((0, 0), (2, 2), (2, 2), (0, 0))) if X.shape[1:3] == (28, 28) else X


def draw_subset(X: np.ndarray, max_images: int, generator: torch.Generator) -> np.ndarray:
    """Draw ``max_images`` of the images without replacement, in order; all if that is 0 or more than there are."""
    if not 0 < max_images < len(X):
        return X
    rows = torch.randperm(len(X), generator=generator)[:max_images].sort().values
    return X[rows.numpy()]


def check_rows(n: int, smallest: int, name: str) -> None:
    """Refuse a training set that is too small.

    Raises
    ------
    ValueError
        If n is under ``smallest``.
    """
    if n < smallest:
        raise ValueError(
            f"{name} needs at least {smallest} training images, got {n}: train on more images"
        )


def to_device(X: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy images to a device, whatever their memory layout: turned over, memory-mapped or read-only."""
    return torch.tensor(np.ascontiguousarray(X), device=device)


class Rule(NamedTuple):
    """Whether a value is allowed, and what is, in words."""

    allows: Callable[[Any], bool]
    words: str


def _whole(least: int) -> Rule:
    return Rule(
        lambda value: type(value) is int and value >= least, f"a whole number of at least {least}"
    )


def _number(allows: Callable[[float], bool], words: str) -> Rule:
    return Rule(
        lambda value: type(value) in (int, float) and math.isfinite(value) and allows(value), words
    )


def _one_of(*choices: Any) -> Rule:
    return Rule(
        lambda value: type(value) in (int, str) and value in choices,
        " or ".join(map(repr, choices)),
    )


RULES = {
    "objective": _one_of("one_class", "soft_boundary"),
    "transformations": _one_of(72, "rotation"),
    "score": _one_of("dirichlet", "simple"),
    "resolution": _one_of("low", "high"),
    "epochs": _whole(1),
    "pretrain_epochs": _whole(0),
    "drop_epoch": _whole(0),
    "pretrain_drop_epoch": _whole(0),
    "warm_up_epochs": _whole(0),
    "batch_size": _whole(2),  # BatchNorm cannot normalise one vector
    "learning_rate": _number(lambda value: value > 0, "a number above 0"),
    "weight_decay": _number(lambda value: value >= 0, "a number of at least 0"),
    "margin": _number(lambda value: value >= 0, "a number of at least 0"),
    "nu": _number(lambda value: 0 < value <= 1, "a share in (0, 1]"),
    "dropout": _number(lambda value: 0 <= value < 1, "a share in [0, 1)"),
    "depth": Rule(
        lambda value: type(value) is int and value >= 10 and value % 6 == 4,
        "6 n + 4, as 10, 16 or 22",
    ),
    "width": _whole(1),
    "max_images": Rule(
        lambda value: type(value) is int and (value == 0 or value >= 2),
        "a whole number of at least 2, or 0 for all",
    ),
    "seed": _whole(0),
}


def check_parameters(detector: object, name: str) -> None:
    """Refuse a detector with a parameter that is out of range, of another type or unknown.

    Parameters
    ----------
    detector : object
        A trained rival: each parameter of its constructor is stored under its own name.
    name : str
        For the message.

    Raises
    ------
    ValueError
        Naming the parameter, what it can be, what it is, and its default.
    """
    values = vars(detector)
    for parameter, of_signature in inspect.signature(type(detector)).parameters.items():
        if parameter in (
            "device",
            "precision",
        ):  # checked below: what there is depends on the machine
            continue
        value, rule = values[parameter], RULES[parameter]
        if not rule.allows(value):
            raise ValueError(
                f"{name}'s {parameter} must be {rule.words}, got {value!r}: the default is {of_signature.default!r}"
            )
    pick_precision(values["precision"], pick_device(values["device"]))


class Rival(Protocol):
    """A detector that trains a network."""

    max_images: int
    seed: int
    device: str | None
    precision: str

    def check_rows(self, n: int) -> None:
        """Raise ValueError if it cannot train on n images, or a parameter is out of range."""


class Preparation(NamedTuple):
    """What a training begins with.

    Attributes
    ----------
    X : ndarray of shape (n, side, side, c), uint8
        The images that are trained on.
    device : torch.device
    precision : torch.dtype
        Of convolutions and products.
    generator : torch.Generator
        For the weights; on the CPU, so that they are alike on every device.
    """

    X: np.ndarray
    device: torch.device
    precision: torch.dtype
    generator: torch.Generator


def prepare_training(
    rival: Rival, X: np.ndarray, name: str, min_side: int = MIN_SIDE
) -> Preparation:
    """Check images and parameters, and draw the subset of ``max_images``.

    Parameters
    ----------
    rival : Rival
    X : ndarray of shape (n, side, side, c), uint8
        Normal images.
    name : str
        The rival, for the message.
    min_side : int
        Pixels.

    Raises
    ------
    ValueError
        If the images or a parameter cannot be used.
    """
    check_images(X, name, min_side)
    rival.check_rows(len(X))
    device = pick_device(rival.device)
    generator = torch.Generator().manual_seed(rival.seed)
    X = draw_subset(X, rival.max_images, generator)
    check_varied(X, name)
    return Preparation(X, device, pick_precision(rival.precision, device), generator)


def check_ready(rival: Rival, X: np.ndarray, name: str) -> None:
    """Refuse to score before a training, what is not a block of images, and images of another shape than the training's.

    Raises
    ------
    NotFittedError
        If the rival has no network yet.
    ValueError
        If X is of another type or shape.
    """
    if not hasattr(rival, "network_"):
        from sklearn.exceptions import NotFittedError  # late: it takes a second

        raise NotFittedError(f"{name} was not fitted: call fit before anomaly_score")
    check_images(X, name)
    shape: tuple[int, ...] = rival.shape_  # type: ignore[attr-defined]
    if X.shape[1:] != shape:
        raise ValueError(
            f"{name} was fitted to images of shape {shape}, got {X.shape[1:]}: score images of the same shape"
        )
