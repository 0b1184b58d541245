"""Finished runs with scores of a known quality, made by hand and logged to a tracking store."""

from dataclasses import replace

import numpy as np
from handmade import PROVENANCE

from benchmarks.contracts import Experiment, Result
from benchmarks.metrics import mean_rocauc, split_metrics
from benchmarks.result_store import ResultStore

ANIMALS = ("cat", "dog", "owl")
OF_ROW = np.array(ANIMALS)[np.arange(240) % 3]
TOY = Experiment(
    "toy",
    "one_vs_rest",
    "dn2",
    "features:efficientnet_lite0",
    detector_params={"k": 2, "clean": 0.0},
    resolved={
        "data": "d" * 64,
        "versions": {"protocol": 1, "detector": 2},
        "weights": {"efficientnet_lite0": "a" * 64},
    },
)
OCSVM = replace(
    TOY,
    detector="ocsvm",
    variant="oracle",
    input="pixels",
    detector_params={"nu": "grid"},
    resolved={"data": "d" * 64, "versions": {"protocol": 1, "detector": 1}},
)
CURVE = replace(TOY, protocol="contamination", protocol_params={"contamination": (0.0, 0.1)})


def resolved(experiment, **changes):
    """Return the experiment with other meanings of its names."""
    return replace(experiment, resolved={**experiment.resolved, **changes})


def scored(experiment, shift=1.5, *, seed=1, xs=(None,), rows=None, provenance=PROVENANCE):
    """Make a result for each class and x, in which anomalies score higher by ``shift``.

    The noise is shared by all runs, up to a part that depends on ``seed``.
    """
    rows = np.arange(len(OF_ROW)) if rows is None else rows
    common = np.random.default_rng(0).normal(size=(len(ANIMALS), len(OF_ROW)))
    own = np.random.default_rng(seed).normal(size=(len(ANIMALS), len(OF_ROW)))
    results = []
    for x in xs:
        for number, name in enumerate(ANIMALS):
            anomalous = OF_ROW[rows] != name
            noise = (common[number] + 0.4 * own[number])[rows]
            scores = (noise + shift * anomalous).astype(np.float32)
            results.append(
                Result(
                    experiment,
                    name if x is None else f"{name}-{x}",
                    name,
                    x,
                    0,
                    split_metrics(anomalous, scores),
                    scores,
                    rows,
                    anomalous,
                    np.zeros((len(rows), 2), int),
                    n_train=40,
                    n_test=len(rows),
                    fit_seconds=0.1,
                    score_seconds=0.1,
                    provenance=provenance,
                )
            )
    return results


def log_cell(tracker, folder, results, curve_step=lambda x: round(1000 * x)):
    """Log a finished cell, and return the id of its run."""
    cell, disk = results[0].experiment, ResultStore(folder)
    run_id = tracker.start_cell(
        cell, suite="toy", fingerprint="d" * 64, provenance=results[0].provenance, fresh=True
    )
    mean = None
    if results[0].x is None:
        mean = mean_rocauc([(one.rows, one.is_anomaly, one.scores) for one in results])
    tracker.finish_cell(run_id, results, disk=disk, labels=OF_ROW, mean=mean, curve_step=curve_step)
    disk.discard(cell)
    return run_id
