"""The table of detectors, and what an entry says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PRESETS = {
    "paper": "the published settings",
    "cpu": "a narrow network and a short training, for a laptop",
}
"""The budgets that a trained detector can have, and what each means.

``paper`` are a detector's defaults. Under ``cpu`` a class of CIFAR-10 or FashionMNIST is used
whole. Decision 41 says how it was chosen, and what of it is not measured yet.
"""

WHOLE_CLASS = 6000
"""The most images that ``cpu`` trains on: a class of CIFAR-10 has 5,000, of FashionMNIST 6,000."""

Changes = Mapping[str, Any]


@dataclass(frozen=True)
class Range:
    """Describe the numbers from ``low`` to ``high``, both included, that a sweep may choose from.

    With ``log`` they are on a logarithmic scale.
    """

    low: float
    high: float
    log: bool = False


Values = tuple[Any, ...] | Range
"""What a parameter is chosen from."""


@dataclass(frozen=True)
class Variant:
    """Describe a named way to use a detector.

    Attributes
    ----------
    params : dict
        The defaults that it changes.
    presets : dict
        Preset -> what that changes, in place of what the detector's own preset does.
    input, selection : str
        As in `DetectorEntry`; empty: the detector's.
    note : str
        What is not as published, whatever the parameters are, in a few words that tables print.
    """

    params: Changes = field(default_factory=dict)
    presets: Mapping[str, Changes] = field(default_factory=dict)
    input: str = ""
    selection: str = ""
    note: str = ""


@dataclass(frozen=True)
class DetectorEntry:
    """Describe a detector that is not imported yet.

    Attributes
    ----------
    target : str
        ``module:Class``.
    input : str
        What it takes: ``features`` (of an encoder), ``pixels``, or ``pixels:256`` for images of
        that size.
    encoder, normalize : str
        For features, unless others are asked for.
    groups : bool
        Whether it takes groups of images, (n, size, ...), which only some protocols give.
    summary : str
        One line for ``ls``.
    for_dataset : dict
        Data set -> the `Variant` that always holds there: its authors' values for that data set.
    variants : dict
        Name -> `Variant`.
    default_variant : str
        The one that is meant if none is named; it changes nothing.
    presets : dict
        Preset -> the parameters it changes; ``paper`` changes none and is not in it. Empty if
        nothing is trained.
    cpu_minutes : float
        About the CPU time under preset ``cpu`` for a class of CIFAR-10, training and scoring
        together, in bfloat16: extrapolated from shorter runs. 0 if nothing is trained.
    toy : dict
        Parameters small enough for the laws, which run on 40 rows.
    selection : str
        ``oracle`` if the reported point of its path is the one that is best on the test labels,
        else ``none``.
    note : str
        As in `Variant`.
    version : int or str
        A number, to be raised when a change of code changes results, so that old cells are not
        taken for new ones. Of a class outside the table, the digest of its source file.
    """

    target: str
    input: str
    summary: str
    for_dataset: Mapping[str, Variant] = field(default_factory=dict)
    variants: Mapping[str, Variant] = field(default_factory=dict)
    default_variant: str = ""
    presets: Mapping[str, Changes] = field(default_factory=dict)
    cpu_minutes: float = 0
    encoder: str = "efficientnet_lite0"
    normalize: str = "none"
    groups: bool = False
    toy: Changes = field(default_factory=dict)
    selection: str = "none"
    note: str = ""
    version: int | str = 1


DETECTORS: dict[str, DetectorEntry] = {
    "dn2": DetectorEntry(
        target="dn2.detector:DN2",
        input="features",
        summary="mean squared distance to the k nearest normal training images",
        toy={"k": 2},
    ),
    "dn2_plus": DetectorEntry(
        target="dn2.detector:DN2Plus",
        input="features",
        encoder="efficientnet_lite0+efficientnet_lite1+efficientnet_lite2",
        normalize="power",
        summary="DN2 with three joined encoders, power normalisation, 5 neighbours",
        toy={"k": 2},
    ),
    "dn2_group": DetectorEntry(
        target="dn2.groups:GroupDN2",
        input="features",
        groups=True,
        summary="DN2 on the pooled features of each group",
        variants={pool: Variant({"pool": pool}) for pool in ("mean", "max", "concat")},
        toy={"k": 2},
    ),
    "dn2_kmeans": DetectorEntry(
        target="dn2.kmeans:KMeansDN2",
        input="features",
        summary="DN2 with k-means centres in the place of the training images",
        toy={"k": 2, "centres": 5},
    ),
    "ocsvm": DetectorEntry(
        target="baselines.ocsvm:OCSVM",
        input="pixels",
        summary="one-class support vector machine, RBF kernel on pixels; oracle: nu and gamma best "
        "on the test labels",
        variants={
            "label_free": Variant(),
            "oracle": Variant({"nu": "grid", "gamma": "grid"}, selection="oracle"),
        },
        default_variant="label_free",
    ),
    "geom": DetectorEntry(
        target="baselines.geom:GEOM",
        input="pixels",
        summary="how badly a network tells apart the transformations of an image",
        for_dataset={
            "cats_vs_dogs": Variant(
                {"depth": 16, "width": 8},
                # At 64 px an image costs four times what it costs at 32 px.
                presets={"cpu": {"depth": 10, "max_images": WHOLE_CLASS // 4}},
                input="pixels:64",
            )
        },
        variants={
            "dirichlet": Variant(note="probabilities are kept above 0 before the logarithm"),
            "simple": Variant({"score": "simple"}),
            "rotation": Variant(
                {"transformations": "rotation", "epochs": 16},
                note="4 rotations and 16 epochs are this project's choice (the authors' rule gives "
                "50); probabilities are kept above 0 before the logarithm",
            ),
        },
        default_variant="dirichlet",
        presets={
            "cpu": {
                "epochs": 2,
                "width": 1,
                "learning_rate": 3e-3,
                "schedule": "cosine",
                "max_images": WHOLE_CLASS,
            }
        },
        cpu_minutes=13,
        version=3,
        toy={"transformations": "rotation", "epochs": 8, "batch_size": 32, "width": 1},
    ),
    "deep_svdd": DetectorEntry(
        target="baselines.deep_svdd:DeepSVDD",
        input="pixels",
        summary="distance to the centre of the hypersphere into which a network maps normal images",
        # The authors' values for MNIST, whose network and images these are.
        for_dataset={
            "fashion_mnist": Variant(
                {
                    "pretrain_epochs": 150,
                    "pretrain_drop_epoch": 50,
                    "pretrain_weight_decay": 0.5e-3,
                }
            )
        },
        variants={
            "one_class": Variant(),
            "soft_boundary": Variant({"objective": "soft_boundary"}),
            "one_class_not_pretrained": Variant({"pretrain_epochs": 0}),
            "soft_boundary_not_pretrained": Variant(
                {"objective": "soft_boundary", "pretrain_epochs": 0}
            ),
        },
        default_variant="one_class",
        presets={
            "cpu": {
                "epochs": 15,
                "pretrain_epochs": 10,
                "drop_epoch": 5,
                "pretrain_drop_epoch": 7,
                # The rate drops, and a radius is learnt, in about the same fraction of the epochs.
                "warm_up_epochs": 2,
                "max_images": WHOLE_CLASS,
            }
        },
        cpu_minutes=4,
        version=2,
        toy={"epochs": 2, "pretrain_epochs": 1, "batch_size": 20},
    ),
    "goad": DetectorEntry(
        target="baselines.goad:GOAD",
        input="pixels",
        summary="how far an image's transformations are from those of normal images, which a "
        "network gathers around centres",
        for_dataset={"fashion_mnist": Variant({"margin": 1.0})},
        presets={
            "cpu": {
                "epochs": 3,
                "width": 1,
                "learning_rate": 3e-3,
                "schedule": "cosine",
                "max_images": WHOLE_CLASS,
            }
        },
        cpu_minutes=21,
        note="residual blocks keep the BatchNorm and ReLU that the released ones drop; centres are "
        "taken after the training",
        version=2,
        toy={"epochs": 1, "width": 1, "learning_rate": 0.01},
    ),
    "mhrot": DetectorEntry(
        target="baselines.mhrot:MHRot",
        input="pixels",
        summary="how badly a network with three heads tells rotation and shifts of an image; high "
        "resolution takes 256 px",
        variants={
            "low": Variant(
                note="all of low resolution, which was never released: network, optimiser and "
                "epochs are this project's choice",
            ),
            "high": Variant(
                # The released script: 64 images under 4 rotations a step, 9 shifts an epoch.
                {"resolution": "high", "epochs": 5, "batch_size": 256},
                # 5,400 views through a ResNet-18 at 224 px, in 84 steps
                presets={"cpu": {"epochs": 1, "batch_size": 64, "max_images": 150}},
                input="pixels:256",
                note="images are cropped to their middle square; the epochs are for 1,300 images "
                "(915 steps), and 17 (WBC's smallest class) have 15 steps",
            ),
        },
        default_variant="low",
        presets={
            "cpu": {
                "epochs": 6,
                "depth": 10,
                "width": 1,
                "dropout": 0.0,
                "max_images": WHOLE_CLASS,
            }
        },
        cpu_minutes=15,
        version=3,
        toy={"epochs": 1, "batch_size": 32, "depth": 10, "width": 1},
    ),
}
