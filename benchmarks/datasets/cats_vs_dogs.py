"""Cats and dogs of the Asirra challenge: 25,000 photographs of many sizes (Elson et al. 2007).

By number, 0 to 9,999 of each kind train and 10,000 to 12,499 are the test (arXiv 2002.10445). The release has files that are no
whole images (Cat/666.jpg and Dog/11702.jpg). They stop a run like any other; with --skip-corrupt they are left out and no other
image moves to another partition: 9,999 + 10,000 images train then, and 2,500 + 2,499 are the test.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.contracts import Dataset
from benchmarks.datasets.file_datasets import Files, find_folder
from benchmarks.datasets.sources import LocalCopy, Source

CLASS_NAMES = ("cat", "dog")
N_TRAIN = 10_000
"""Images of a class with smaller numbers train."""


def load(home: Path, root: Path | None = None) -> Dataset:
    """Open Microsoft's layout below ``root``, or below ``home/data/cats_vs_dogs``."""
    return read(root or home / "data" / "cats_vs_dogs").as_dataset("cats_vs_dogs")


def read(root: Path) -> Files:
    """List the numbered files; each partition holds the cats, then the dogs, by number."""
    folder = find_folder(root, "Cat", "PetImages")
    numbers = {
        name: sorted(
            int(path.stem) for path in (folder / name).glob("*.jpg") if path.stem.isdecimal()
        )
        for name in ("Cat", "Dog")
    }
    rows = [
        (folder / name / f"{number}.jpg", label, number)
        for label, name in enumerate(numbers)
        for number in numbers[name]
    ]
    train = [(path, label) for path, label, number in rows if number < N_TRAIN]
    test = [(path, label) for path, label, number in rows if number >= N_TRAIN]
    return Files.from_rows(root, train, test, CLASS_NAMES)


SOURCES: dict[str, Source] = {
    "local": LocalCopy(
        read,
        "PetImages/ (Cat/0.jpg to Cat/12499.jpg, Dog/0.jpg to Dog/12499.jpg)",
        "https://www.microsoft.com/en-us/download/details.aspx?id=54765",
    ),
}
"""It is only there once somebody has put it there."""
