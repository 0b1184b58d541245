"""Caltech-UCSD Birds-200-2011: 11,788 photographs of birds in 200 classes (Wah et al. 2011)."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.contracts import Dataset
from benchmarks.datasets.image_files import Files, find_folder, slug
from benchmarks.datasets.reading import read_text
from benchmarks.datasets.sources import LocalCopy, Source

NUMBER = re.compile(r"[1-9][0-9]{0,6}")


def load(home: Path, root: Path | None = None) -> Dataset:
    """Open the authors' layout below ``root``, or below ``home/data/cub200``."""
    return read(root or home / "data" / "cub200").as_dataset("cub200")


def read(root: Path) -> Files:
    """Read the authors' lists; each partition is ordered by the images' numbers.

    The classes keep their numbers, ``001_black_footed_albatross``, so that alphabetical order is
    the authors' order.

    Raises
    ------
    ValueError
        If the lists do not describe the same images.
    """
    folder = find_folder(root, "images.txt", "CUB_200_2011")
    classes = _read_list(folder / "classes.txt")
    labels = {number: position for position, number in enumerate(classes)}
    paths, image_labels, splits = (
        _read_list(folder / f"{name}.txt")
        for name in ("images", "image_class_labels", "train_test_split")
    )
    if not paths.keys() == image_labels.keys() == splits.keys():
        raise ValueError(
            "images.txt, image_class_labels.txt and train_test_split.txt "
            f"in {folder} do not list the same images: copy all three from one release"
        )
    parts: dict[str, list[tuple[Path, int]]] = {"1": [], "0": []}
    for name, values, allowed in (
        ("image_class_labels", image_labels, labels),
        ("train_test_split", splits, parts),
    ):
        if wrong := next((value for value in values.values() if value not in allowed), ""):
            raise ValueError(
                f"{folder / name}.txt has the value '{wrong[:40]}', which is none of its: "
                "copy it again"
            )
    for number in sorted(paths, key=int):
        if Path(paths[number]).is_absolute() or ".." in Path(paths[number]).parts:
            raise ValueError(f"images.txt in {folder} leads out of images/: copy it again")
        parts[splits[number]].append(
            (folder / "images" / paths[number], labels[image_labels[number]])
        )
    return Files.from_rows(root, parts["1"], parts["0"], [slug(name) for name in classes.values()])


def _read_list(path: Path) -> dict[str, str]:
    """Read lines that hold a number and a text."""
    pairs = [line.split(maxsplit=1) for line in read_text(path).splitlines() if line.strip()]
    if any(len(pair) != 2 or not NUMBER.fullmatch(pair[0]) for pair in pairs):
        raise ValueError(f"{path} has lines that are not a number and a text: copy it again")
    found = {number: text.strip() for number, text in pairs}
    if len(found) < len(pairs) or any(not text.isprintable() for text in found.values()):
        raise ValueError(f"{path} has a number twice, or control characters: copy it again")
    return found


SOURCES: dict[str, Source] = {
    "local": LocalCopy(
        read,
        "CUB_200_2011/ (images/, images.txt, classes.txt, image_class_labels.txt, "
        "train_test_split.txt)",
        "https://www.vision.caltech.edu/datasets/cub_200_2011/",
    ),
}
"""There is no download: a user puts the files in place by hand."""
