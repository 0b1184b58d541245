"""A run's results, as numbers and as files, and how they are read back."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from handmade import EXPERIMENT, LABELS, make_cell, make_curve, make_result
from mlflow_laws import START, all_runs, client, finished, run_of

from benchmarks.contracts import Interval
from benchmarks.result_store import ResultStore
from benchmarks.tracking import TrackingError
from benchmarks.tracking.records import metric_points

TESTS = Path(__file__).parents[2]


def test_a_metric_that_is_not_a_number_is_refused(tracker, tmp_path):
    run_id, disk = tracker.start_cell(EXPERIMENT, **START), ResultStore(tmp_path)
    with pytest.raises(ValueError, match="rocauc"):
        tracker.finish_cell(run_id, [make_result(rocauc=float("nan"))], disk=disk, labels=LABELS)
    with pytest.raises(ValueError, match=r"peak_mb of cell .* is inf"):
        tracker.finish_cell(
            run_id,
            make_cell(),
            disk=disk,
            labels=LABELS,
            metrics={"memory/peak_mb": float("inf")},
        )
    assert (run_of(tracker, run_id).info.status, run_of(tracker, run_id).data.metrics) == (
        "RUNNING",
        {},
    )


def test_on_the_validation_partition_every_quality_says_so():
    points = metric_points(
        make_cell(replace(EXPERIMENT, partition="validation")), Interval(0.8, 0.7, 0.9)
    )
    names = {name for name, _, _ in points if not name.startswith("time/")}
    means = {
        "rocauc_validation",
        "rocauc_validation_low",
        "rocauc_validation_high",
        "average_precision_validation",
    }
    assert names == means | {f"rocauc_validation/{name}" for name in ("cat", "dog", "truck")}


def test_one_value_of_a_curve_has_a_mean_and_a_point():
    points = {
        (name, step): value
        for name, value, step in metric_points(
            [make_result(x=100.0), make_result(x=100.0, draw=1, rocauc=0.8)]
        )
    }
    assert round(points["rocauc", 0], 9) == round(points["rocauc_curve", 100], 9) == 0.85


def test_steps_are_python_ints():
    for x in (np.float32(100), np.int64(100), 100.0):
        (point,) = [
            point for point in metric_points([make_result(x=x)]) if point[0] == "rocauc_curve"
        ]
        assert type(point[2]) is int
        assert type(point[1]) is float


def test_a_curve_needs_a_step_of_its_own_for_each_value():
    with pytest.raises(ValueError, match=r"value 0\.05 is not a whole number"):
        metric_points(make_curve())
    with pytest.raises(ValueError, match=r"have the step 0, the second is 0\.05"):
        metric_points(make_curve(), curve_step=lambda x: x)


def test_scores_of_groups_and_of_splits_without_neighbours(tmp_path):
    results = [
        make_result(size=2, split="m2", x=2.0),
        replace(make_result(size=3, split="m3", x=3.0), nearest=None),
    ]
    record = {"splits": [{"name": "m2"}, {"name": "m3"}]}
    folder = ResultStore(tmp_path).write_finished(results, record, LABELS)
    scores = pd.read_parquet(folder / "scores.parquet")
    two, three = (scores[scores["split"] == name] for name in ("m2", "m3"))
    assert [list(row) for row in two["row"]] == results[0].rows.tolist()
    assert [list(names) for names in three["label"]] == LABELS[results[1].rows].tolist()
    assert (two[["nearest_0", "nearest_1", "nearest_2"]].to_numpy() == results[0].nearest).all()
    assert three["nearest_0"].isna().all()


def test_the_exact_fractions_stand_in_the_table_and_the_record(tracker, tmp_path):
    run_id = finished(tracker, make_curve(), curve_step=lambda x: x * 1000)
    client(tracker).download_artifacts(run_id, "", str(tmp_path))
    record = json.loads((tmp_path / "results.json").read_text())
    assert (record["rocauc"], record["rocauc_low"]) == (None, None)
    assert {split["x"] for split in record["splits"]} == {0.0, 0.05, 0.1}
    assert {row["x"] for row in csv.DictReader((tmp_path / "table.csv").open())} == {
        "0.0",
        "0.05",
        "0.1",
    }


def test_a_run_of_another_cell_is_not_read_as_this_one(tracker):
    run_id = finished(tracker, make_cell())
    with pytest.raises(TrackingError, match="delete the run"):
        tracker.read_cell(replace(EXPERIMENT, seed=7), run_id)


@pytest.mark.parametrize("name", ["results.json", "scores.parquet"])
@pytest.mark.parametrize("content", [b"", b"{", b"PAR1"])
def test_damaged_files_of_a_run_are_one_line(tracker, name, content, tmp_path):
    run_id = finished(tracker, make_cell())
    (tmp_path / name).write_bytes(content)
    tracker._client.log_artifact(run_id, tmp_path / name)
    with pytest.raises(TrackingError, match="not what was logged"):
        tracker.read_cell(EXPERIMENT, run_id)


def test_the_newest_metrics_are_of_the_same_detector_and_input(tracker):
    finished(
        tracker, make_cell(replace(EXPERIMENT, normalize="power")), metrics={"memory/peak_mb": 512}
    )
    finished(
        tracker,
        make_cell(replace(EXPERIMENT, input="features:resnet18")),
        metrics={"memory/peak_mb": 1024},
    )
    assert tracker.newest_metrics(EXPERIMENT)["memory/peak_mb"] == 512
    assert tracker.newest_metrics(replace(EXPERIMENT, dataset="fashion_mnist")) == {}


def test_the_published_table_can_be_logged(tracker):
    path = TESTS.parent / "benchmarks" / "published.csv"
    rows = list(csv.DictReader(path.open()))
    cells = {
        tuple(row[name] for name in ("source", "dataset", "protocol", "detector", "variant"))
        for row in rows
    }
    assert tracker.log_published(rows) == len(cells)
    assert sum(len(run.data.metrics) for run in all_runs(tracker)) == len(rows) + sum(
        bool(row["spread"]) for row in rows
    )
