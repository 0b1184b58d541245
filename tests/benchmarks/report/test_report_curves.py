"""Tables of curves: means and standard errors, text, CSV, and the points for MLflow.

Means and errors are compared with NumPy.
"""

import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from handmade_cells import DN2, L2, POWER, class_cell, curve_cell, line, text_of

from benchmarks.contracts import Interval, UsageError
from benchmarks.report import result_table, result_tables, summary_points
from benchmarks.report.curves import CurveTable
from benchmarks.tracking.records import metric_points

SMALL = replace(DN2, protocol="small_train", protocol_params={"n_train": [10, 100], "draws": 3})
DIRTY = replace(
    DN2, protocol="contamination", protocol_params={"contamination": [0.0, 0.05], "draws": 3}
)
GROUPS = replace(DN2, protocol="groups", detector="dn2_group", variant="mean")
DRAWS = {
    10.0: [(0.81, 0.70), (0.84, 0.72), (0.80, 0.77)],
    100.0: [(0.9, 0.8), (0.91, 0.8), (0.92, 0.8)],
    5000.0: [(0.95, 0.9)],
}


# Means and standard errors


def test_a_draw_is_its_mean_over_classes_and_errors_are_over_draws():
    (curve,) = result_table([curve_cell(SMALL, DRAWS)]).curves
    assert list(curve) == [10, 100, 5000]
    for x in (10, 100):
        of_draws = np.mean(DRAWS[x], axis=1)
        assert curve[x].rocauc == pytest.approx(np.mean(of_draws), abs=1e-12)
        assert curve[x].standard_error == pytest.approx(
            np.std(of_draws, ddof=1) / np.sqrt(3), abs=1e-12
        )
        assert curve[x][2:] == (3, 2)
    assert curve[10].standard_error == pytest.approx(0.0092796, abs=1e-7)  # of 0.755, 0.78, 0.785
    assert curve[5000] == (pytest.approx(0.925), None, 1, 2)


def test_a_class_with_fewer_draws_stands_in_the_others_with_its_mean():
    values = {42.0: [(0.8, 0.9), (0.9, None), (0.7, None)]}
    (curve,) = result_table([curve_cell(SMALL, values)]).curves
    of_draws = [(0.8 + 0.9) / 2, (0.9 + 0.9) / 2, (0.7 + 0.9) / 2]
    assert curve[42] == (
        pytest.approx(0.85),
        pytest.approx(np.std(of_draws, ddof=1) / np.sqrt(3)),
        3,
        2,
    )


def test_complete_curves_have_the_means_that_mlflow_gets():
    cell = curve_cell(SMALL, DRAWS)
    logged = {
        step: value for name, value, step in metric_points(cell.results) if name == "rocauc_curve"
    }
    (curve,) = result_table([cell]).curves
    assert logged == pytest.approx({int(x): point.rocauc for x, point in curve.items()}, abs=1e-7)


def test_draws_at_a_single_x_and_draws_without_x_have_errors_too():
    (one,) = result_table([curve_cell(SMALL, {10.0: DRAWS[10.0]})]).curves
    without = result_table([curve_cell(DN2, {None: DRAWS[10.0]})])
    assert without.curves[0][None] == one[10]
    assert line(text_of(without), "all") == ["all", "77.33", "(0.93)", "3", "2"]
    assert without.figure().axes[0].get_ylabel().endswith("standard error over draws")


# Which runs share a table


def test_methods_share_the_table_of_a_curve_and_other_protocols_do_not():
    geom = replace(
        SMALL, detector="geom", variant="dirichlet", input="pixels", detector_params={"epochs": 3}
    )
    cells = [
        curve_cell(SMALL, DRAWS),
        class_cell(),
        curve_cell(DIRTY, DRAWS),
        curve_cell(geom, DRAWS),
        class_cell(L2),
    ]
    tables = result_tables(cells)
    assert list(tables) == [
        "cifar10-small_train",
        "cifar10-one_vs_rest-dn2",
        "cifar10-contamination",
    ]
    table = tables["cifar10-small_train"]
    assert isinstance(table, CurveTable)
    assert [column.label for column in table.columns] == [
        "detector=dn2, variant=none",
        "detector=geom, variant=dirichlet",
    ]
    assert table.title == "ROCAUC on cifar10, small_train"
    assert table.settings == (
        "encoder=efficientnet_lite0 (dn2), normalize=none, draws=3, k=2 (dn2), index=exact (dn2), "
        "input=pixels (geom), epochs=3 (geom), seed=0; side by side: detector, variant"
    )
    with pytest.raises(
        UsageError, match="got cifar10 small_train; cifar10 contamination: make one table"
    ):
        result_table([cells[0], cells[2]])


