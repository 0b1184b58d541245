"""``folder:PATH``: image files of one's own.

PATH/train/<class>/*  and  PATH/test/<class>/*       any classes; those without training images are anomalies only
PATH/train/<class>/*                                 to train on: no test image
PATH/*                                               normal images only: one class, ``normal``, to train on
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.contracts import Dataset
from benchmarks.datasets.file_datasets import Files, slug

SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".png",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".webp",
    ".ppm",
    ".pgm",
    ".pbm",
    ".jp2",
    ".avif",
)
"""Files with other endings are not looked at."""


def load(path: Path) -> Dataset:
    """Open the images of a folder; see `read`."""
    return read(path).as_dataset("folder")


def read(folder: Path) -> Files:
    """List the images; each partition by class, in it by path. Subfolders of a class belong to it.

    Raises
    ------
    ValueError
        If there is no image, or two folders make the same class name.
    OSError
        If the folder cannot be listed.
    """
    if (folder / "train").is_dir():
        parts = {part: _classes(folder / part) for part in ("train", "test")}
        names = sorted({*parts["train"], *parts["test"]})
        train, test = (
            [(path, names.index(name)) for name in sorted(classes) for path in classes[name]]
            for classes in parts.values()
        )
    else:
        names, test = ["normal"], []
        train = [(path, 0) for path in sorted(folder.iterdir()) if _is_image(path)]
    if not train:
        raise ValueError(
            f"no training image in {folder}: expected train/CLASS/ and test/CLASS/ with images, or images in it, "
            f"ending in {' '.join(SUFFIXES)}"
        )
    return Files.from_rows(folder, train, test, names)


def _classes(part: Path) -> dict[str, list[Path]]:
    """Class name -> its images; a partition that is not there has no class."""
    folders: dict[str, Path] = {}
    for folder in sorted(part.iterdir()) if part.exists() else ():
        if folder.is_dir() and not folder.name.startswith("."):
            name = slug(folder.name)
            if not name:
                raise ValueError(
                    f"{folder} has no letter or digit in its name to make a class name of: rename it"
                )
            if name in folders:
                raise ValueError(
                    f"{folders[name].name} and {folder.name} in {part} are both class '{name}': rename one"
                )
            folders[name] = folder
    return {name: list(_images(folder)) for name, folder in folders.items()}


def _images(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if _is_image(path))


def _is_image(path: Path) -> bool:
    """Whether its name is that of an image: a link to nowhere counts, and is an error later, rather than one image fewer."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()
