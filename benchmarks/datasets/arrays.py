"""A data set as arrays: its digest, its files, and reading them back without trusting the disk.

A stored data set is a folder of ``images.npy``, ``labels.npy``, ``is_train.npy`` and
``images.sha256``. Labels and fingerprint are read in milliseconds. The images are memory-mapped,
and compared with their digest once, before the first of them is used.
"""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from benchmarks.contracts import Dataset, MissingDataError
from dn2.files import open_regular, read_regular, write_atomically

UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    SyntaxError,
    zlib.error,
    tarfile.TarError,
    zipfile.BadZipFile,
)
"""What reading a missing, truncated or foreign file raises.

SyntaxError is what Pillow raises for a broken PNG.
"""


@dataclass(frozen=True)
class Arrays:
    """A decoded data set: training rows first, in official order, then the test rows.

    Attributes
    ----------
    images : ndarray of shape (n, height, width) or (n, height, width, 3), uint8
    labels : ndarray of shape (n,), int64
    is_train : ndarray of shape (n,), bool
    """

    images: np.ndarray
    labels: np.ndarray
    is_train: np.ndarray

    @classmethod
    def from_partitions(
        cls,
        train_images: np.ndarray,
        train_labels: Sequence[int],
        test_images: np.ndarray,
        test_labels: Sequence[int],
    ) -> Arrays:
        """Join the two official partitions.

        Raises
        ------
        ValueError
            If a partition has not as many labels as images, or the images are not uint8.
        """
        for images, labels, part in (
            (train_images, train_labels, "training"),
            (test_images, test_labels, "test"),
        ):
            if len(images) != len(labels):
                raise ValueError(f"there are {len(images)} {part} images and {len(labels)} labels")
            if images.dtype != np.uint8:
                raise ValueError(f"the {part} images are {images.dtype}, not uint8")
        return cls(
            images=np.concatenate([train_images, test_images]),
            labels=np.concatenate([np.asarray(train_labels), np.asarray(test_labels)]).astype(
                np.int64
            ),
            is_train=np.arange(len(train_images) + len(test_images)) < len(train_images),
        )

    @property
    def fingerprint(self) -> str:
        """See `fingerprint`."""
        return fingerprint(images_digest(self.images), self.labels, self.is_train)

    def as_dataset(self, name: str, class_names: tuple[str, ...]) -> Dataset:
        """Return the arrays, in memory, as the suite knows a data set."""
        images: Any = self.images  # an array has what a sequence of images needs
        return Dataset(name, images, self.labels, self.is_train, class_names, self.fingerprint)


def images_digest(images: Sequence[np.ndarray] | np.ndarray) -> str:
    """Return the SHA-256 (hexadecimal) of images in row order. It takes 0.2 s for CIFAR-10.

    Of each image, its shape as text, such as ``(32, 32, 3)``, is hashed and then its bytes. So one
    array and a list of its images have the same digest, and images may have many sizes.
    """
    digest = hashlib.sha256()
    for image in images:
        digest.update(str(image.shape).encode())
        digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def fingerprint(images_sha256: str, labels: np.ndarray, is_train: np.ndarray) -> str:
    """Return the SHA-256 (hexadecimal) of a whole data set.

    Hashed are the images' digest as text, the labels as little-endian int64, and the partition as
    one byte a row.
    """
    digest = hashlib.sha256(images_sha256.encode())
    digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
    digest.update(np.ascontiguousarray(is_train, dtype=np.uint8).data)
    return digest.hexdigest()


class StoredImages(Sequence[np.ndarray]):
    """Memory-mapped images, compared with their digest before the first one is read.

    Parameters
    ----------
    path : Path
        A ``.npy`` file of shape (n, height, width) or (n, height, width, 3), uint8.
    sha256 : str
        What `images_digest` must give.

    Raises
    ------
    MissingDataError
        On construction, if the file is missing or truncated. On the first read, if its content is
        not what was stored.
    """

    def __init__(self, path: Path, sha256: str) -> None:
        self.path, self.sha256, self._verified = path, sha256, False
        try:
            self._array = _mapped(path)
        except UNREADABLE as error:
            raise MissingDataError(
                f"{path} cannot be read ({error}): {_remedy(path.parent)}"
            ) from None

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, rows: Any) -> Any:
        self.verify()
        return self._array[rows]

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker maps the file again, which is cheaper than sending it 180 MB.
        return StoredImages, (self.path, self.sha256)

    def verify(self) -> None:
        """Compare the content with the digest, once per object."""
        if self._verified:
            return
        found = images_digest(self._array)
        if found != self.sha256:
            raise MissingDataError(
                f"{self.path} was altered: the digest of its images is {found}, "
                f"expected {self.sha256}: {_remedy(self.path.parent)}"
            )
        self._verified = True


