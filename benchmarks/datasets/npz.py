"""``npz:PATH``: a user's own arrays in the layout of MedMNIST (arXiv 2110.14795).

``train_images`` and ``test_images`` are (n, height, width) or (n, height, width, 3), uint8.
``train_labels`` and ``test_labels`` are (n,) or (n, 1), integers from 0; class 3 is called
``class_3``. Validation arrays are not used, and a warning says so. The file is read into memory
whole, after the shapes in its headers were compared with each other and with the free memory.
"""

from __future__ import annotations

import os
import warnings
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np

from benchmarks.contracts import Dataset
from benchmarks.datasets.arrays import Arrays
from benchmarks.datasets.npy import Header, check_size, read_header, read_into
from dn2.files import open_regular

KEYS = ("train_images", "train_labels", "test_images", "test_labels")
SHARE_OF_MEMORY = 0.5
"""The images may take this share of the memory that is free."""

ENCRYPTED = 1
"""A bit of a member's flags."""


def load(path: Path) -> Dataset:
    """Open the arrays of a file; see `read`."""
    arrays, class_names = read(path)
    return arrays.as_dataset("npz", class_names)


def read(path: Path) -> tuple[Arrays, tuple[str, ...]]:
    """Read the arrays and name the classes.

    Raises
    ------
    ValueError
        If it is not an .npz file, or an array is missing or not as described above, or too large
        for the memory. Pickled objects are never loaded: they could run code.
    OSError
        If the file cannot be read.
    """
    with open_regular(path) as file:
        if not zipfile.is_zipfile(file):
            raise ValueError(f"{path} is not an .npz file: write one with numpy.savez")
        file.seek(0)
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, zlib.error) as error:
            # (zipfile raises NotImplementedError for a form of archive that it does not know)
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} is damaged ({reason}): save or copy it again") from None
        with archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            missing = [key for key in KEYS if key not in names]
            if missing:
                had = ascii(", ".join(names) or "nothing")[1:-1][:200]
                raise ValueError(f"{path} has no {', '.join(missing)}: it has {had}")
            members = {key: _Member(archive, key, names.index(key), path) for key in KEYS}
            _check_shapes({key: member.header.shape for key, member in members.items()}, path)
            _check_memory(members, path)
            n_train = members["train_images"].header.shape[0]
            n_test = members["test_images"].header.shape[0]
            images = np.empty(
                (n_train + n_test, *members["train_images"].header.shape[1:]), np.uint8
            )
            members["train_images"].read_into(images[:n_train])
            members["test_images"].read_into(images[n_train:])
            labels = [
                _as_labels(members[key].read(), key) for key in ("train_labels", "test_labels")
            ]
    values, positions = np.unique(np.concatenate(labels), return_inverse=True)
    unused = [ascii(name)[1:-1] for name in names if name not in KEYS]
    if unused:
        warnings.warn(
            f"{path}: {', '.join(unused)[:200]} not used: "
            "the benchmark trains on train_* and scores test_*",
            stacklevel=2,
        )
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    joined = Arrays(images, positions.astype(np.int64), np.arange(len(images)) < n_train)
    return joined, tuple(f"class_{value}" for value in values)


class _Member:
    """One array of the archive: its header, and its data when it is asked for."""

    def __init__(self, archive: zipfile.ZipFile, key: str, position: int, path: Path) -> None:
        self.archive, self.info = archive, archive.infolist()[position]
        self.key, self.name = key, f"{key} of {path}"
        if self.info.flag_bits & ENCRYPTED:
            raise ValueError(f"{self.name} has a password: save it without, by numpy.savez")
        if self.info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(
                f"{self.name} is compressed by method {self.info.compress_type}, and .npz files "
                "are by 0 or 8: save it by numpy.savez_compressed"
            )
        with self._open() as file:
            self.header = _checked(file, self.name)
        if not key.endswith("labels"):
            _check_images(self.header, key)
        else:
            _check_labels(self.header, key)
        check_size(self.header, self.info.file_size, self.name)

    def read_into(self, target: np.ndarray) -> None:
        """Read the data into an array."""
        with self._open() as file:
            read_into(file, target, _checked(file, self.name), self.name)

    def read(self) -> np.ndarray:
        """Read the data as an array."""
        target = np.empty(self.header.shape, self.header.dtype)
        self.read_into(target)
        return target

    def _open(self) -> IO[bytes]:
        try:
            return self.archive.open(self.info)
        except (zipfile.BadZipFile, OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{self.name} is damaged ({reason}): save it again") from None


def _checked(file: IO[bytes], name: str) -> Header:
    try:
        return read_header(file, name)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{name} is damaged ({reason}): save or copy it again") from None


def _check_shapes(shapes: dict[str, tuple[int, ...]], path: Path) -> None:
    """Compare the shapes that the headers say."""
    train, test = shapes["train_images"], shapes["test_images"]
    if not train[0]:
        raise ValueError(f"train_images of {path} is empty: add images of the normal class")
    for part, called in (("train", "training"), ("test", "test")):
        labels = shapes[f"{part}_labels"]
        if labels[0] != shapes[f"{part}_images"][0]:
            raise ValueError(
                f"there are {shapes[f'{part}_images'][0]} {called} images and {labels[0]} labels "
                f"in {path}: give each image one label"
            )
    if _without_channel(train[1:]) != _without_channel(test[1:]) or len(train) != len(test):
        raise ValueError(
            f"train_images and test_images of {path} differ in shape: {train[1:]} and {test[1:]}"
        )


def _without_channel(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:2] if shape[2:] == (1,) else shape


def _check_memory(members: dict[str, _Member], path: Path) -> None:
    needed = sum(member.header.n_bytes for member in members.values())
    free = _free_memory()
    if needed > free * SHARE_OF_MEMORY:
        raise ValueError(
            f"the arrays of {path} take {needed / 1e9:,.1f} GB, more than half of the "
            f"{free / 1e9:,.1f} GB of memory that are free: give fewer or smaller images, or "
            "image files (folder:PATH), which are read one by one"
        )


def _free_memory() -> float:
    """Return how many bytes are free: of the machine, and of this process's limits."""
    free = [float("inf")]
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free.append(int(line.split()[1]) * 1024.0)
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        free.append(max(0.0, float(limit - int((group / "memory.current").read_text()))))
    with suppress(ImportError, OSError, ValueError):
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            free.append(max(0.0, float(limit - pages * os.sysconf("SC_PAGE_SIZE"))))
    return min(free)


def _check_images(header: Header, key: str) -> None:
    shape = header.shape
    if (
        header.dtype != np.uint8
        or len(shape) not in (3, 4)
        or (len(shape) == 4 and shape[3] not in (1, 3))
        or 0 in shape[1:]
    ):
        raise ValueError(
            f"{key} must be uint8 of shape (n, height, width) or (n, height, width, 3), "
            f"got {header.dtype} {shape}"
        )


def _check_labels(header: Header, key: str) -> None:
    if header.dtype.kind not in "iu" or not header.shape or header.shape[1:] not in ((), (1,)):
        raise ValueError(
            f"{key} must be integers from 0 of shape (n,) or (n, 1), "
            f"got {header.dtype} {header.shape}"
        )


def _as_labels(labels: np.ndarray, key: str) -> np.ndarray:
    if len(labels) and labels.min() < 0:
        raise ValueError(f"{key} must be integers from 0, got {labels.min()}")
    if len(labels) and labels.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{key} must be at most {np.iinfo(np.int64).max}, got {labels.max()}")
    return labels.reshape(-1).astype(np.int64)
