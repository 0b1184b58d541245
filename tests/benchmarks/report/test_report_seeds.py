"""Tables of trained detectors.

Several seeds share a column, presets are in the heading, hindsight and accuracies are stated.
"""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from handmade_cells import CIFAR10, DN2, class_cell, curve_cell, line, text_of

from benchmarks.contracts import Experiment, Interval
from benchmarks.detectors import detector_params
from benchmarks.report import result_table, result_tables
from benchmarks.tracking.records import metric_points


def experiment(preset="cpu", seed=0, detector="geom", variant="rotation", **params):
    return Experiment(
        "cifar10",
        "one_vs_rest",
        detector,
        "pixels",
        variant=variant,
        preset=preset,
        seed=seed,
        detector_params=detector_params(detector, variant, params, preset),
    )


def cell(value, **asked):
    return class_cell(experiment(**asked), value=value, mean=Interval(value + 0.0045, 0.1, 0.2))


def with_metrics(cell, **metrics):
    return replace(
        cell,
        results=tuple(
            replace(result, metrics={**result.metrics, **metrics}) for result in cell.results
        ),
    )


THREE = [cell(value, seed=seed) for seed, value in enumerate((0.80, 0.82, 0.90))]
ERROR = np.std([0.80, 0.82, 0.90], ddof=1) / 3**0.5


def test_seeds_are_one_column_with_mean_and_standard_error():
    table = result_table(THREE)
    (column,) = table.columns
    assert column.label == "geom, preset=cpu, 3 seeds"
    assert column.key == ",".join(each.experiment.key for each in THREE)
    airplane, mean = table.rows[0].scores[0], table.mean.scores[0]
    assert airplane.rocauc == pytest.approx((0.84, 0.84 - ERROR, 0.84 + ERROR))
    assert mean.rocauc == pytest.approx((0.8445, 0.8445 - ERROR, 0.8445 + ERROR))
    assert (airplane.n_seeds, mean.n_seeds) == (3, 3)
    text = text_of(table)
    assert line(text, "airplane")[1:3] == ["84.0", "(3.1)"]
    assert "Means over seeds 0, 1, 2; the standard error is in brackets." in text
    assert "95 % intervals" not in text
    assert "seed=" not in table.settings
    records = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert {record["n_seeds"] for record in records} == {"3"}
    assert len(records) == len(CIFAR10) + 1
    assert float(records[0]["standard_error"]) == pytest.approx(ERROR)
    assert records[0]["rocauc_low"] == records[0]["rocauc_high"] == "", (
        "a standard error must not pass for an interval"
    )
    assert table.figure().axes[0].get_ylabel().endswith("whiskers: standard error over seeds")


def test_one_run_has_an_interval_and_a_figure_of_both_says_so():
    both = result_tables([class_cell(DN2), *THREE])
    alone = next(table for name, table in both.items() if "methods" not in name and "dn2" in name)
    assert alone.records()[0]["standard_error"] is None
    assert alone.records()[0]["rocauc_low"] == pytest.approx(0.892)
    assert alone.figure().axes[0].get_ylabel().endswith("whiskers: 95 % intervals")
    joined = next(table for name, table in both.items() if "methods" in name)
    assert (
        joined.figure()
        .axes[0]
        .get_ylabel()
        .endswith("whiskers: 95 % intervals, or standard error over seeds")
    )


def test_presets_have_a_column_each_and_their_budgets_are_stated():
    table = result_table([*THREE, cell(0.95, preset="paper")])
    assert [column.label for column in table.columns] == [
        "preset=cpu, learning_rate=0.003, schedule=cosine, width=1, max_images=6000, 3 seeds",
        "preset=paper, learning_rate=0.001, schedule=constant, width=4, max_images=0",
    ]
    notes = " ".join(table.notes)
    assert (
        "preset=cpu, geom rotation: a narrow network and a short training, for a laptop; "
        "not as published: learning_rate 0.003 instead of 0.001, " in notes
    )
    assert (
        "max_images 6000 instead of 0; 4 rotations and 16 epochs are this project's choice "
        in notes
    )
    assert (
        "preset=paper, geom rotation: the published settings; "
        "not as published: 4 rotations and 16 epochs are " in notes
    )
    assert "95 % intervals" in notes


