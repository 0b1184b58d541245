"""The table of data sets. Importing it imports no loader: a new data set is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.contracts import Dataset, MissingDataError
from benchmarks.datasets.arrays import UNREADABLE
from benchmarks.names import check_name

if TYPE_CHECKING:
    from benchmarks.datasets.sources import Source


@dataclass(frozen=True)
class Entry:
    """What is known about a data set before any file of it is opened.

    Attributes
    ----------
    title : str
    module : str
        Has ``load(home, root) -> Dataset``, ``CLASS_NAMES`` and, unless the data is generated, ``SOURCES``:
        name -> `sources.Source`, in the order in which they are tried.
    n_train, n_test, n_classes : int
    shape : tuple of int
        Of an image, (height, width) or (height, width, 3).
    digest : str
        The fingerprint (see `arrays.fingerprint`) that the data must have.
    licence : str
        The licence and what to cite.
    """

    title: str
    module: str
    n_train: int
    n_test: int
    n_classes: int
    shape: tuple[int, ...]
    digest: str
    licence: str

    @property
    def sources(self) -> Mapping[str, Source]:
        """Where it can be had, in order; empty if it is generated."""
        return getattr(import_module(self.module), "SOURCES", {})


DATASETS: dict[str, Entry] = {
    "cifar10": Entry(
        title="CIFAR-10",
        module="benchmarks.datasets.cifar10",
        n_train=50_000,
        n_test=10_000,
        n_classes=10,
        shape=(32, 32, 3),
        digest="3f5209e3fd150f51cd9b67426570e929528bd14e918338f23acc466946717b9c",
        licence="none stated; cite Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
    ),
    "fashion_mnist": Entry(
        title="FashionMNIST",
        module="benchmarks.datasets.fashion_mnist",
        n_train=60_000,
        n_test=10_000,
        n_classes=10,
        shape=(28, 28),
        digest="3f1bf6811667bfdfc955ca9bf409b2a7dc9f2341a4a722d258b44f4d61a5c1df",
        licence="MIT; cite Xiao et al. 2017, arXiv 1708.07747",
    ),
    "synthetic": Entry(
        title="Shapes on noise (generated)",
        module="benchmarks.datasets.synthetic",
        n_train=160,
        n_test=80,
        n_classes=4,
        shape=(32, 32, 3),
        digest="c2d0c865c01580f6cdececa132c7de6d4cd1030db036df4b5e9858c89d111d1a",
        licence="Apache-2.0, part of this project",
    ),
}


def load_dataset(name: str, *, home: Path, root: Path | None = None) -> Dataset:
    """Open a data set and check that it is the one its name stands for.

    Labels and fingerprint are there at once; images of a stored data set are compared with their digest when the first is read.

    Parameters
    ----------
    name : str
        A name in `DATASETS`.
    home : Path
        The data set is looked for in ``home/data/<name>``, where `benchmarks.fetch` puts it.
    root : Path, optional
        Read this folder, in torchvision's layout, and no other.

    Raises
    ------
    UsageError
        If there is no data set of this name.
    MissingDataError
        If it is not there, cannot be read, or its digest differs.
    """
    entry = DATASETS[check_name(name, DATASETS, "data set")]
    module: Any = import_module(entry.module)
    if root is None:
        dataset: Dataset = module.load(home)
    else:
        dataset = _load_from(check_root(root), name, module, home)
    if dataset.fingerprint != entry.digest:
        where = home / "data" / name if root is None else root
        raise MissingDataError(
            f"{name} in {where} is not the official data: its digest is {dataset.fingerprint}, expected {entry.digest}: "
            f"run `python -m benchmarks fetch {name}`" + ("" if root is None else " and leave --root out")
        )
    return dataset


def is_on_disk(name: str, *, home: Path) -> bool:
    """Whether `load_dataset` would find it in ``home`` (or generate it): a matter of milliseconds."""
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


def _load_from(root: Path, name: str, module: Any, home: Path) -> Dataset:
    try:
        return module.load(home, root)
    except UNREADABLE as error:
        local = module.SOURCES["local"]
        raise MissingDataError(
            f"{name} cannot be read below --root {root} ({error}): expected there {local.layout}; "
            f"or leave --root out after `python -m benchmarks fetch {name}`"
        ) from None
