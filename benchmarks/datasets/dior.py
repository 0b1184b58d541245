"""DIOR: objects in aerial images, 20 classes (Li et al. 2020, arXiv 1909.00133).

An image is one object: its bounding box, of at least 120 pixels in both axes, resized to 256 x 256 (arXiv 2002.10445).
Our choices: a side is xmax - xmin and the box takes the pixels from xmin up to, not including, xmax; the resizing is bilinear
with antialiasing and does not keep the sides' ratio; classes with 50 objects or fewer, in both partitions together, are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from benchmarks.contracts import Dataset
from benchmarks.datasets.file_datasets import Files, find_folder, slug
from benchmarks.datasets.sources import LocalCopy, Source
from dn2.images import ImageFiles

SHORTEST_SIDE, SIZE = 120, 256
MORE_THAN = 50
ANNOTATIONS = "Annotations/Horizontal Bounding Boxes"


class _Object(NamedTuple):
    path: Path
    box: tuple[int, int, int, int]
    class_name: str


def load(home: Path, root: Path | None = None) -> Dataset:
    """Open the authors' layout below ``root``, or below ``home/data/dior``."""
    return read(root or home / "data" / "dior").as_dataset("dior")


def read(root: Path) -> Files:
    """Read every annotation; each partition in the order of the authors' lists, and in an image as annotated.

    Raises
    ------
    ValueError
        If an annotation is incomplete, or no object is large enough.
    """
    folder = find_folder(root, ANNOTATIONS, "DIOR")
    train = [*_objects(folder, "train", "trainval"), *_objects(folder, "val", "trainval")]
    test = list(_objects(folder, "test", "test"))
    counts = Counter(found.class_name for found in train + test)
    names = sorted(name for name, count in counts.items() if count > MORE_THAN)
    if not names:
        raise ValueError(
            f"{folder} has no class with more than {MORE_THAN} boxes of at least {SHORTEST_SIDE} pixels in both axes"
        )
    train, test = ([found for found in part if found.class_name in names] for part in (train, test))
    images = ImageFiles(
        [found.path for found in train + test],
        np.array([found.box for found in train + test]),
        SIZE,
    )
    labels = np.array([names.index(found.class_name) for found in train + test], np.int64)
    return Files(root, images, labels, np.arange(len(labels)) < len(train), tuple(names))


def _objects(folder: Path, part: str, images: str) -> Iterator[_Object]:
    """Yield the objects of a list that are large enough."""
    for name in (folder / "ImageSets" / "Main" / f"{part}.txt").read_text().split():
        annotation = folder / ANNOTATIONS / f"{name}.xml"
        for found in ElementTree.parse(annotation).iterfind("object"):
            texts = [
                found.findtext(path, "")
                for path in ("bndbox/xmin", "bndbox/ymin", "bndbox/xmax", "bndbox/ymax")
            ]
            class_name = slug(found.findtext("name", ""))
            if not all((*texts, class_name)):
                raise ValueError(f"{annotation} has an object without a name or a whole bndbox")
            left, top, right, bottom = (int(float(text)) for text in texts)
            if min(right - left, bottom - top) >= SHORTEST_SIDE:
                yield _Object(
                    folder / f"JPEGImages-{images}" / f"{name}.jpg",
                    (left, top, right, bottom),
                    class_name,
                )


SOURCES: dict[str, Source] = {
    "local": LocalCopy(
        read,
        f"JPEGImages-trainval/, JPEGImages-test/, '{ANNOTATIONS}'/*.xml, ImageSets/Main/ (train.txt, val.txt, test.txt)",
        "https://gcheng-nwpu.github.io/",
    ),
}
"""It is only there once somebody has put it there."""
