"""``npz:PATH``: a user's own arrays in the layout of MedMNIST (arXiv 2110.14795).

``train_images`` and ``test_images`` are (n, height, width) or (n, height, width, 3), uint8.
``train_labels`` and ``test_labels`` are (n,) or (n, 1), integers from 0; class 3 is called
``class_3``. Validation arrays are not used, and a warning says so. The file is read into memory
whole.
"""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import numpy as np

from benchmarks.contracts import Dataset
from benchmarks.datasets.arrays import Arrays

KEYS = ("train_images", "train_labels", "test_images", "test_labels")


def load(path: Path) -> Dataset:
    """Open the arrays of a file; see `read`."""
    arrays, class_names = read(path)
    return arrays.as_dataset("npz", class_names)


def read(path: Path) -> tuple[Arrays, tuple[str, ...]]:
    """Read the arrays and name the classes.

    Raises
    ------
    ValueError
        If it is not an .npz file, or an array is missing or not as described above. Pickled objects
        are never loaded: they could run code.
    OSError
        If the file cannot be read.
    """
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError(f"{path} is not an .npz file: write one with numpy.savez")
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            missing = [key for key in KEYS if key not in arrays.files]
            if missing:
                raise ValueError(
                    f"{path} has no {', '.join(missing)}: "
                    f"it has {', '.join(arrays.files) or 'nothing'}"
                )
            unused = [key for key in arrays.files if key not in KEYS]
            train_images, train_labels, test_images, test_labels = (
                _read(arrays, key, path) for key in KEYS
            )
    train_images, test_images = (
        _as_images(train_images, "train_images"),
        _as_images(test_images, "test_images"),
    )
    if not len(train_images):
        raise ValueError(f"train_images of {path} is empty: add images of the normal class")
    if train_images.shape[1:] != test_images.shape[1:]:
        raise ValueError(
            f"train_images and test_images of {path} differ in shape: "
            f"{train_images.shape[1:]} and {test_images.shape[1:]}"
        )
    labels = [_as_labels(train_labels, "train_labels"), _as_labels(test_labels, "test_labels")]
    values, positions = np.unique(np.concatenate(labels), return_inverse=True)
    cut = len(labels[0])
    if unused:
        warnings.warn(
            f"{path}: {', '.join(unused)} not used: "
            "the benchmark trains on train_* and scores test_*",
            stacklevel=2,
        )
    joined = Arrays.from_partitions(
        train_images, positions[:cut].tolist(), test_images, positions[cut:].tolist()
    )
    return joined, tuple(f"class_{value}" for value in values)


def _read(arrays: np.lib.npyio.NpzFile, key: str, path: Path) -> np.ndarray:
    try:
        return arrays[key]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise ValueError(
            f"{key} of {path} holds Python objects, which are never loaded: "
            "save it as an array of numbers"
        ) from None


def _as_images(images: np.ndarray, key: str) -> np.ndarray:
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if (
        images.dtype != np.uint8
        or images.ndim not in (3, 4)
        or (images.ndim == 4 and images.shape[3] != 3)
        or 0 in images.shape[1:]
    ):
        raise ValueError(
            f"{key} must be uint8 of shape (n, height, width) or (n, height, width, 3), "
            f"got {images.dtype} {images.shape}"
        )
    return images


def _as_labels(labels: np.ndarray, key: str) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or (len(labels) and labels.min() < 0):
        raise ValueError(
            f"{key} must be integers from 0 of shape (n,) or (n, 1), "
            f"got {labels.dtype} {labels.shape}"
        )
    return labels.astype(np.int64)
