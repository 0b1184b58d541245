"""What of a data set is used, what is passed over and why, and which images it holds twice.

Images are compared as files byte for byte, as arrays pixel for pixel. A test image that is a
training image too has a neighbour at distance 0. Its score says nothing of new images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contracts import BEWARE, Dataset, PassedOver, UsageError
from benchmarks.datasets.arrays import StoredImages
from dn2.files import printable, read_regular, seal, unseal, write_atomically

LISTED = 10_000
"""Of more files than this, the list names the first and counts the others."""

ENDING = "ending in "

KEPT = "duplicates.json"
"""Where the images that a stored data set holds twice are remembered, beside its arrays."""

BLOCK = 4096
"""So many images are read at a time."""


@dataclass(frozen=True)
class Inventory:
    """Hold what is said of a data set.

    Attributes
    ----------
    lines : tuple of str
        To print; those that begin with `BEWARE` concern the numbers too.
    listing : tuple of str
        The same, and every file that is not used, and every test image that trains.
    n_shared : int
        How many test images are training images too.
    """

    lines: tuple[str, ...]
    listing: tuple[str, ...]
    n_shared: int = 0

    @property
    def warnings(self) -> tuple[str, ...]:
        """The lines that warn."""
        return tuple(line for line in self.lines if line.startswith(BEWARE))


def take_inventory(dataset: Dataset, duplicates: Duplicates | None) -> Inventory:
    """Say what of a data set is used.

    Arrays need no such line, unless there is something to warn of.

    Parameters
    ----------
    dataset : Dataset
    duplicates : Duplicates or None
        None if they were not looked for.
    """
    lines = [] if dataset.files is None else [_used(dataset, duplicates)]
    lines += _losses(dataset)
    if dataset.n_dropped:
        lines.append(
            f"{dataset.name}: {dataset.n_dropped:,} test images are left out, because they are "
            "training images too (--drop-duplicates)"
        )
    if duplicates is not None and len(duplicates.shared):
        lines.append(_leakage(dataset, duplicates))
    listing = [f"{one.path}: {one.reason}" for one in dataset.passed_over]
    if duplicates is not None:
        listing += _pairs(dataset, duplicates)
    more = [f"and {len(listing) - LISTED:,} more"] if len(listing) > LISTED else []
    n_shared = 0 if duplicates is None else len(duplicates.shared)
    return Inventory(tuple(lines), (*lines, *listing[:LISTED], *more), n_shared)


def count_passed_over(passed_over: Sequence[PassedOver]) -> str:
    """Count the files and folders that are passed over by reason, and by ending."""
    counts: dict[str, int] = {}
    endings = []
    for one in passed_over:
        if one.reason.startswith(ENDING):
            endings.append(one.reason.removeprefix(ENDING))
        else:
            counts[one.reason] = counts.get(one.reason, 0) + 1
    from dn2.formats import count_endings

    parts = [f"{count:,} {reason}" for reason, count in counts.items()]
    if endings:
        parts.append(f"{len(endings):,} with other endings ({count_endings(endings)})")
    return "; ".join(parts)


def _used(dataset: Dataset, duplicates: Duplicates | None) -> str:
    n_train, n_test = int(dataset.is_train.sum()), int((~dataset.is_train).sum())
    trained = {dataset.class_names[label] for label in set(dataset.labels[dataset.is_train])}
    only_tested = [
        name
        for number, name in enumerate(dataset.class_names)
        if name not in trained and (dataset.labels == number).any()
    ]
    classes = len(dataset.class_names)
    text = (
        f"{dataset.name}: {n_train:,} training and {n_test:,} test images in {classes:,} "
        f"class{'es' if classes != 1 else ''}"
    )
    if only_tested:
        shown = ", ".join(only_tested[:3]) + (", ..." if len(only_tested) > 3 else "")
        text += f" ({len(only_tested):,} without training images: {shown})"
    if dataset.skipped:
        text += f"; {len(dataset.skipped):,} corrupt ones left out"
    if passed_over := count_passed_over(dataset.passed_over):
        text += f"; passed over: {passed_over}"
    if duplicates is not None:
        text += (
            f"; copies: {duplicates.in_train:,} within train, {duplicates.in_test:,} within test, "
            f"{len(duplicates.shared):,} of test in train"
        )
    return text


def _losses(dataset: Dataset) -> list[str]:
    """Warn of what is passed over and probably holds images."""
    losses = [one for one in dataset.passed_over if one.is_loss]
    if not losses:
        return []
    from dn2.formats import OF_HEIF, UNREAD

    counted = count_passed_over(losses)
    suffixes = {one.reason.removeprefix(ENDING) for one in losses}
    remedy = "convert them to PNG, or move them away" if suffixes & UNREAD else "see inventory.txt"
    if suffixes & OF_HEIF:
        remedy += "; pip install pillow-heif reads HEIC"
    return [
        f"{BEWARE}{dataset.name} has what looks like images and is not used: {counted} ({remedy})."
    ]


def _leakage(dataset: Dataset, duplicates: Duplicates) -> str:
    shared = duplicates.shared
    same = int((dataset.labels[shared] == dataset.labels[duplicates.twins]).sum())
    n_test = int((~dataset.is_train).sum())
    is_one = len(shared) == 1
    equal = "byte for byte" if dataset.files is not None else "pixel for pixel"
    other = f", {len(shared) - same:,} with another label" if same < len(shared) else ""
    return (
        f"{BEWARE}{len(shared):,} of the {n_test:,} test images of {dataset.name} "
        f"{'is a training image' if is_one else 'are training images'} too, {equal} "
        f"({same:,} with the same label{other}): "
        f"{'its score says' if is_one else 'their scores say'} nothing of new images. "
        f"--drop-duplicates leaves {'it' if is_one else 'them'} out of the test set."
    )


def _pairs(dataset: Dataset, duplicates: Duplicates) -> list[str]:
    """List the test images that train, with the training image that each equals."""
    files = dataset.files
    pairs = zip(duplicates.shared.tolist(), duplicates.twins.tolist(), strict=True)
    if files is None:
        return [f"test row {row} equals training row {twin}" for row, twin in pairs]
    return [
        f"{printable(str(files[row]))}: a test image that equals the training image "
        f"{printable(str(files[twin]))}"
        for row, twin in pairs
    ]


# ---- Which images a data set holds more than once


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
    return seal(said).encode()


def _read(kept: Path, dataset: Dataset) -> Duplicates | None:
    """Read what an earlier call found; None if there is nothing, or it was altered."""
    try:
        said = unseal(read_regular(kept), needed=True)
        if said["fingerprint"] != dataset.fingerprint:
            return None
        shared, twins = (np.array(said[name], np.int64) for name in ("shared", "twins"))
        return Duplicates(shared, twins, said["in_train"], said["in_test"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
