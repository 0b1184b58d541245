"""White blood cells: 300 photographs of about 120 x 120 pixels.

This is data set 1 of Zheng et al. 2018 (Micron 107), with the four classes of more than 20 images;
the only basophil is left out. In each class, the first 80 % by image number train, rounded down:
140, 42, 38 and 17. The remaining 62 images are the test (arXiv 2002.10445; the rounding is our
choice).
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from benchmarks.contracts import Dataset
from benchmarks.datasets.image_files import Files
from benchmarks.datasets.reading import read_text
from benchmarks.datasets.sources import LocalCopy, Source

CLASS_NAMES = ("neutrophil", "lymphocyte", "monocyte", "eosinophil")
"""The names of the authors' labels 1 to 4."""
MOST_IMAGES, MOST_LABELS = 300, 5
IMAGES, LABELS = "Dataset 1", "Class Labels of Dataset 1.csv"


def load(home: Path, root: Path | None = None) -> Dataset:
    """Open the authors' layout below ``root``, or below ``home/data/wbc``."""
    return read(root or home / "data" / "wbc").as_dataset("wbc")


def read(root: Path) -> Files:
    """Read the list of labels.

    Each partition is ordered by class and, within a class, by image number.
    """
    labels = _read_labels(root / LABELS)
    train: list[tuple[Path, int]] = []
    test: list[tuple[Path, int]] = []
    for position in range(len(CLASS_NAMES)):
        rows = [
            (root / IMAGES / f"{number:03}.bmp", position)
            for number, label in sorted(labels.items())
            if label == position + 1
        ]
        cut = len(rows) * 4 // 5
        train += rows[:cut]
        test += rows[cut:]
    return Files.from_rows(root, train, test, CLASS_NAMES)


def _read_labels(path: Path) -> dict[int, int]:
    """Read image number -> label; ValueError if a row has no such pair, or an image has two."""
    labels: dict[int, int] = {}
    try:
        for row in csv.DictReader(io.StringIO(read_text(path), newline="")):
            number, label = int(row["image ID"]), int(row["class label"])
            if number in labels or not 1 <= number <= MOST_IMAGES or not 1 <= label <= MOST_LABELS:
                raise ValueError(f"image {number} of class {label}, or one that was there before")
            labels[number] = label
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        reason = (
            f"no column {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        )
        raise ValueError(
            f"{path} is not a list of 'image ID' and 'class label' ({reason}): copy it again"
        ) from None
    return labels


SOURCES: dict[str, Source] = {
    "local": LocalCopy(
        read,
        f"'{LABELS}' and '{IMAGES}'/ (001.bmp to 300.bmp)",
        "https://github.com/zxaoyou/segmentation_WBC",
    ),
}
"""There is no download: a user puts the files in place by hand."""
