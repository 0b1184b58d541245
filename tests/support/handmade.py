"""Make results by hand, for tests of what is done with results.

Also a way to start other processes that work on them.
"""

import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.contracts import Experiment, Result

CLASSES = ("cat", "dog", "truck")
LABELS = np.array(CLASSES)[np.arange(60) % 3]
FINGERPRINT = "f" * 64
PROVENANCE = {"commit": "c0ffee", "dirty": False, "versions": {"numpy": "2"}, "device": "cpu"}

EXPERIMENT = Experiment(
    dataset="cifar10",
    protocol="one_vs_rest",
    detector="dn2",
    input="features:efficientnet_lite0",
    normalize="l2",
    detector_params={"k": 2, "index": "exact"},
    resolved={"data": FINGERPRINT, "versions": {"protocol": 1}},
)


def make_result(
    experiment=EXPERIMENT, class_name="cat", rocauc=0.9, *, x=None, draw=0, split=None, size=None
):
    """Make one split of 20 scored rows (or groups of ``size``).

    It has the 3 nearest training rows of each.
    """
    rng = np.random.default_rng(draw)
    rows = np.arange(20) if size is None else rng.integers(0, 60, (20, size))
    return Result(
        experiment=experiment,
        split=split or class_name,
        class_name=class_name,
        x=x,
        draw=draw,
        metrics={
            "rocauc": rocauc,
            "rocauc_low": rocauc - 0.01,
            "rocauc_high": rocauc + 0.01,
            "average_precision": 0.99,
            "prevalence": 0.5,
        },
        scores=rng.random(20, dtype=np.float32),
        rows=rows,
        is_anomaly=np.arange(20) % 2 == 0,
        nearest=rng.integers(20, 60, (20, 3)),
        n_train=40,
        n_test=20,
        fit_seconds=0.5,
        score_seconds=0.25,
        provenance=PROVENANCE,
    )


def make_cell(experiment=EXPERIMENT):
    """Make all splits of one run; the mean ROCAUC is 0.8."""
    return [
        make_result(experiment, name, rocauc)
        for name, rocauc in zip(CLASSES, (0.9, 0.8, 0.7), strict=True)
    ]


def make_curve():
    """Make results of two classes, two draws and three contaminations."""
    experiment = replace(EXPERIMENT, protocol="contamination")
    return [
        make_result(
            experiment, name, base - x - draw / 100, x=x, draw=draw, split=f"{name}-{x}-{draw}"
        )
        for name, base in (("cat", 0.9), ("dog", 0.8))
        for x in (0.0, 0.05, 0.1)
        for draw in (0, 1)
    ]


def assert_equal_results(one, other):
    """Check that two results are equal to the last bit, types included."""
    for name in one.__dataclass_fields__:
        value, twin = getattr(one, name), getattr(other, name)
        if isinstance(value, np.ndarray):
            assert value.dtype == twin.dtype, name
            assert np.array_equal(value, twin), name
        else:
            assert value == twin, name


def start(code, *args, **environment):
    """Start another Python process with the tests and the project on its path."""
    support = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{support.parent.parent}:{support}", **environment}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, env=environment, text=True, **pipes)
