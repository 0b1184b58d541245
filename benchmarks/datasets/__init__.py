"""Open a data set by name.

The name is an entry of the table `DATASETS`, or stands for the user's own data: ``folder:PATH``,
``npz:PATH``, or ``MODULE:FUNCTION`` for a function of the user's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.contracts import Dataset, MissingDataError, Progress, UsageError, check_name
from benchmarks.datasets.arrays import UNREADABLE
from benchmarks.datasets.catalogue import DATASETS, DatasetEntry
from dn2.files import expand, printable

__all__ = [
    "DATASETS",
    "OWN_DATA",
    "DatasetEntry",
    "by_hand",
    "check_dataset",
    "check_root",
    "is_on_disk",
    "is_own",
    "load_dataset",
]

OWN_DATA = {
    "folder:PATH": (
        "your own image files: PATH/train/CLASS/* and PATH/test/CLASS/*, "
        "or normal images only, directly in PATH"
    ),
    "npz:PATH": (
        "your own arrays: train_images, train_labels, test_images and test_labels, "
        "in the layout of MedMNIST"
    ),
    "MODULE:FUNCTION": "your own function: FUNCTION(home, root) returns a Dataset",
}
"""Forms of names that need no entry in the table, and what they stand for.

``folder`` and ``npz`` are files here that have ``load(path)``.
"""

PATHS = ("folder", "npz")


def is_own(name: str) -> bool:
    """Tell whether a name has one of the forms in `OWN_DATA`."""
    return ":" in name


def check_dataset(name: str) -> str:
    """Return the canonical spelling of a data set's name.

    It is an entry of the table, or a form of `OWN_DATA`, whose path is then absolute.

    Raises
    ------
    UsageError
        If it is neither, or names a function that cannot be imported.
    """
    if not is_own(name):
        try:
            return check_name(name, DATASETS, "data set")
        except UsageError as error:
            raise UsageError(f"{error} Or your own data: {', '.join(OWN_DATA)}.") from None
    kind, _, path = name.partition(":")
    if kind not in PATHS:
        _function(name)
        return name
    if not path:
        raise UsageError(f"'{name}' has no path: write {' or '.join(OWN_DATA)}.")
    try:
        name = f"{kind}:{expand(path).resolve()}"
    except (RuntimeError, ValueError, OSError) as error:  # no such user; a NUL; a circle of links
        raise UsageError(f"'{printable(name)}' is no path ({error}): correct it.") from None
    if not name.isascii() and printable(name) != name:
        raise UsageError(
            f"'{printable(name)}' is no printable UTF-8, and it would be the name of the data set: "
            "rename the folder."
        )
    return name


def load_dataset(
    name: str,
    *,
    home: Path,
    root: Path | None = None,
    skip_corrupt: bool = False,
    max_pixels: int | None = None,
    drop_duplicates: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """Open a data set and check that it is the one its name stands for.

    Labels and fingerprint are available at once. Images of a stored data set are compared with
    their digest when the first one is read. Image files are read now for the fingerprint and
    decoded on access.

    Parameters
    ----------
    name : str
        A name in `DATASETS`, or one of the forms in `OWN_DATA`.
    home : Path
        The data set is looked for in ``home/data/<name>``, where `benchmarks.fetch` puts it.
    root : Path, optional
        Read this folder and no other; it has the layout of the data set's authors or of
        torchvision. A user's function gets it; ``folder:`` and ``npz:`` have no use for it.
    skip_corrupt : bool
        Leave out image files that cannot be decoded. The first call tries every image and later
        calls reuse the answer. ``Dataset.skipped`` lists the files.
    max_pixels : int, optional
        Larger image files are not decoded; by default Pillow's limit.
    drop_duplicates : bool
        Leave out the test images that are training images too; see `inventory.find_duplicates`.
    progress : callable, optional
        Called as images are tried.

    Raises
    ------
    UsageError
        If there is no data set of this name.
    MissingDataError
        If it is missing, cannot be read, or has another digest or number of images than expected.
    """
    name = check_dataset(name)
    if root is not None:
        check_root(root)
    dataset = _load_own(name, home, root) if is_own(name) else _load_named(name, home, root)
    if dataset.files is not None:  # arrays are as they are
        dataset = _as_it_is_seen(dataset, home, skip_corrupt, max_pixels, progress)
    if drop_duplicates:
        from benchmarks.datasets.inventory import without_shared

        dataset = without_shared(dataset)
    return dataset


def _as_it_is_seen(
    dataset: Dataset,
    home: Path,
    skip_corrupt: bool,
    max_pixels: int | None,
    progress: Progress | None,
) -> Dataset:
    """Leave corrupt files out if asked to, and learn the levels of 16-bit grey."""
    from benchmarks.datasets.image_files import without_corrupt
    from benchmarks.datasets.sixteen_bits import with_levels
    from dn2.images import ImageFiles

    if max_pixels is not None and isinstance(dataset.images, ImageFiles):
        dataset = replace(dataset, images=dataset.images.seen(most_pixels=max_pixels))
    try:
        if skip_corrupt:
            dataset = without_corrupt(dataset, home, progress)
        return with_levels(dataset, home, progress)
    except OSError as error:
        raise MissingDataError(
            f"{dataset.name} cannot be read ({error}): check that its files still exist"
        ) from None


def is_on_disk(name: str, *, home: Path) -> bool:
    """Tell within milliseconds whether `load_dataset` would find a data set in ``home``.

    A generated data set always counts as found. Of image files, only the folder is looked for.
    """
    name = check_dataset(name)
    if is_own(name):
        kind, _, path = name.partition(":")
        return kind not in PATHS or Path(path).exists()  # a function finds its data itself
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
        If not; the message names the folder and the reason.
    """
    try:
        next(root.iterdir(), None)
    except OSError as error:
        raise MissingDataError(
            f"--root {root} cannot be read ({error.strerror}): "
            "give a folder that holds the data set"
        ) from None
    return root


