"""Caltech-UCSD Birds-200-2011: 11,788 photographs of birds in 200 classes (Wah et al. 2011)."""

from __future__ import annotations

from pathlib import Path

from benchmarks.contracts import Dataset
from benchmarks.datasets.file_datasets import Files, find_folder, slug
from benchmarks.datasets.sources import LocalCopy, Source


def load(home: Path, root: Path | None = None) -> Dataset:
    """Open the authors' layout below ``root``, or below ``home/data/cub200``."""
    return read(root or home / "data" / "cub200").as_dataset("cub200")


def read(root: Path) -> Files:
    """Read the authors' lists; each partition in the order of the images' numbers.

    The classes keep their numbers, ``001_black_footed_albatross``: in alphabetical order they are then in the authors' order.

    Raises
    ------
    ValueError
        If the lists do not fit together.
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
            f"images.txt, image_class_labels.txt and train_test_split.txt in {folder} are not of the same images"
        )
    parts: dict[str, list[tuple[Path, int]]] = {"1": [], "0": []}
    for number in sorted(paths, key=int):
        parts[splits[number]].append(
            (folder / "images" / paths[number], labels[image_labels[number]])
        )
    return Files.from_rows(root, parts["1"], parts["0"], [slug(name) for name in classes.values()])


def _read_list(path: Path) -> dict[str, str]:
    """Read lines of a number and a text."""
    pairs = [line.split(maxsplit=1) for line in path.read_text().splitlines() if line.strip()]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"{path} has lines that are not a number and a text")
    return {number: text.strip() for number, text in pairs}


SOURCES: dict[str, Source] = {
    "local": LocalCopy(
        read,
        "CUB_200_2011/ (images/, images.txt, classes.txt, image_class_labels.txt, train_test_split.txt)",
        "https://www.vision.caltech.edu/datasets/cub_200_2011/",
    ),
}
"""It is only there once somebody has put it there."""
