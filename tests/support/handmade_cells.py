"""Finished runs made by hand, for tests of tables and figures, and a reader of their text."""

import io
import re
from dataclasses import replace

import numpy as np
from handmade import make_result

from benchmarks.contracts import Cell, Experiment, Interval, Result

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FASHION = (
    "t_shirt_top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle_boot",
)
DN2 = Experiment(
    "cifar10",
    "one_vs_rest",
    "dn2",
    "features:efficientnet_lite0",
    detector_params={"k": 2, "index": "exact"},
)
L2, POWER = replace(DN2, normalize="l2"), replace(DN2, normalize="power")
MEAN = Interval(0.905, 0.9, 0.91)
PREVALENCE = {"average_precision": 0.98, "prevalence": 0.9}


def class_cell(experiment=DN2, classes=CIFAR10, value=0.9, mean=MEAN):
    """Make a finished run with the given value in the first class.

    Each next class has a thousandth more.
    """
    results = []
    for number, name in enumerate(classes):
        rocauc = value + number / 1000
        metrics = {
            "rocauc": rocauc,
            "rocauc_low": rocauc - 0.008,
            "rocauc_high": rocauc + 0.007,
            **PREVALENCE,
        }
        scores, rows, anomalous = np.zeros(4, np.float32), np.arange(4), np.arange(4) > 0
        counts = {"n_train": 5000, "n_test": 10_000, "fit_seconds": 0.25, "score_seconds": 1.0}
        results.append(
            Result(
                experiment,
                name,
                name,
                None,
                0,
                metrics,
                scores,
                rows,
                anomalous,
                None,
                provenance={},
                **counts,
            )
        )
    return Cell(experiment, "run", "none", tuple(results), mean)


def text_of(table):
    stream = io.StringIO()
    table.print(stream)
    return stream.getvalue()


def line(text, name):
    return next(line for line in text.splitlines() if re.match(rf"{name}(?!\S)", line)).split()


def curve_cell(experiment, values, classes=("cat", "dog")):
    """Make a finished run with one result for each of ``values``.

    ``values`` is {x: [the values of a draw, one per class]}; None leaves a result out.
    """
    results = [
        make_result(experiment, name, value, x=x, draw=draw, split=f"{name}-x{x}-draw{draw}")
        for x, draws in values.items()
        for draw, of_classes in enumerate(draws)
        for name, value in zip(classes, of_classes, strict=True)
        if value is not None
    ]
    return Cell(experiment, "run", "none", tuple(results), None)
