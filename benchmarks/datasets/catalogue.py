"""The table of data sets.

Importing it imports no loader: a new data set is one file, and one entry here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from benchmarks.datasets.sources import Source


@dataclass(frozen=True)
class DatasetEntry:
    """What is known about a data set before any of its files is opened.

    Attributes
    ----------
    title : str
    module : str
        It has ``load(home, root) -> Dataset``, which raises MissingDataError or one of
        `arrays.UNREADABLE`. Unless the data is generated, it also has ``SOURCES``: name ->
        `sources.Source`, in the order in which they are tried.
    n_train, n_test : int or None
        None if it depends on the files.
    n_classes : int
    shape : tuple of int or None
        The shape of an image, (height, width) or (height, width, 3); None if images differ.
    digest : str
        The fingerprint (see `arrays.fingerprint`) that the data must have. Empty if none is pinned,
        because nobody has run the suite on the files yet; then only the number of images is
        checked.
    licence : str
        The licence and what to cite.
    default_classes : int or None
        So many classes, the first in alphabetical order, a run goes through by default, as the
        paper does (arXiv 2002.10445, section 4). None means all.
    in_files : bool
        True if the images stay image files, in ``home/data/<name>`` or below a root. Otherwise
        `benchmarks.fetch` decodes them.
    """

    title: str
    module: str
    n_train: int | None
    n_test: int | None
    n_classes: int
    shape: tuple[int, ...] | None
    digest: str
    licence: str
    in_files: bool = False
    default_classes: int | None = None

    @property
    def sources(self) -> Mapping[str, Source]:
        """The places to get it from, in order; empty if it is generated."""
        return getattr(import_module(self.module), "SOURCES", {})

    @property
    def summary(self) -> str:
        """The entry in one line."""
        counts = "" if self.n_train is None else f"{self.n_train:,} + {self.n_test:,} "
        shape = "many sizes" if self.shape is None else " x ".join(map(str, self.shape))
        pinned = "" if self.digest else "digest not pinned; "
        return (
            f"{self.title}: {counts}images of {shape}, {self.n_classes} classes; "
            f"{pinned}{self.licence}"
        )

    def difference(self, is_train: np.ndarray, fingerprint: str) -> str:
        """Say how data differs from the entry; empty if it does not."""
        if self.digest:
            return (
                f"its digest is {fingerprint}, expected {self.digest}"
                if fingerprint != self.digest
                else ""
            )
        n_train, n_test = int(is_train.sum()), int((~is_train).sum())
        if self.n_train is not None and (n_train, n_test) != (self.n_train, self.n_test):
            return (
                f"it has {n_train:,} training and {n_test:,} test images, "
                f"expected {self.n_train:,} and {self.n_test:,}"
            )
        return ""


DATASETS: dict[str, DatasetEntry] = {
    "cifar10": DatasetEntry(
        title="CIFAR-10",
        module="benchmarks.datasets.cifar10",
        n_train=50_000,
        n_test=10_000,
        n_classes=10,
        shape=(32, 32, 3),
        digest="3f5209e3fd150f51cd9b67426570e929528bd14e918338f23acc466946717b9c",
        licence=(
            "none stated; cite Krizhevsky 2009, "
            "Learning Multiple Layers of Features from Tiny Images"
        ),
    ),
    "fashion_mnist": DatasetEntry(
        title="FashionMNIST",
        module="benchmarks.datasets.fashion_mnist",
        n_train=60_000,
        n_test=10_000,
        n_classes=10,
        shape=(28, 28),
        digest="3f1bf6811667bfdfc955ca9bf409b2a7dc9f2341a4a722d258b44f4d61a5c1df",
        licence="MIT; cite Xiao et al. 2017, arXiv 1708.07747",
    ),
    "cifar100_coarse": DatasetEntry(
        title="CIFAR-100, coarse classes",
        module="benchmarks.datasets.cifar100_coarse",
        n_train=50_000,
        n_test=10_000,
        n_classes=20,
        shape=(32, 32, 3),
        digest="",
        licence=(
            "none stated; cite Krizhevsky 2009, "
            "Learning Multiple Layers of Features from Tiny Images"
        ),
    ),
    "flowers102": DatasetEntry(
        title="Oxford Flowers-102",
        module="benchmarks.datasets.flowers102",
        n_train=1_020,
        n_test=6_149,
        n_classes=102,
        shape=None,
        digest="",
        licence=(
            "none stated; cite Nilsback and Zisserman 2008, "
            "Automated Flower Classification over a Large Number of Classes"
        ),
        in_files=True,
        default_classes=20,
    ),
    "cub200": DatasetEntry(
        title="Caltech-UCSD Birds-200-2011",
        module="benchmarks.datasets.cub200",
        n_train=5_994,
        n_test=5_794,
        n_classes=200,
        shape=None,
        digest="",
        licence="non-commercial research; cite Wah et al. 2011, technical report CNS-TR-2011-001",
        in_files=True,
        default_classes=20,
    ),
    "cats_vs_dogs": DatasetEntry(
        title="Cats and dogs (Asirra)",
        module="benchmarks.datasets.cats_vs_dogs",
        n_train=20_000,
        n_test=5_000,
        n_classes=2,
        shape=None,
        digest="",
        licence="Microsoft's research licence; cite Elson et al. 2007, Asirra",
        in_files=True,
    ),
    "dior": DatasetEntry(
        title="DIOR, objects in aerial images",
        module="benchmarks.datasets.dior",
        n_train=None,
        n_test=None,
        n_classes=20,
        shape=(256, 256, 3),
        digest="",
        licence="none stated; cite Li et al. 2020, arXiv 1909.00133",
        in_files=True,
    ),
    "wbc": DatasetEntry(
        title="White blood cells (Zheng 2018, data set 1)",
        module="benchmarks.datasets.wbc",
        n_train=237,
        n_test=62,
        n_classes=4,
        shape=None,
        digest="5a3baa1673aff110ede33b3aab2d1c77109d0cd5036b17107d17eec17142d164",
        licence="GPL-3.0; cite Zheng et al. 2018, Micron 107",
        in_files=True,
    ),
    "synthetic": DatasetEntry(
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