def test_cells_of_other_grids_are_told_apart_by_key():
    other = replace(SMALL, protocol_params={"n_train": [10], "draws": 3})
    table = result_table([curve_cell(SMALL, DRAWS), curve_cell(other, {10.0: DRAWS[10.0]})])
    assert [column.label for column in table.columns] == [
        f"dn2 {SMALL.key[:6]}",
        f"dn2 {other.key[:6]}",
    ]
    assert line(text_of(table), "100")[1:] == ["85.50", "(0.29)", "-", "3", "2"]


# Text


def test_a_curve_as_text():
    cells = [
        curve_cell(e, {0.0: [(0.9, 0.8)], 0.025: [(0.7, 0.6), (0.8, 0.6)]})
        for e in (DIRTY, DIRTY.with_params(clean=0.5))
    ]
    text = text_of(result_table(cells, {"contamination": "r is the fraction", "groups": "sets"}))
    assert "groups" not in text
    assert text.startswith(
        "ROCAUC on cifar10, contamination\n"
        "detector=dn2, encoder=efficientnet_lite0, normalize=none, draws=3"
    )
    assert line(text, "0 %") == ["0", "%", "85.00", "85.00", "1", "2"]
    assert line(text, "2.5 %") == ["2.5", "%", "67.50", "(2.50)", "67.50", "(2.50)", "2", "2"]
    assert "contamination: r is the fraction." in text
    assert "A single draw has no standard error." in " ".join(text.split())


def test_the_lower_lines_of_headers_are_aligned():
    cells = [
        curve_cell(replace(SMALL, normalize=how).with_params(k=k), DRAWS)
        for how in ("power", "none")
        for k in (1, 2)
    ]
    text = text_of(result_table(cells))
    assert line(text, "images") == ["images", "k=1", "k=2", "k=1", "k=2", "draws", "classes"]
    assert text.splitlines()[3].split() == ["normalize=power,"] * 2 + ["normalize=none,"] * 2


def test_images_have_thousands_and_groups_no_classes():
    assert line(text_of(result_table([curve_cell(SMALL, DRAWS)])), "5,000") == [
        "5,000",
        "92.50",
        "1",
        "2",
    ]
    cells = [
        curve_cell(replace(GROUPS, variant=pool), {2.0: [(0.9,)], 10.0: [(0.8,)]}, ["all"])
        for pool in ("mean", "max")
    ]
    text = text_of(result_table(cells))
    assert line(text, "size") == ["size", "variant=mean", "variant=max", "draws"]
    assert line(text, "10") == ["10", "80.00", "80.00", "1"]


def test_counts_that_differ_between_columns_are_ranges():
    text = text_of(
        result_table(
            [
                curve_cell(SMALL, DRAWS),
                curve_cell(replace(SMALL, normalize="l2"), {10.0: [(0.9, None)]}),
            ]
        )
    )
    assert line(text, "10") == ["10", "77.33", "(0.93)", "90.00", "1-3", "1-2"]


def test_four_experiments_are_columns_and_five_are_rows():
    cells = [curve_cell(SMALL.with_params(k=k), DRAWS) for k in range(1, 6)]
    assert line(text_of(result_table(cells[:4])), "images")[1:] == [
        "k=1",
        "k=2",
        "k=3",
        "k=4",
        "draws",
        "classes",
    ]
    assert line(text_of(result_table(cells)), "images")[1:] == ["10", "100", "5,000"]
    assert line(text_of(result_table(cells)), "k=5") == ["k=5", "77.33", "85.50", "92.50"]


def test_many_experiments_are_rows_in_parts_of_ten_values():
    kinds = [
        replace(SMALL, normalize=how).with_params(k=k) for how in ("none", "l2") for k in (1, 2, 3)
    ]
    values = {float(x): [(0.9, 0.9), (0.8, 0.8)] for x in (*range(1, 10), 2500, 5000)}
    text = text_of(result_table([curve_cell(kind, values) for kind in kinds]))
    headers = [found.split() for found in text.splitlines() if found.startswith("images")]
    assert headers == [["images", *"123456789", "2,500"], ["images", "5,000"]]
    assert text.count("k=3") == 4
    assert line(text, "draws") == ["draws", *["2"] * 10]
    assert text.count("85.00") == text.count("(5.00)") == 6 * 11


@pytest.mark.parametrize("count", [1, 2, 4, 5, 7])
def test_the_text_fits_100_columns(count):
    encoders = (
        "efficientnet_lite0",
        "efficientnet_lite0+resnet152",
        "timm:tf_efficientnet_lite0",
        "resnet101",
    )
    kinds = [
        replace(SMALL, input=f"features:{name}", normalize=how)
        for how in ("power", "l2")
        for name in encoders
    ]
    values = {
        float(x): [(1.0, 1.0), (0.0, 0.0)]
        for x in (1, 10, 25, 50, 100, 250, 500, 1000, 2500, 50_000)
    }
    text = text_of(result_table([curve_cell(kind, values) for kind in kinds[:count]]))
    assert max(map(len, text.splitlines())) <= 100
    assert (
        len(re.findall(r"(?<!\()50\.00", text))
        == len(re.findall(r"\(50\.00\)", text))
        == 10 * count
    ), "a value is broken"