def write_arrays(folder: Path, arrays: Arrays) -> None:
    """Write the files of a stored data set into an empty folder.

    The folder is complete when this returns. The caller then renames it to its place.

    Raises
    ------
    OSError
        If the disk refuses. Its ``errno`` says why.
    """
    for name in ("images", "labels", "is_train"):
        array = np.ascontiguousarray(getattr(arrays, name))
        # No wait for the disk: a file that a power cut spoils has another digest when it is read.
        write_atomically(folder / f"{name}.npy", partial(_write_array, array), lasting=False)
    digest = images_digest(arrays.images).encode()
    write_atomically(folder / "images.sha256", digest, lasting=False)


def _write_array(array: np.ndarray, file: BinaryIO) -> None:
    """Write a .npy file; the error of `numpy.save` would not say why a disk refuses."""
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    file.write(array.data)


def _mapped(path: Path) -> np.ndarray:
    """Map images; ValueError if they are not as `write_arrays` writes them."""
    from benchmarks.datasets.npy import check_size, read_header  # late: made images are in no file

    with open_regular(path) as file:
        header = read_header(file, str(path))
        check_size(header, path.stat().st_size, str(path))
    if header.dtype != np.uint8 or len(header.shape) not in (3, 4) or header.is_fortran:
        raise ValueError(f"it holds {header.dtype} {header.shape}, and no images")
    if not header.n_bytes:
        return np.empty(header.shape, header.dtype)
    return np.memmap(path, np.uint8, "r", header.offset, header.shape)


def _whole(path: Path, dtype: np.dtype) -> np.ndarray:
    """Read labels, or what trains; ValueError if it is not as `write_arrays` writes it."""
    from benchmarks.datasets.npy import check_size, read_header, read_into

    with open_regular(path) as file:
        header = read_header(file, str(path))
        check_size(header, path.stat().st_size, str(path))
        if header.dtype != dtype or len(header.shape) != 1:
            raise ValueError(f"{path} holds {header.dtype} {header.shape}, expected {dtype} (n,)")
        array = np.empty(header.shape, dtype)
        read_into(file, array, header, str(path))
    if dtype.kind == "b" and (array.view(np.uint8) > 1).any():
        raise ValueError(f"{path} holds values that are neither true nor false")
    return array


def read_arrays(name: str, class_names: tuple[str, ...], folder: Path) -> Dataset:
    """Open what `write_arrays` wrote: labels and fingerprint now, images on their first use.

    The caller must check whether the fingerprint is the official one.

    Raises
    ------
    MissingDataError
        If there is no such folder or a file of it cannot be read.
    """
    if not folder.is_dir():
        raise MissingDataError(f"{name} is not there (looked for {folder}): {_remedy(folder)}")
    try:
        labels = _whole(folder / "labels.npy", np.dtype("<i8"))
        is_train = _whole(folder / "is_train.npy", np.dtype(bool))
        images_sha256 = read_regular(folder / "images.sha256").decode().strip()
    except UNREADABLE as error:
        raise MissingDataError(
            f"{name} in {folder} cannot be read ({error}): {_remedy(folder)}"
        ) from None
    images = StoredImages(folder / "images.npy", images_sha256)
    if not len(images) == len(labels) == len(is_train):
        raise MissingDataError(
            f"{name} in {folder} has {len(images)} images and {len(labels)} labels: "
            f"{_remedy(folder)}"
        )
    return Dataset(
        name, images, labels, is_train, class_names, fingerprint(images_sha256, labels, is_train)
    )


def _remedy(folder: Path) -> str:
    return f"run `python -m benchmarks fetch {folder.name}`"
