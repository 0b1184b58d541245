"""SUITES: the runs behind each table and figure, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BOTH = ("cifar10", "fashion_mnist")
RAW_AND_L2 = ("none", "l2")
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
LITES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


@dataclass(frozen=True)
class Suite:
    """A named list of runs.

    Attributes
    ----------
    title : str
    parts : tuple of dict
        The arguments of `benchmarks.experiments.make_experiments` for each part.
    """

    title: str
    parts: tuple[Mapping[str, Any], ...]


def _dn2(title: str, *datasets: str, **arguments: Any) -> Suite:
    """Make a suite of one part: DN2 on raw and on L2-normalised features.

    The paper uses raw features.
    """
    return Suite(title, ({"datasets": datasets, "normalize": RAW_AND_L2, **arguments},))


SUITES: dict[str, Suite] = {
    "main": _dn2(
        "DN2 on CIFAR-10, the suite of `make benchmark`",
        "cifar10",
        normalize=("none", "l2", "power"),
    ),
    "table1": _dn2("Table 1: CIFAR-10", "cifar10"),
    "table2": _dn2("Table 2: FashionMNIST and CIFAR-100", "fashion_mnist", "cifar100_coarse"),
    "table3": _dn2("Table 3: Flowers, Birds, CatsVsDogs", "flowers102", "cub200", "cats_vs_dogs"),
    "table4": _dn2("Table 4: DIOR and WBC, far from ImageNet", "dior", "wbc"),
    "table5": _dn2(
        "Table 5: all classes but one are normal",
        "cifar10",
        "cifar100_coarse",
        protocol="leave_one_class_out",
    ),
    "fig4_groups": _dn2(
        "Fig. 4: sets of images",
        *BOTH,
        detectors=("dn2_group",),
        variants=("mean", "max", "concat"),
        protocol="groups",
        # The sets are random: a single draw would not show how much that matters.
        protocol_params={"draws": 3},
    ),
    "fig5_small_train": _dn2("Fig. 5: few training images", *BOTH, protocol="small_train"),
    "fig5_contamination": _dn2(
        "Fig. 5: anomalies among the training images, with and without cleaning",
        *BOTH,
        protocol="contamination",
        params={"clean": (0.0, 0.5)},
    ),
    "kmeans": Suite(
        "Cluster centres in place of the training images",
        (
            {"datasets": BOTH, "normalize": RAW_AND_L2},
            {
                "datasets": BOTH,
                "normalize": RAW_AND_L2,
                "detectors": ("dn2_kmeans",),
                "params": {"centres": (1, 3, 5, 10)},
            },
        ),
    ),
    "k_sweep": _dn2("The number of neighbours", *BOTH, params={"k": (1, 2, 3, 5, 10, 20, 50)}),
    "depth_sweep": _dn2("Deeper encoders", *BOTH, encoders=(*RESNETS, *LITES)),
}
