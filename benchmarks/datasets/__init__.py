"""Opening a data set by its name: one of the table `DATASETS`, or one's own as ``folder:PATH`` or ``npz:PATH``."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.contracts import Dataset, MissingDataError, Progress, UsageError, check_name
from benchmarks.datasets.arrays import UNREADABLE
from benchmarks.datasets.catalogue import DATASETS, Entry

__all__ = [
    "DATASETS",
    "OWN_DATA",
    "Entry",
    "by_hand",
    "check_dataset",
    "check_root",
    "is_on_disk",
    "is_own",
    "load_dataset",
]

OWN_DATA = {
    "folder:PATH": "image files of your own: PATH/train/CLASS/* and PATH/test/CLASS/*, or normal images only in PATH",
    "npz:PATH": "arrays of your own: train_images, train_labels, test_images, test_labels, as MedMNIST has them",
}
"""The forms of names that need no entry in the table, and what they stand for. The module of the same name has ``load(path)``."""


def is_own(name: str) -> bool:
    """Whether a name is of one of the forms `OWN_DATA`."""
    return name.partition(":")[0] in {form.partition(":")[0] for form in OWN_DATA} and ":" in name


def check_dataset(name: str) -> str:
    """Return the one spelling of a data set's name: an entry of the table, or a form of `OWN_DATA` with an absolute path.

    Raises
    ------
    UsageError
        If it is neither.
    """
    if not is_own(name):
        try:
            return check_name(name, DATASETS, "data set")
        except UsageError as error:
            raise UsageError(f"{error} Or your own: {', '.join(OWN_DATA)}.") from None
    kind, _, path = name.partition(":")
    if not path:
        raise UsageError(f"'{name}' has no path: write {' or '.join(OWN_DATA)}.")
    return f"{kind}:{Path(path).expanduser().resolve()}"


def load_dataset(
    name: str,
    *,
    home: Path,
    root: Path | None = None,
    skip_corrupt: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """Open a data set and check that it is the one its name stands for.

    Labels and fingerprint are there at once. Images of a stored data set are compared with their digest when the first is read;
    image files are read for the fingerprint now and decoded when asked for.

    Parameters
    ----------
    name : str
        A name in `DATASETS`, or one of the forms `OWN_DATA`.
    home : Path
        The data set is looked for in ``home/data/<name>``, where `benchmarks.fetch` puts it.
    root : Path, optional
        Read this folder, in the layout of its authors or of torchvision, and no other. Not used for `OWN_DATA`.
    skip_corrupt : bool
        Leave out image files that cannot be decoded: each is tried, once for all calls; ``Dataset.skipped`` lists them.
    progress : callable, optional
        Told of the images tried.

    Raises
    ------
    UsageError
        If there is no data set of this name.
    MissingDataError
        If it is not there, cannot be read, or its digest or the number of its images differs.
    """
    name = check_dataset(name)
    if root is not None:
        check_root(root)
    dataset = _load_own(name) if is_own(name) else _load_named(name, home, root)
    if not skip_corrupt:
        return dataset
    from benchmarks.datasets.file_datasets import without_corrupt

    try:
        return without_corrupt(dataset, home, progress)
    except OSError as error:
        raise MissingDataError(f"{dataset.name} cannot be read ({error})") from None


def is_on_disk(name: str, *, home: Path) -> bool:
    """Whether `load_dataset` would find it in ``home`` (or generate it): a matter of milliseconds.

    Of image files only their folder is looked for.
    """
    name = check_dataset(name)
    if is_own(name):
        return Path(name.partition(":")[2]).exists()
    if DATASETS[name].in_files:
        return (home / "data" / name).is_dir()
    try:
        load_dataset(name, home=home)
    except MissingDataError:
        return False
    return True


def check_root(root: Path) -> Path:
    """Return ``root`` if it is a folder that can be listed.

    Raises
    ------
    MissingDataError
        Naming the folder and the reason.
    """
    try:
        next(root.iterdir(), None)
    except OSError as error:
        raise MissingDataError(
            f"--root {root} cannot be read ({error.strerror}): give a folder that holds the data set"
        ) from None
    return root


def by_hand(name: str, home: Path) -> str:
    """Say in a line how a person puts a data set of the table where it is found."""
    from benchmarks.datasets.sources import Download, LocalCopy

    layouts, sites = [], set()
    for source in DATASETS[name].sources.values():
        if isinstance(source, LocalCopy):
            layouts.append(source.layout)
            sites.update({source.origin} - {""})
        elif isinstance(source, Download):
            sites.update(f"{file.url.rpartition('/')[0]}/" for file in source.files)
    place = home / "data" / name if DATASETS[name].in_files else home / "data"
    return (
        f"put {' or '.join(layouts)} (from {', '.join(sorted(sites))}) into a folder DIR and run "
        f"`python -m benchmarks fetch {name} --root DIR`, or into {place} and fetch again"
    )


def _load_named(name: str, home: Path, root: Path | None) -> Dataset:
    entry = DATASETS[name]
    module: Any = import_module(entry.module)
    where = home / "data" / name if root is None else root
    try:
        dataset: Dataset = module.load(home, root)
    except MissingDataError:
        raise
    except UNREADABLE as error:
        raise MissingDataError(_unreadable(name, home, root, error)) from None
    difference = entry.difference(dataset.is_train, dataset.fingerprint)
    if difference:
        raise MissingDataError(
            f"{name} in {where} is not the official data: {difference}: "
            f"run `python -m benchmarks fetch {name}`"
            + ("" if root is None else " and leave --root out")
        )
    return dataset


def _unreadable(name: str, home: Path, root: Path | None, error: Exception) -> str:
    """Say in a line what is missing and the remedy."""
    if root is None:
        return f"{name} is not there, or not whole ({error}): {by_hand(name, home)}"
    layout = DATASETS[name].sources["local"].layout  # type: ignore[union-attr]
    return (
        f"{name} cannot be read below --root {root} ({error}): expected there {layout}; "
        f"or leave --root out after `python -m benchmarks fetch {name}`"
    )


def _load_own(name: str) -> Dataset:
    """Open one's own data: it is called by its last folder or file, and known by its content and its classes' names."""
    from benchmarks.datasets.file_datasets import slug

    kind, _, text = name.partition(":")
    path = Path(text)
    module: Any = import_module(f"benchmarks.datasets.{kind}")
    try:
        dataset: Dataset = module.load(path)
    except UNREADABLE as error:
        raise MissingDataError(f"{name} cannot be read ({error})") from None
    named = hashlib.sha256(
        "\n".join([dataset.fingerprint, *dataset.class_names]).encode()
    ).hexdigest()
    return replace(dataset, name=f"{kind}:{slug(path.stem) or kind}", fingerprint=named)
