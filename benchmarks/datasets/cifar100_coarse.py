"""CIFAR-100 by its 20 coarse classes: 60,000 photographs of 32 x 32 pixels (Krizhevsky 2009)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.contracts import Dataset
from benchmarks.datasets.arrays import Arrays, read_arrays
from benchmarks.datasets.reading import read_pickles
from benchmarks.datasets.sources import Download, LocalCopy, RemoteFile, Source

COARSE = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man_made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non_insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
"""The authors' table.

A list that many projects copy from another paper's code is wrong for 13 of the 20 classes.
"""

CLASS_NAMES = tuple(COARSE)
FINE_NAMES = tuple(sorted(name for names in COARSE.values() for name in names.split()))
FINE_TO_COARSE = np.array(
    [
        next(i for i, names in enumerate(COARSE.values()) if name in names.split())
        for name in FINE_NAMES
    ]
)
"""The coarse label of each fine label.

Fine labels number the names in alphabetical order.
"""

BATCHES = {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"}
"""The pickled partitions and their MD5 sums, as torchvision has them."""

OTHERS = {
    "cifar-100-binary": "the binary version",
    "cifar-100-binary.tar.gz": "the binary version",
    "cifar-100-matlab": "the version for Matlab",
    "cifar-100-matlab.tar.gz": "the version for Matlab",
}
"""What else the authors publish."""

FOLDER, ARCHIVE = "cifar-100-python", "cifar-100-python.tar.gz"


def load(home: Path, root: Path | None = None) -> Dataset:
    """Read CIFAR-100 from the suite's own store, or from ``root`` in torchvision's layout."""
    if root is not None:
        return read_torchvision(root).as_dataset("cifar100_coarse", CLASS_NAMES)
    return read_arrays("cifar100_coarse", CLASS_NAMES, home / "data" / "cifar100_coarse")


def read_torchvision(root: Path) -> Arrays:
    """Decode the two pickles below ``root``: the unpacked folder, or the archive.

    A pickle can run code, so each is checked against the official MD5 before it is opened.

    Raises
    ------
    ValueError
        If a file is not the official one, or its own coarse labels differ from the table.
    """
    images, labels = [], []
    for name, batch in read_pickles(root, FOLDER, ARCHIVE, BATCHES, OTHERS).items():
        images.append(np.asarray(batch["data"]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels.append(FINE_TO_COARSE[batch["fine_labels"]])
        differ = np.flatnonzero(labels[-1] != batch["coarse_labels"])
        if len(differ):
            raise ValueError(
                f"{len(differ)} coarse labels of {name} below {root} differ from the table, "
                f"the first at image {differ[0]}: download the file again"
            )
    return Arrays.from_partitions(images[0], labels[0].tolist(), images[1], labels[1].tolist())


SOURCES: dict[str, Source] = {
    "local": LocalCopy(read_torchvision, f"{FOLDER}/ (train, test) or {ARCHIVE}"),
    "torchvision": Download(
        read_torchvision,
        (
            RemoteFile(
                "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
                "eb9058c3a382ffc7106e4002c42a8d85",
                ARCHIVE,
            ),
        ),
    ),
}
"""In the order in which `benchmarks.fetch` tries them."""
