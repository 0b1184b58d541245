"""Laws of our runs, which hold in every tracking store.

The stores are SQLite, and servers with SQLite and PostgreSQL behind them. Each law takes a tracker
in a store without runs, and an empty folder.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from handmade import (
    CLASSES,
    EXPERIMENT,
    FINGERPRINT,
    LABELS,
    PROVENANCE,
    assert_equal_results,
    make_cell,
    make_curve,
    make_result,
)

from benchmarks.contracts import Interval
from benchmarks.result_store import ResultStore
from benchmarks.tracking.connection import owner_tags
from benchmarks.tracking.records import page_params

START = {"suite": "main", "fingerprint": FINGERPRINT, "provenance": PROVENANCE}
OURS = {
    "kind",
    "suite",
    "source",
    "commit",
    "dirty",
    "host",
    "pid",
    "pid_started",
    "key",
    "selection",
    "input",
}


def client(tracker):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracker.connect()._address)


def run_of(tracker, run_id):
    return client(tracker).get_run(run_id)


def all_runs(tracker):
    return client(tracker).search_runs([tracker.experiment_id])


def finished(tracker, results, **options):
    run_id = tracker.start_cell(results[0].experiment, **START)
    with tempfile.TemporaryDirectory() as home:
        disk = ResultStore(Path(home))
        tracker.finish_cell(run_id, results, disk=disk, labels=LABELS, **options)
    return run_id


def law_a_started_cell_says_what_it_is(tracker, folder):
    run_id = tracker.start_cell(EXPERIMENT, **START, name="dn2 l2", selection="oracle")
    run = run_of(tracker, run_id)
    assert run.info.status == "RUNNING"
    assert run.info.run_name == "dn2 l2"
    assert run.data.params == {name: str(v) for name, v in page_params(EXPERIMENT).items()}
    assert run.data.params["encoder"] == "lite0"
    assert "input" not in run.data.params
    assert run.data.params["k"] == "2"
    assert run.data.metrics == {}
    tags = {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")}
    assert tags == {
        "key": EXPERIMENT.key,
        "kind": "cell",
        "suite": "main",
        "source": "measured",
        "selection": "oracle",
        "input": "features:efficientnet_lite0",
        "commit": "c0ffee",
        "dirty": "false",
        **owner_tags(),
    }
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("cifar10", FINGERPRINT[:36])
    assert json.loads(dataset.dataset.source)["fingerprint"] == FINGERPRINT
    assert [(tag.key, tag.value) for tag in dataset.tags] == [("mlflow.data.context", "test")]


def law_a_finished_cell_has_these_metrics_and_no_others(tracker, folder):
    run_id = finished(
        tracker,
        make_cell(),
        mean=Interval(0.8, 0.78, 0.82),
        metrics={"memory/peak_mb": np.float32(512), "throughput/images_per_second": 150},
    )
    run = run_of(tracker, run_id)
    assert run.info.status == "FINISHED"
    assert {name: round(value, 9) for name, value in run.data.metrics.items()} == {
        "rocauc": 0.8,
        "rocauc_low": 0.78,
        "rocauc_high": 0.82,
        "rocauc/cat": 0.9,
        "rocauc/dog": 0.8,
        "rocauc/truck": 0.7,
        "average_precision": 0.99,
        "time/fit_seconds": 1.5,
        "time/score_seconds": 0.75,
        "memory/peak_mb": 512,
        "throughput/images_per_second": 150,
    }
    assert {name for name in run.data.tags if not name.startswith("mlflow.")} == OURS


def law_a_curve_has_whole_steps_and_the_runs_can_be_listed(tracker, folder):
    run_id = finished(tracker, make_curve(), curve_step=lambda x: np.float64(x * 1000))
    run = run_of(tracker, run_id)
    assert set(run.data.metrics) == {
        "rocauc_curve",
        "rocauc_curve/cat",
        "rocauc_curve/dog",
        "time/fit_seconds",
        "time/score_seconds",
    }
    history = client(tracker).get_metric_history(run_id, "rocauc_curve/cat")
    assert [(point.step, round(point.value, 9)) for point in history] == [
        (0, 0.895),
        (50, 0.845),
        (100, 0.795),
    ]
    assert all(type(point.step) is int for point in history)
    history = client(tracker).get_metric_history(run_id, "rocauc_curve")
    assert [(point.step, round(point.value, 9)) for point in history] == [
        (0, 0.845),
        (50, 0.795),
        (100, 0.745),
    ]
    assert run_id in {run.info.run_id for run in all_runs(tracker)}


class Figure:
    """A stand-in for matplotlib's, with the one method that we call."""

    def savefig(self, path, **_):
        path.write_bytes(b"picture")


def law_artifacts_hold_every_score_with_its_row_and_label(tracker, folder):
    results = make_cell()
    run_id = finished(tracker, results, figures={"rocauc.png": Figure()})
    assert {file.path for file in client(tracker).list_artifacts(run_id)} == {
        "table.csv",
        "results.json",
        "scores.parquet",
        "rocauc.png",
    }
    client(tracker).download_artifacts(run_id, "", str(folder))
    table = pd.read_csv(folder / "table.csv")
    assert list(table["name"]) == list(CLASSES)
    assert list(table["rocauc"]) == [0.9, 0.8, 0.7]
    scores = pd.read_parquet(folder / "scores.parquet")
    nearest = ["nearest_0", "nearest_1", "nearest_2"]
    assert list(scores.columns) == ["split", "row", "label", "is_anomaly", "score", *nearest]
    assert len(scores) == 60
    dog = scores[scores["split"] == "dog"]
    assert list(dog["row"]) == list(results[1].rows)
    assert list(dog["label"]) == list(LABELS[results[1].rows])
    assert list(dog["is_anomaly"]) == list(results[1].is_anomaly)
    assert (dog["score"].to_numpy() == results[1].scores).all()
    assert (dog[nearest].to_numpy() == results[1].nearest).all()
    assert (folder / "rocauc.png").read_bytes() == b"picture"


