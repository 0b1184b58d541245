"""FashionMNIST: 70,000 grey pictures of clothes, 28 x 28 pixels in 10 classes.

The data is by Xiao et al. 2017, arXiv 1708.07747.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from benchmarks.contracts import Dataset
from benchmarks.datasets.arrays import Arrays, read_arrays
from benchmarks.datasets.reading import read_gzip, read_limited
from benchmarks.datasets.sources import DebianPackage, Download, LocalCopy, RemoteFile, Source

CLASS_NAMES = (
    "t_shirt_top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle_boot",
)

FILES = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
"""The four files and the MD5 sums of their .gz, as torchvision has them."""

LARGEST = 2**26
"""Bytes; the largest of the files has 47 million."""

FOLDER = "FashionMNIST/raw"


def load(home: Path, root: Path | None = None) -> Dataset:
    """Read FashionMNIST from the suite's own store, or from ``root`` in torchvision's layout."""
    if root is not None:
        return read_torchvision(root).as_dataset("fashion_mnist", CLASS_NAMES)
    return read_arrays("fashion_mnist", CLASS_NAMES, home / "data" / "fashion_mnist")


def read_torchvision(root: Path) -> Arrays:
    """Decode the four files below ``root``, gzipped or not."""
    return read_files(root / FOLDER)


def read_files(folder: Path) -> Arrays:
    """Decode the four files in a folder, gzipped or not."""
    train_images, train_labels, test_images, test_labels = (
        read_idx(folder / name) for name in FILES
    )
    return Arrays.from_partitions(
        train_images, train_labels.tolist(), test_images, test_labels.tolist()
    )


def read_idx(path: Path) -> np.ndarray:
    """Decode one idx file of bytes.

    It holds two zeros, 8 for uint8, the number of axes, their lengths (big-endian), and the data.

    Raises
    ------
    ValueError
        If it is not such a file, or holds more or less data than its header says.
    """
    packed = path.with_name(f"{path.name}.gz")
    if path.exists() or not packed.exists():
        content = read_limited(path, LARGEST)
    else:
        content = read_gzip(packed, LARGEST)
    if len(content) < 8 or content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise ValueError(
            f"{path} is not an idx file of bytes, it begins with {content[:4].hex()}: "
            "download it again"
        )
    shape = np.frombuffer(content, ">i4", content[3], 4).tolist()
    expected = 3 if "idx3" in path.name else 1
    if len(shape) != expected:
        raise ValueError(
            f"the header of {path} says {len(shape)} axes, expected {expected}: download it again"
        )
    data = np.frombuffer(content, np.uint8, offset=4 + 4 * content[3])
    if min(shape) < 0 or data.size != math.prod(shape):
        raise ValueError(
            f"the header of {path} says {shape}, but it holds {data.size} bytes: download it again"
        )
    return data.reshape(shape)


SOURCES: dict[str, Source] = {
    "local": LocalCopy(read_torchvision, f"{FOLDER}/ ({', '.join(FILES)}; each gzipped or not)"),
    "torchvision": Download(
        read_torchvision,
        tuple(
            RemoteFile(
                f"http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{name}.gz",
                md5,
                f"{FOLDER}/{name}.gz",
            )
            for name, md5 in FILES.items()
        ),
    ),
    "debian": DebianPackage(
        read_files, "dataset-fashion-mnist", "/usr/share/datasets/fashion-mnist"
    ),
}
"""In the order in which `benchmarks.fetch` tries them."""
