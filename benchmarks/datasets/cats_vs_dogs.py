"""Cats and dogs of the Asirra challenge: 25,000 photographs of many sizes.

The data is by Elson et al. 2007. Images 0 to 9,999 of each kind train, and 10,000 to 12,499 are the
test (arXiv 2002.10445). Some files of the release are not complete images (Cat/666.jpg and
Dog/11702.jpg). They stop a run, as any corrupt file does. With --skip-corrupt they are left out,
and every other image stays in its partition: 9,999 + 10,000 images then train, and 2,500 + 2,499
are the test.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.contracts import Dataset
from benchmarks.datasets.image_files import Files, find_folder
from benchmarks.datasets.sources import LocalCopy, Source

CLASS_NAMES = ("cat", "dog")
N_TRAIN = 10_000
"""The images of a class whose numbers are smaller than this train."""


def load(home: Path, root: Path | None = None) -> Dataset:
    """Open Microsoft's layout below ``root``, or below ``home/data/cats_vs_dogs``."""
    return read(root or home / "data" / "cats_vs_dogs").as_dataset("cats_vs_dogs")


def read(root: Path) -> Files:
    """List the numbered files.

    Each partition holds the cats, then the dogs, ordered by number.
    """
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
"""There is no download: a user puts the files in place by hand."""
