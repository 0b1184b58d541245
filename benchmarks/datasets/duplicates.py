"""Which images a data set holds more than once: files byte for byte, arrays pixel for pixel.

A test image that is a training image too has a neighbour at distance 0. Its score says nothing of
new images.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.contracts import Dataset, UsageError
from benchmarks.datasets.arrays import StoredImages
from dn2.files import read_regular, write_atomically

KEPT = "duplicates.json"
BLOCK = 4096
"""So many images are read at a time."""


@dataclass(frozen=True)
class Duplicates:
    """Hold the images that a data set has more than once.

    Attributes
    ----------
    shared : ndarray of int64
        Test rows whose image is a training image too, ascending.
    twins : ndarray of int64, aligned with ``shared``
        The first training row with the same image.
    in_train, in_test : int
        How many rows of a partition repeat an earlier row of it.
    """

    shared: np.ndarray
    twins: np.ndarray
    in_train: int
    in_test: int


def find_duplicates(dataset: Dataset) -> Duplicates | None:
    """Find the images that a data set has more than once.

    Image files are compared by the digests from which the fingerprint was made. The answer for a
    stored data set is kept beside it.

    Returns
    -------
    Duplicates or None
        None if the images are neither arrays nor files: reading each would cost too much.

    Raises
    ------
    MissingDataError
        If stored images are not what was stored.
    """
    images = dataset.images
    if isinstance(images, StoredImages):
        kept = images.path.with_name(KEPT)
        known = _read(kept, dataset)
        if known is None:
            known = _compare(first_rows(images), dataset.is_train)
            with suppress(OSError):  # losing the answer only costs time
                write_atomically(kept, _written(known, dataset), lasting=False)
        return known
    if dataset.row_digests is not None:
        return _compare(_first_of(dataset.row_digests), dataset.is_train)
    if isinstance(images, np.ndarray | list):
        return _compare(first_rows(images), dataset.is_train)
    return None


def without_shared(dataset: Dataset) -> Dataset:
    """Leave out the test images that are training images too.

    Returns
    -------
    Dataset
        With another fingerprint, if there are any.

    Raises
    ------
    UsageError
        If they cannot be looked for, or no test image is left.
    """
    found = find_duplicates(dataset)
    if found is None:
        raise UsageError(
            f"--drop-duplicates needs images that are arrays or files, and '{dataset.name}' has "
            f"others ({type(dataset.images).__name__}): leave the option out."
        )
    if not len(found.shared):
        return dataset
    rows = np.setdiff1d(np.arange(len(dataset.labels)), found.shared)
    if dataset.is_train[rows].all():
        raise UsageError(
            f"--drop-duplicates leaves no test image of '{dataset.name}': each of the "
            f"{len(found.shared):,} is a training image too. Add other test images."
        )
    digest = hashlib.sha256(
        f"{dataset.fingerprint} rows".encode() + rows.astype("<i8").tobytes()
    ).hexdigest()
    digests = dataset.row_digests
    return replace(
        dataset,
        images=_chosen(dataset.images, rows),
        labels=dataset.labels[rows],
        is_train=dataset.is_train[rows],
        fingerprint=digest,
        row_digests=None if digests is None else tuple(digests[row] for row in rows),
        n_dropped=len(found.shared),
    )


def first_rows(images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Return for each image the first row that holds the same pixels, shape (n,)."""
    first = np.arange(len(images))
    known: dict[tuple[tuple[int, ...], int], list[int]] = {}
    for start in range(0, len(images), BLOCK):
        for row, image in enumerate(images[start : start + BLOCK], start):
            # Python's hash of bytes has 64 bits. Rows of the same hash are compared in full.
            rows = known.setdefault((image.shape, hash(image.tobytes())), [])
            for other in rows:
                if np.array_equal(images[other], image):
                    first[row] = other
                    break
            else:
                rows.append(row)
    return first


def _first_of(digests: Sequence[str]) -> np.ndarray:
    known: dict[str, int] = {}
    return np.array([known.setdefault(digest, row) for row, digest in enumerate(digests)], np.int64)


def _compare(first: np.ndarray, is_train: np.ndarray) -> Duplicates:
    """Compare the two partitions, given for each row the first row with the same image."""
    train, test = np.flatnonzero(is_train), np.flatnonzero(~is_train)
    trained, twin = np.unique(first[train], return_index=True)
    tested = np.unique(first[test])
    shared = test[np.isin(first[test], trained)]
    return Duplicates(
        shared=shared,
        twins=train[twin[np.searchsorted(trained, first[shared])]],
        in_train=len(train) - len(trained),
        in_test=len(test) - len(tested),
    )


def _chosen(images: Any, rows: np.ndarray) -> Any:
    if hasattr(images, "take") and hasattr(images, "paths"):
        return images.take(rows)
    if isinstance(images, list):
        return [images[row] for row in rows]
    return _Chosen(images, rows) if isinstance(images, StoredImages) else images[rows]


class _Chosen(Sequence[np.ndarray]):
    """Some rows of stored images, still unread."""

    def __init__(self, images: StoredImages, rows: np.ndarray) -> None:
        self.images, self.rows = images, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> Any:
        return self.images[self.rows[key]]


def _written(found: Duplicates, dataset: Dataset) -> bytes:
    said = {
        "fingerprint": dataset.fingerprint,
        "shared": found.shared.tolist(),
        "twins": found.twins.tolist(),
        "in_train": found.in_train,
        "in_test": found.in_test,
    }
    text = json.dumps(said)
    return f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}\n".encode()


def _read(kept: Any, dataset: Dataset) -> Duplicates | None:
    """Read what an earlier call found; None if there is nothing, or it was altered."""
    try:
        digest, text, *_ = read_regular(kept).decode().split("\n")
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            return None
        said = json.loads(text)
    except (OSError, ValueError):
        return None
    if said["fingerprint"] != dataset.fingerprint:
        return None
    shared, twins = (np.array(said[name], np.int64) for name in ("shared", "twins"))
    return Duplicates(shared, twins, said["in_train"], said["in_test"])