def by_hand(name: str, home: Path) -> str:
    """Say in one line how a user can put a data set of the table in place by hand."""
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
        f"`python -m benchmarks fetch {name} --root DIR`, "
        f"or put it into {place} and fetch again"
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
            + ("" if root is None else " and drop --root")
        )
    return replace(dataset, default_classes=entry.default_classes)


def _unreadable(name: str, home: Path, root: Path | None, error: Exception) -> str:
    """Say in one line what is missing, and the remedy."""
    reason = _one_line(error)
    if root is None:
        return f"{name} is missing or incomplete ({reason}): {by_hand(name, home)}"
    layout = DATASETS[name].sources["local"].layout  # type: ignore[union-attr]
    return (
        f"{name} cannot be read below --root {root} ({reason}): put {layout} there, "
        f"or run `python -m benchmarks fetch {name}` and drop --root"
    )


def _load_own(name: str, home: Path, root: Path | None) -> Dataset:
    """Open a user's own data.

    For a path, the name comes from the last folder or file. The fingerprint covers the content, the
    names of the classes and, if a function makes the data set, the source file of that function.
    """
    kind, _, text = name.partition(":")
    source: tuple[str, ...] = ()
    try:
        if kind in PATHS:
            from benchmarks.datasets.image_files import slug

            path = Path(text)
            module: Any = import_module(f"benchmarks.datasets.{kind}")
            dataset: Dataset = module.load(path)
            name = f"{kind}:{slug(path.stem) or kind}"
        else:
            load, digest = _function(name)
            dataset, source = load(home, root), (digest,)
            _check_made(name, dataset)
    except (UsageError, MissingDataError):
        raise
    except UNREADABLE as error:
        raise MissingDataError(f"{printable(name)} cannot be read ({_one_line(error)})") from None
    except Exception as error:
        if kind in PATHS:
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(
            f"data set '{name}' cannot be loaded ({reason}): correct the function, which is called "
            "as load(home, root) and returns a Dataset."
        ) from error
    identity = "\n".join([dataset.fingerprint, *dataset.class_names, *source])
    return replace(dataset, name=name, fingerprint=hashlib.sha256(identity.encode()).hexdigest())


def _one_line(error: Exception) -> str:
    """Return an error's text in one line, whatever is in the names of files."""
    kind = f"{type(error).__name__}: " if isinstance(error, KeyError) or not str(error) else ""
    return printable(f"{kind}{error}")


def _function(name: str) -> tuple[Callable[[Path, Path | None], Dataset], str]:
    """Import a user's function; also the digest of its source file.

    Raises
    ------
    UsageError
        If it cannot be imported, or cannot be called with a home and a root.
    """
    from dn2.outside import import_outside

    try:
        outside = import_outside(name)
    except ValueError as error:
        raise UsageError(
            f"unknown data set '{name}': {error}. There are: {', '.join(sorted(DATASETS))}. "
            f"Or your own data: {', '.join(OWN_DATA)}."
        ) from None
    if not callable(outside.value):
        raise UsageError(
            f"data set '{name}' is a {type(outside.value).__name__}: name a function "
            "load(home, root) that returns a Dataset."
        )
    return outside.value, outside.digest


def _check_made(name: str, dataset: Dataset) -> None:
    """Raise UsageError unless a user's function returned a whole `Dataset`."""
    problem = ""
    if not isinstance(dataset, Dataset):
        problem = f"returned a {type(dataset).__name__}: return a benchmarks.contracts.Dataset"
    elif not dataset.fingerprint:
        problem = (
            "returned a Dataset without a fingerprint, which identifies its results: give the "
            "SHA-256 of images, labels and partition, as Arrays.as_dataset does"
        )
    elif len({len(part) for part in (dataset.images, dataset.labels, dataset.is_train)}) > 1:
        problem = (
            f"returned {len(dataset.images)} images, {len(dataset.labels)} labels and "
            f"{len(dataset.is_train)} values of is_train: give one label and one value an image"
        )
    elif dataset.is_train.dtype != bool or dataset.labels.dtype.kind not in "iu":
        problem = (
            f"returned labels of {dataset.labels.dtype} and is_train of {dataset.is_train.dtype}: "
            "give integers and booleans"
        )
    elif len(dataset.labels) and not (
        dataset.labels.min() >= 0 and dataset.labels.max() < len(dataset.class_names)
    ):
        problem = (
            f"returned labels from {dataset.labels.min()} to {dataset.labels.max()} for "
            f"{len(dataset.class_names)} class names: a label is a position in class_names"
        )
    if problem:
        raise UsageError(f"data set '{name}' {problem}.")
