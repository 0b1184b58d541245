"""DIOR: objects in aerial images, 20 classes (Li et al. 2020, arXiv 1909.00133).

Each image of the data set is one object: its bounding box, which measures at least 120 pixels in
both axes, resized to 256 x 256 (arXiv 2002.10445). The rest is our choice: a side is xmax - xmin,
and the box takes the pixels from xmin up to, but not including, xmax; resizing is bilinear with
antialiasing and does not keep the aspect ratio; classes with 50 objects or fewer, counted over both
partitions, are left out.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from benchmarks.contracts import Dataset
from benchmarks.datasets.image_files import Files, find_folder, slug
from benchmarks.datasets.reading import read_limited, read_text
from benchmarks.datasets.sources import LocalCopy, Source
from dn2.images import ImageFiles

SHORTEST_SIDE, SIZE = 120, 256
MORE_THAN = 50
LARGEST_ANNOTATION, MOST_PIXELS = 2**24, 2**20
NAME = re.compile(r"[\w.-]+")
ANNOTATIONS = "Annotations/Horizontal Bounding Boxes"


class _Object(NamedTuple):
    path: Path
    box: tuple[int, int, int, int]
    class_name: str


def load(home: Path, root: Path | None = None) -> Dataset:
    """Open the authors' layout below ``root``, or below ``home/data/dior``."""
    return read(root or home / "data" / "dior").as_dataset("dior")


def read(root: Path) -> Files:
    """Read every annotation.

    Each partition is in the order of the authors' lists and, within an image, of its annotations.

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
            f"{folder} has no class with more than {MORE_THAN} boxes of at least {SHORTEST_SIDE} "
            "pixels in both axes: copy the whole release"
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
    for name in _names(folder / "ImageSets" / "Main" / f"{part}.txt"):
        annotation = folder / ANNOTATIONS / f"{name}.xml"
        for found in _parsed(annotation).iterfind("object"):
            texts = [
                found.findtext(path, "")
                for path in ("bndbox/xmin", "bndbox/ymin", "bndbox/xmax", "bndbox/ymax")
            ]
            class_name = slug(found.findtext("name", ""))
            if not all((*texts, class_name)):
                raise ValueError(
                    f"{annotation} has an object without a name or a complete bndbox: copy it again"
                )
            left, top, right, bottom = (_pixels(text, annotation) for text in texts)
            if min(right - left, bottom - top) >= SHORTEST_SIDE:
                yield _Object(
                    folder / f"JPEGImages-{images}" / f"{name}.jpg",
                    (left, top, right, bottom),
                    class_name,
                )


def _names(path: Path) -> list[str]:
    names = read_text(path).split()
    if len(set(names)) < len(names) or not all(NAME.fullmatch(name) for name in names):
        raise ValueError(f"{path} is no list of names, each once: copy it again")
    return names


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuse a document type: entities can make a small file endless."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:  # noqa: ARG002
        raise ValueError("it declares a document type")


def _parsed(path: Path) -> ElementTree.Element:
    content = read_limited(path, LARGEST_ANNOTATION)
    try:
        return ElementTree.fromstring(content, ElementTree.XMLParser(target=_NoDoctype()))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read ({reason}): copy it again") from None


def _pixels(text: str, path: Path) -> int:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) < MOST_PIXELS:
        raise ValueError(f"{path} has a box at {ascii(text)[:40]}: copy it again")
    return int(value)


SOURCES: dict[str, Source] = {
    "local": LocalCopy(
        read,
        f"JPEGImages-trainval/, JPEGImages-test/, '{ANNOTATIONS}'/*.xml, "
        "ImageSets/Main/ (train.txt, val.txt, test.txt)",
        "https://gcheng-nwpu.github.io/",
    ),
}
"""There is no download: a user puts the files in place by hand."""
