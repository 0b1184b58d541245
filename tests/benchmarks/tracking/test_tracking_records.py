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
from benchmarks.experiments import make_experiments
from benchmarks.ledger import usual_values
from benchmarks.result_store import ResultStore
from benchmarks.tracking import TrackingError
from benchmarks.tracking.records import metric_points, page_params, run_name, short_encoders

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


def test_cpu_seconds_are_summed_for_the_run_and_for_each_class():
    results = [
        make_result(class_name=name, draw=draw)
        for name, draw in (("cat", 0), ("cat", 1), ("dog", 0))
    ]
    timed = [
        replace(one, cost={"time/cpu_seconds": seconds, "memory/peak_mb": 5.0})
        for one, seconds in zip(results, (1.0, 2.0, 4.0), strict=True)
    ]
    points = {name: value for name, value, _ in metric_points(timed) if "cpu" in name}
    assert points == {
        "time/cpu_seconds": 7.0,
        "time/cpu_seconds/cat": 3.0,
        "time/cpu_seconds/dog": 4.0,
    }
    assert not [name for name, _, _ in metric_points(results) if "cpu" in name]


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


def cells_of(**asked):
    (cell,) = make_experiments(**{"datasets": ("cifar10",), "detectors": ("dn2",), **asked})
    return cell


JOINED = ["efficientnet_lite0+efficientnet_lite1+resnet50"]


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({}, "dn2"),
        ({"normalize": ["power"]}, "dn2 power"),
        ({"params": {"k": (5,)}}, "dn2 k=5"),
        ({"encoders": JOINED}, "dn2 lite0+lite1+resnet50"),
        (
            {"protocol": "contamination", "normalize": ["l2"], "params": {"clean": (0.5,)}},
            "contamination dn2 l2 clean=0.5",
        ),
        (
            {"detectors": ("geom",), "variants": ("rotation",), "presets": ("cpu",), "seed": 2},
            "geom rotation cpu seed=2",
        ),
        ({"detectors": ("dn2_plus",)}, "dn2_plus"),
        ({"detectors": ("dn2_plus",), "normalize": ["none"]}, "dn2_plus normalize=none"),
        ({"detectors": ("ocsvm",), "size": 16}, "ocsvm label_free pixels:16"),
        ({"datasets": ("wbc",), "classes": ("cat", "dog")}, "dn2 classes=cat,dog wbc"),
        ({"datasets": ("folder:/home/me/line 3",)}, "dn2 line 3"),
    ],
)
def test_a_name_has_what_is_not_usual(asked, name):
    cell = cells_of(**asked)
    assert run_name(cell, usual_values(cell)) == name
    trial = replace(cell, partition="validation")
    assert "validation" in run_name(trial, usual_values(trial))


def test_the_page_shows_each_fact_once_and_short():
    joined = page_params(cells_of(encoders=JOINED))
    assert joined["encoder"] == "lite0+lite1+resnet50"
    assert not {"input", "size"} & joined.keys()
    pixels = [page_params(cells_of(detectors=("ocsvm",), size=size)) for size in (0, 16)]
    assert [one["size"] for one in pixels] == ["native", "16"]
    assert {one["encoder"] for one in pixels} == {short_encoders(())} == {"none"}


def test_a_cell_that_an_earlier_version_began_is_continued_in_its_run(tracker):
    run_id = tracker.start_cell(EXPERIMENT, **START)
    tracker.end(run_id, "KILLED")
    old = client(tracker).create_run(tracker.experiment_id, tags=run_of(tracker, run_id).data.tags)
    client(tracker).delete_run(run_id)
    client(tracker).log_param(old.info.run_id, "encoder", "efficientnet_lite0")
    client(tracker).set_terminated(old.info.run_id, "KILLED")
    assert tracker.start_cell(EXPERIMENT, **START) == old.info.run_id
    params = run_of(tracker, old.info.run_id).data.params
    assert (params["encoder"], params["k"]) == ("efficientnet_lite0", "2")


def test_the_page_knows_who_made_a_run_and_with_what(tracker, monkeypatch):
    monkeypatch.setenv("LOGNAME", "somebody")
    tags = run_of(tracker, tracker.start_cell(EXPERIMENT, **START)).data.tags
    assert (tags["mlflow.user"], tags["mlflow.source.name"]) == ("somebody", "dn2-bench")


def test_the_speed_of_encoding_is_that_of_the_newest_run_that_encoded(tracker):
    assert tracker.newest_rate(EXPERIMENT) is None
    finished(tracker, make_cell(), metrics={"throughput/images_per_second": 150.0})
    finished(tracker, make_cell())
    assert tracker.newest_rate(EXPERIMENT) == 150.0
    assert "throughput/images_per_second" not in tracker.newest_metrics(EXPERIMENT)
    assert tracker.newest_rate(replace(EXPERIMENT, input="features:resnet50")) is None
    assert tracker.newest_metrics(replace(EXPERIMENT, input="features:resnet50")) == {}