# Data


def test_csv_and_json_have_every_split_then_the_means():
    table = result_table(
        [curve_cell(SMALL, DRAWS), curve_cell(replace(SMALL, normalize="l2"), {10.0: DRAWS[10.0]})]
    )
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    splits = [row for row in rows if row["class_name"] != "mean"]
    assert len(splits) == 6 + 6 + 2 + 6
    assert [(row["class_name"], row["x"], row["draw"], row["rocauc"]) for row in splits[:3]] == [
        ("cat", "10.0", "0", "0.81"),
        ("dog", "10.0", "0", "0.7"),
        ("cat", "10.0", "1", "0.84"),
    ]
    assert {(row["key"], row["normalize"]) for row in rows} == {
        (cell.key, cell.params["normalize"]) for cell in table.columns
    }
    assert {"rocauc_low", "rocauc_high", "average_precision", "n_train", "n_test"} <= set(rows[0])
    means = [row for row in rows if row["class_name"] == "mean"]
    assert [(row["normalize"], row["x"], row["n_draws"], row["n_classes"]) for row in means] == [
        ("none", "10.0", "3", "2"),
        ("none", "100.0", "3", "2"),
        ("none", "5000.0", "1", "2"),
        ("l2", "10.0", "3", "2"),
    ]
    assert float(means[0]["rocauc"]) == pytest.approx(np.mean(DRAWS[10.0]), abs=1e-15)
    assert means[2]["standard_error"] == means[0]["draw"] == splits[0]["standard_error"] == ""
    assert json.loads(json.dumps(table.to_json()))["records"] == table.records()


# Points for the summary run


def mean_of(k):
    return Interval(np.float64(0.9 + k / 1000), 0.8, 1.0)


def test_a_sweep_has_points_with_whole_steps():
    table = result_table([class_cell(DN2.with_params(k=k), mean=mean_of(k)) for k in (10, 1, 2)])
    assert table.points() == [
        ("rocauc_by_k", 0.901, 1),
        ("rocauc_by_k", 0.902, 2),
        ("rocauc_by_k", pytest.approx(0.91), 10),
    ]
    assert {(type(value), type(step)) for _, value, step in table.points()} == {(float, int)}
    validation = [
        class_cell(replace(DN2, partition="validation").with_params(k=k), mean=mean_of(k))
        for k in (10, 1, 2)
    ]
    assert {name for name, _, _ in result_table(validation).points()} == {"rocauc_validation_by_k"}


def test_several_lines_and_tables_have_names_of_their_own_that_mlflow_takes():
    cells = [
        class_cell(e.with_params(k=k, index="a b,c"), mean=mean_of(k))
        for e in (L2, POWER)
        for k in (1, 2, 3)
    ]
    cells += [
        class_cell(replace(L2, normalize="none").with_params(k=k), mean=mean_of(k))
        for k in (1, 2, 3)
    ]
    names = {name for name, _, _ in result_table(cells).points()}
    assert names == {
        "rocauc_by_k/normalize_l2_index_a_b_c",
        "rocauc_by_k/normalize_power_index_a_b_c",
        "rocauc_by_k/normalize_none_index_exact",
    }
    assert all(re.fullmatch(r"[\w\-. :/]+", name, re.ASCII) for name in names)
    more = [
        class_cell(replace(DN2, dataset="fashion_mnist").with_params(k=k), mean=mean_of(k))
        for k in (1, 2, 3)
    ]
    assert summary_points(result_tables(cells)) == result_table(cells).points()
    both = summary_points(result_tables([*cells, *more]))
    assert {name for name, _, _ in both if "fashion" in name} == {
        "rocauc_by_k/fashion_mnist-one_vs_rest-dn2"
    }
    assert "rocauc_by_k/cifar10-one_vs_rest-dn2/normalize_l2_index_a_b_c" in {
        name for name, _, _ in both
    }
    assert len({(name, step) for name, _, step in both}) == len(both) == 12


def test_fractions_pairs_and_curves_have_no_points():
    assert (
        result_table(
            [class_cell(DN2.with_params(clean=fraction)) for fraction in (0, 0.25, 0.5)]
        ).points()
        == []
    )
    assert result_table([class_cell(DN2.with_params(k=k)) for k in (1, 2)]).points() == []
    assert result_table([curve_cell(SMALL, DRAWS)]).points() == []
    encoders = [class_cell(replace(DN2, input=f"features:resnet{depth}")) for depth in (18, 34, 50)]
    assert result_table(encoders).points() == []
    incomplete = [
        class_cell(DN2.with_params(k=k), mean=None if k == 2 else mean_of(k)) for k in (1, 2, 3)
    ]
    assert [step for _, _, step in result_table(incomplete).points()] == [1, 3]
