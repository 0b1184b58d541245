"""``folder:PATH``: a user's own image files.

PATH/train/<class>/* and PATH/test/<class>/*: any classes; a class without training images only
provides anomalies.

PATH/train/<class>/* alone: for training; there are no test images.

PATH/*: normal images alone, for training; their class is ``normal``.

Whatever else is found there is not used, and listed in `Dataset.passed_over` with the reason.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.contracts import Dataset, PassedOver
from benchmarks.datasets.image_files import LONGEST_NAME, Files, slug
from dn2.files import KINDS, printable
from dn2.formats import UNREAD, ending, image_suffixes, is_animation, reason_if_stack

HIDDEN = "hidden (name begins with a dot)"


def load(path: Path) -> Dataset:
    """Open the images of a folder; see `read`."""
    files, passed_over = read(path)
    return replace(files.as_dataset("folder"), passed_over=passed_over)


def read(folder: Path) -> tuple[Files, tuple[PassedOver, ...]]:
    """List the images, and what is passed over.

    Each partition is ordered by class and, within a class, by path. Subfolders of a class belong to
    it, unless they are hidden or links.

    Raises
    ------
    ValueError
        If there is no image, a TIFF file holds several pages, or two folders give the same class
        name.
    OSError
        If the folder cannot be listed.
    """
    search = _Search(folder)
    if (folder / "train").is_dir():
        parts = {part: search.classes(folder / part) for part in ("train", "test")}
        names = sorted({*parts["train"], *parts["test"]})
        train, test = (
            [(path, names.index(name)) for name in sorted(classes) for path in classes[name]]
            for classes in parts.values()
        )
        search.pass_over_beside(folder, ("train", "test"))
    else:
        names, test = ["normal"], []
        train = [(path, 0) for path in search.images(folder, deep=False)]
    if not train:
        raise ValueError(
            f"no training image in {folder}: expected train/CLASS/ and test/CLASS/ with images, "
            "or images in the folder itself; file names must end in "
            f"{' '.join(sorted(image_suffixes()))}{search.found_instead()}"
        )
    return Files.from_rows(folder, train, test, names), tuple(search.passed_over)


class _Search:
    """Look for images below a folder, and write down what is passed over."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.passed_over: list[PassedOver] = []

    def classes(self, part: Path) -> dict[str, list[Path]]:
        """Return class name -> its images; a partition that does not exist has no classes."""
        folders: dict[str, Path] = {}
        for path in sorted(part.iterdir()) if part.exists() else ():
            if path.name.startswith("."):
                self._pass_over(path, HIDDEN)
            elif path.is_dir():
                name = _class_name(path)
                if name in folders:
                    raise ValueError(
                        f"{folders[name].name} and {path.name} in {part} are both class '{name}': "
                        "rename one"
                    )
                folders[name] = path
            else:
                self._pass_over_file(path, "beside the class folders")
        found = {name: list(self.images(folder)) for name, folder in folders.items()}
        for name, folder in folders.items():
            if not found[name]:
                self._pass_over(folder, "class folder without an image")
        return found

    def images(self, folder: Path, *, deep: bool = True) -> Iterator[Path]:
        """Yield the images of a folder, and of the folders below it, sorted by path."""
        found: list[Path] = []
        pending = [folder]
        while pending:
            here = pending.pop()
            try:
                paths = [here / entry.name for entry in os.scandir(here)]
            except OSError as error:
                if here == folder and not deep:
                    raise
                self._pass_over(here, f"folder that cannot be read ({error.strerror})", loss=True)
                continue
            for path in sorted(paths):
                if path.name.startswith("."):
                    self._pass_over(path, HIDDEN)
                elif path.is_dir():
                    if not deep:
                        self._pass_over(path, "folder beside the images")
                    elif path.is_symlink():
                        # It may lead to other classes, or back up to this one.
                        self._pass_over(path, "link to a folder, not followed", loss=True)
                    else:
                        pending.append(path)
                elif self._is_image(path):
                    found.append(path)
        yield from sorted(found)

    def pass_over_beside(self, folder: Path, used: tuple[str, ...]) -> None:
        """Write down what lies beside the partitions."""
        for path in sorted(folder.iterdir()):
            if path.name in used:
                continue
            if path.name.startswith("."):
                self._pass_over(path, HIDDEN)
            elif path.is_dir():
                self._pass_over(path, "folder beside train and test")
            else:
                self._pass_over_file(path, "beside train and test")

    def found_instead(self) -> str:
        """Say what was passed over, for the error that there is nothing else."""
        from benchmarks.datasets.inventory import count_passed_over

        counted = count_passed_over(self.passed_over)
        return f"; passed over: {counted}" if counted else ""

    def _is_image(self, path: Path) -> bool:
        """Tell whether a file is an image by its name; if it is none, or not read, write it down.

        Raises
        ------
        ValueError
            If it is a TIFF file of several pages.
        """
        try:
            kind = stat.S_IFMT(path.stat().st_mode)
        except OSError:
            self._pass_over(path, "link that leads nowhere", loss=ending(path) in image_suffixes())
            return False
        if kind in KINDS:
            self._pass_over(path, f"{KINDS[kind].split()[-1]}, not opened")
            return False
        if ending(path) not in image_suffixes():
            self._pass_over_file(path)
            return False
        if reason := reason_if_stack(path):
            raise ValueError(f"{path} cannot be one image: {reason}")
        if is_animation(path):
            self._pass_over(path, "animation, of which the first frame is used")
        return True

    def _pass_over_file(self, path: Path, where: str = "") -> None:
        """Write down a file whose ending, or whose place, is not one of an image."""
        if where and ending(path) in image_suffixes():
            self._pass_over(path, f"image {where}", loss=True)
        else:
            self._pass_over(path, f"ending in {ending(path)}", loss=ending(path) in UNREAD)

    def _pass_over(self, path: Path, reason: str, *, loss: bool = False) -> None:
        self.passed_over.append(
            PassedOver(printable(str(path.relative_to(self.root))), reason, loss)
        )


def _class_name(folder: Path) -> str:
    """Return the name of the class of a folder.

    Raises
    ------
    ValueError
        If nothing is left of the folder's name, or too much.
    """
    name = slug(folder.name)
    if not name:
        raise ValueError(
            f"{folder} has no letter or digit in its name: "
            "rename it, because the class is named after it"
        )
    if len(name.encode()) > LONGEST_NAME:
        raise ValueError(
            f"{folder} has a name of {len(name.encode())} bytes, and that of a class may have "
            f"{LONGEST_NAME}: rename it"
        )
    return name