def test_a_paper_run_with_changed_parameters_says_so():
    notes = " ".join(result_table([cell(0.9, preset="paper", epochs=1)]).notes)
    assert (
        "preset=paper, geom rotation: changed by hand; not as published: epochs 1 instead of 16; 4 "
        "rotations" in notes
    )


def test_a_deterministic_detector_has_no_seed_and_says_so():
    assert "dn2 is deterministic: there is no seed." in result_table([class_cell()]).notes
    assert not any("deterministic" in note for note in result_table(THREE).notes)
    twice = result_table([class_cell(), class_cell(replace(DN2, seed=1))])
    assert len(twice.columns) == 2, "seeds of a deterministic detector are not repetitions"


def test_an_oracle_says_that_it_is_one_and_what_it_chose():
    params = {"variant": "oracle", "detector": "ocsvm", "preset": "none"}
    oracle = replace(
        with_metrics(cell(0.6, **params), chosen_nu=0.3, chosen_gamma=2**-7), selection="oracle"
    )
    table = result_table([oracle])
    text = text_of(table)
    assert (
        "selection=oracle: for each class, ocsvm oracle takes the grid point with the best ROCAUC "
        "on the test labels" in " ".join(text.split())
    )
    assert line(text, "airplane")[6:8] == ["0.3", "0.007812"]
    assert table.mean.scores[0].extra == {}
    assert table.mean.paper == 0.62
    label_free = result_table([cell(0.6, variant="label_free", detector="ocsvm", preset="none")])
    assert not any("oracle" in note for note in label_free.notes)
    assert label_free.mean.paper is None
    points = {name for name, _, _ in metric_points(oracle.results)}
    assert {"chosen_nu/airplane", "chosen_gamma/truck"} <= points
    assert not points & {"chosen_nu", "chosen_gamma"}


def test_accuracies_are_shown_and_logged():
    accurate = with_metrics(THREE[0], accuracy_normal=0.9, accuracy_anomaly=0.25)
    assert line(text_of(result_table([accurate])), "mean")[4:6] == ["90.0", "25.0"]
    side_by_side = text_of(result_table([accurate, cell(0.9, preset="paper")]))
    assert line(side_by_side, "accuracy anomaly")[2] == "25.0"
    points = {name: value for name, value, _ in metric_points(accurate.results)}
    assert points["accuracy_anomaly"] == pytest.approx(0.25)
    assert points["accuracy_normal/cat"] == 0.9


def test_the_papers_unnamed_variant_is_the_default_one():
    assert result_table([cell(0.9, detector="mhrot", variant="low")]).mean.paper == 0.901
    assert result_table([cell(0.9, detector="mhrot", variant="high")]).mean.paper is None
    assert result_table([cell(0.9, variant="dirichlet")]).mean.paper == 0.860
    assert result_table([cell(0.9)]).mean.paper is None
    assert list(result_tables([cell(0.9), cell(0.9, variant="simple")]))[:2] == [
        "cifar10-one_vs_rest-geom-rotation",
        "cifar10-one_vs_rest-geom-simple",
    ]


def test_draws_of_several_seeds_are_draws_of_one_curve():
    at = [replace(experiment(seed=seed), protocol="small_train") for seed in (0, 1)]
    curves = [{10.0: [(0.5, 0.7), (0.6, 0.8)]}, {10.0: [(0.7, 0.9), (0.8, 1.0)]}]
    table = result_table(
        [curve_cell(each, values) for each, values in zip(at, curves, strict=True)]
    )
    (column,) = table.columns
    assert column.label == "geom, preset=cpu, 2 seeds"
    (curve,) = table.curves
    assert curve[10.0].n_draws == 4
    assert curve[10.0].rocauc == pytest.approx(0.75)
    assert curve[10.0].standard_error == pytest.approx(np.std([0.6, 0.7, 0.8, 0.9], ddof=1) / 2)
    assert "Means over seeds 0, 1; each draw of each seed counts as one draw." in table.notes
