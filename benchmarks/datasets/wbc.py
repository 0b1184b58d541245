"""White blood cells, data set 1 of Zheng et al. 2018 (Micron 107): 300 photographs of about 120 x 120 pixels.

The four classes with more than 20 images; the only basophil is left out. In each class the first 80 % by image number train,
rounded down: 140, 42, 38 and 17; the last 62 images are the test (arXiv 2002.10445; the rounding is our choice).
"""

from __future__ import annotations

import csv
from pathlib import Path

from benchmarks.contracts import Dataset
from benchmarks.datasets.file_datasets import Files
from benchmarks.datasets.sources import LocalCopy, Source

CLASS_NAMES = ("neutrophil", "lymphocyte", "monocyte", "eosinophil")
"""The authors' labels 1 to 4."""
IMAGES, LABELS = "Dataset 1", "Class Labels of Dataset 1.csv"


def load(home: Path, root: Path | None = None) -> Dataset:
    """Open the authors' layout below ``root``, or below ``home/data/wbc``."""
    return read(root or home / "data" / "wbc").as_dataset("wbc")


def read(root: Path) -> Files:
    """Read the list of labels; each partition by class, in it by image number."""
    with (root / LABELS).open(newline="") as file:
        labels = {int(row["image ID"]): int(row["class label"]) for row in csv.DictReader(file)}
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


SOURCES: dict[str, Source] = {
    "local": LocalCopy(
        read,
        f"'{LABELS}' and '{IMAGES}'/ (001.bmp to 300.bmp)",
        "https://github.com/zxaoyou/segmentation_WBC",
    ),
}
"""It is only there once somebody has put it there."""