def law_no_run_is_nested_and_none_is_left_active(tracker, folder):
    import mlflow

    summary = tracker.start_summary("main", PROVENANCE)
    finished(tracker, make_cell())
    tracker.finish_summary(summary, texts={"table.csv": "class,rocauc\n"})
    runs = all_runs(tracker)
    assert len(runs) == 2
    assert not [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert mlflow.active_run() is None


def law_a_finished_cell_is_found_by_its_key_alone(tracker, folder):
    assert tracker.find_finished(EXPERIMENT.key) is None
    run_id = tracker.start_cell(EXPERIMENT, **START)
    assert tracker.find_finished(EXPERIMENT.key) is None
    tracker.finish_cell(run_id, make_cell(), disk=ResultStore(folder), labels=LABELS)
    assert tracker.find_finished(EXPERIMENT.key) == run_id
    assert tracker.find_finished(replace(EXPERIMENT, seed=7).key) is None
    (found,) = client(tracker).search_runs(
        [tracker.experiment_id], f"tags.key = '{EXPERIMENT.key}'"
    )
    assert found.info.run_id == run_id


def law_finishing_twice_stores_once(tracker, folder):
    results = make_curve()
    run_id = tracker.start_cell(results[0].experiment, **START)
    for _ in range(2):
        tracker.finish_cell(
            run_id,
            results,
            disk=ResultStore(folder),
            labels=LABELS,
            curve_step=lambda x: x * 1000,
        )
    assert len(client(tracker).get_metric_history(run_id, "rocauc_curve")) == 3
    assert len(client(tracker).get_metric_history(run_id, "time/fit_seconds")) == 1
    assert run_of(tracker, run_id).info.status == "FINISHED"


def law_a_broken_off_cell_continues_in_its_run(tracker, folder):
    run_id = tracker.start_cell(EXPERIMENT, **START)
    tracker.end(run_id, "KILLED")
    assert tracker.start_cell(replace(EXPERIMENT, seed=7), **START) != run_id
    assert tracker.start_cell(EXPERIMENT, **START) == run_id
    run = run_of(tracker, run_id)
    assert run.info.status == "RUNNING"
    assert len(run.inputs.dataset_inputs) == 1
    fresh = tracker.start_cell(EXPERIMENT, **START, fresh=True)
    assert fresh != run_id


def law_a_finished_or_failed_run_is_not_opened_again(tracker, folder):
    first = finished(tracker, make_cell())
    second = tracker.start_cell(EXPERIMENT, **START)
    assert second != first
    tracker.end(second, "FAILED", "out of memory")
    assert run_of(tracker, second).data.tags["error"] == "out of memory"
    assert run_of(tracker, second).info.status == "FAILED"
    assert tracker.start_cell(EXPERIMENT, **START) not in (first, second)


def law_a_cell_is_read_back_as_it_was(tracker, folder):
    groups = [
        make_result(size=2, split="m2", x=2.0),
        replace(make_result(size=3, split="m3", x=3.0), nearest=None),
    ]
    for results, mean in ((make_cell(), Interval(0.8, 0.78, 0.82)), (groups, None)):
        run_id = tracker.start_cell(EXPERIMENT, **START)
        record = tracker.finish_cell(
            run_id,
            results,
            disk=ResultStore(folder),
            labels=LABELS,
            mean=mean,
            selection="oracle",
        )
        cell = tracker.read_cell(EXPERIMENT, run_id)
        assert (cell.experiment, cell.run_id, cell.selection) == (
            EXPERIMENT,
            record["run_id"],
            "oracle",
        )
        assert cell.mean == (
            None if mean is None else Interval(record["rocauc"], mean.low, mean.high)
        )
        assert len(cell.results) == len(results)
        for one, other in zip(cell.results, results, strict=True):
            assert_equal_results(one, other)


def law_published_rows_are_logged_once_and_follow_the_table(tracker, folder):
    paper = {
        "source": "P 2020",
        "where": "Table 1",
        "dataset": "cifar10",
        "protocol": "one_vs_rest",
        "variant": "",
        "spread": "",
        "note": "",
    }
    rows = [
        {**paper, "detector": "dn2", "class_name": "cat", "rocauc": "0.8", "note": "seen"},
        {**paper, "detector": "dn2", "class_name": "mean", "rocauc": "0.9", "spread": "0.01"},
        {**paper, "detector": "geom", "class_name": "mean", "rocauc": "0.7"},
    ]
    assert tracker.log_published(rows) == 2
    assert tracker.log_published(rows) == 0
    runs = {run.data.params["detector"]: run for run in all_runs(tracker)}
    assert runs["dn2"].data.metrics == {"rocauc/cat": 0.8, "rocauc": 0.9, "rocauc_spread": 0.01}
    assert runs["geom"].data.params == {
        "dataset": "cifar10",
        "protocol": "one_vs_rest",
        "detector": "geom",
        "variant": "none",
    }
    assert runs["dn2"].data.tags["source"] == "paper"
    assert runs["dn2"].data.tags["note"] == "seen"
    assert runs["dn2"].info.start_time == runs["dn2"].info.end_time == 1577836800000, (
        "of 2020, so that ours are the newest"
    )
    assert runs["dn2"].info.status == "FINISHED"
    rows[2]["rocauc"] = "0.71"
    assert tracker.log_published(rows) == 1
    assert sorted(run.data.metrics["rocauc"] for run in all_runs(tracker)) == [0.71, 0.9]


LAWS = [law for name, law in sorted(globals().items()) if name.startswith("law_")]
