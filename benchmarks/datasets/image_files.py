"""Data sets as image files that stay in place.

They are identified by a digest of their bytes, and decoded on access.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from benchmarks.contracts import Dataset, Progress
from benchmarks.datasets.arrays import fingerprint
from dn2.files import open_regular, printable, read_regular, seal, unseal, write_atomically
from dn2.images import CorruptImageError, ImageFiles, View, reduce_image


@dataclass(frozen=True)
class Files:
    """A data set in files: training rows first, in official order, then the test rows.

    Attributes
    ----------
    folder : Path
        The folder in which the files were looked for.
    images : ImageFiles
    labels : ndarray of shape (n,), int64
    is_train : ndarray of shape (n,), bool
    class_names : tuple of str
    """

    folder: Path
    images: ImageFiles
    labels: np.ndarray
    is_train: np.ndarray
    class_names: tuple[str, ...]

    @classmethod
    def from_rows(
        cls,
        folder: Path,
        train: Iterable[tuple[Path, int]],
        test: Iterable[tuple[Path, int]],
        class_names: Sequence[str],
    ) -> Files:
        """Join the two partitions; each is a sequence of (path, label), in order."""
        train, test = list(train), list(test)
        paths, labels = [path for path, _ in train + test], [label for _, label in train + test]
        is_train = np.arange(len(paths)) < len(train)
        return cls(
            folder, ImageFiles(paths), np.array(labels, np.int64), is_train, tuple(class_names)
        )

    @cached_property
    def row_digests(self) -> tuple[str, ...]:
        """What identifies the image of each row: see `row_digests`."""
        return row_digests(self.images)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of the whole data set.

        It covers the files' bytes, boxes and size (see `row_digests`), the labels and the
        partition.
        """
        lines = "".join(f"{line}\n" for line in self.row_digests)
        images = hashlib.sha256(lines.encode()).hexdigest()
        return fingerprint(images, self.labels, self.is_train)

    def as_dataset(self, name: str) -> Dataset:
        """Wrap the files as a `Dataset`.

        Each file is read once, for the fingerprint, and none is decoded.
        """
        return Dataset(
            name,
            self.images,
            self.labels,
            self.is_train,
            self.class_names,
            self.fingerprint,
            row_digests=self.row_digests,
        )


def row_digests(images: ImageFiles) -> tuple[str, ...]:
    """Identify each row by its file's SHA-256, its box, and the size it is resized to.

    Paths and file names are not part of it.
    """
    distinct = list(dict.fromkeys(images.paths))
    with ThreadPoolExecutor() as pool:
        digests = dict(zip(distinct, pool.map(_file_digest, distinct), strict=True))
    boxes = [None] * len(images) if images.boxes is None else images.boxes.tolist()
    return tuple(
        f"{digests[path]} {box} {images.size}"
        for path, box in zip(images.paths, boxes, strict=True)
    )


def without_corrupt(dataset: Dataset, home: Path, progress: Progress | None = None) -> Dataset:
    """Leave out the images that cannot be decoded.

    All images are tried, in parallel; the answer is kept in ``home/data/corrupt``.

    Returns
    -------
    Dataset
        With the reasons in ``skipped``, one per file, and another fingerprint if there are any.
        Arrays are returned unchanged.

    Raises
    ------
    OSError
        If a file cannot be read at all.
    dn2.images.ImageMemoryError
        If there is too little memory for an image. Nothing is kept then.
    """
    if not isinstance(dataset.images, ImageFiles):
        return dataset
    reasons = _find_corrupt(
        dataset.images,
        f"{dataset.name}: looking for corrupt images",
        home / "data" / "corrupt" / f"{dataset.fingerprint}.json",
        progress,
    )
    if not reasons:
        return dataset
    paths = dataset.images.paths
    rows = np.array([row for row, path in enumerate(paths) if str(path) not in reasons], np.int64)
    images, labels, is_train = (
        dataset.images.take(rows),
        dataset.labels[rows],
        dataset.is_train[rows],
    )
    skipped = tuple(f"{printable(path)}: {reason}" for path, reason in reasons.items())
    digest = hashlib.sha256(
        f"{dataset.fingerprint} rows".encode() + rows.astype("<i8").tobytes()
    ).hexdigest()
    return replace(
        dataset,
        images=images,
        labels=labels,
        is_train=is_train,
        fingerprint=digest,
        skipped=skipped,
        row_digests=None
        if dataset.row_digests is None
        else tuple(dataset.row_digests[row] for row in rows),
    )


def find_folder(root: Path, marker: str, *names: str) -> Path:
    """Return the first of ``root`` and its subfolders ``names`` that contains ``marker``.

    Raises
    ------
    FileNotFoundError
        If none of them does.
    """
    for folder in (root, *(root / name for name in names)):
        if (folder / marker).exists():
            return folder
    looked_in = " or ".join(str(folder) for folder in (root, *(root / name for name in names)))
    raise FileNotFoundError(f"no {marker} in {looked_in}")


LONGEST_NAME = 120
"""Bytes of a class's name: files and metrics are named after it, and have more in their names."""


def slug(name: str) -> str:
    """Turn a name into one that MLflow and file systems accept.

    It keeps letters (of any script) and digits, and puts underscores between them.

    Examples
    --------
    >>> slug("T-shirt/top"), slug("Pêche Melba")
    ('t_shirt_top', 'pêche_melba')
    """
    return re.sub(r"[\W_]+", "_", unicodedata.normalize("NFC", name).lower()).strip("_")


def _file_digest(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _find_corrupt(
    images: ImageFiles, what: str, kept: Path, progress: Progress | None
) -> dict[str, str]:
    """Return path -> reason, in row order.

    The answer comes from the file ``kept`` if an earlier call wrote it. The fingerprint does not
    cover paths, so that file stores positions among the distinct paths.
    """
    distinct = list(dict.fromkeys(images.paths))
    version = _decoder_version(images.view)
    with suppress(OSError, ValueError, KeyError):
        found = unseal(read_regular(kept), needed=True)
        if found["decoder"] == version:
            return {
                str(distinct[int(position)]): reason
                for position, reason in found["corrupt"].items()
            }
    reasons = {}
    with ThreadPoolExecutor() as pool:
        tried = pool.map(lambda path: _reason_if_corrupt(path, images.view), distinct)
        for position, reason in enumerate(tried):
            if reason:
                reasons[position] = reason
            if progress:
                progress(what, position + 1, len(distinct))
    with suppress(OSError):  # losing the answer only costs time
        kept.parent.mkdir(parents=True, exist_ok=True)
        content = seal({"decoder": version, "corrupt": reasons}).encode()
        write_atomically(kept, content, lasting=False)
    return {str(distinct[position]): reason for position, reason in reasons.items()}


def _reason_if_corrupt(path: Path, view: View) -> str:
    try:
        reduce_image(path, lambda _: NOTHING, view=view)
    except CorruptImageError as error:
        return error.reason
    return ""


NOTHING = np.empty(0, np.uint8)


def _decoder_version(view: View) -> str:
    """Name what decides whether an image can be read: the decoders, and the limit of pixels."""
    import PIL
    from PIL import features

    parts = [f"{name} {features.version(name)}" for name in DECODERS]
    return f"Pillow {PIL.__version__}, {', '.join(parts)}, {view.most_pixels} pixels; {CHECKS}"


DECODERS = ("jpg", "zlib", "libtiff", "jpg_2000", "webp", "avif")
CHECKS = 1  # the version of `dn2.whole`
