"""The published numbers, the table beside them, its text, CSV and JSON, and the figures."""

import csv
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from benchmarks.contracts import Cell, Experiment, Interval, Result, UsageError
from benchmarks.figures import class_bars, rocauc_by_k
from benchmarks.report import percent, published, published_rows, result_table, result_tables

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FASHION = ("t_shirt_top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle_boot")
DN2 = Experiment("cifar10", "one_vs_rest", "dn2", "features:efficientnet_lite0", detector_params={"k": 2, "index": "exact"})
L2, POWER = replace(DN2, normalize="l2"), replace(DN2, normalize="power")
MEAN = Interval(0.905, 0.9, 0.91)
PREVALENCE = {"average_precision": 0.98, "prevalence": 0.9}


def make_cell(experiment=DN2, classes=CIFAR10, value=0.9, mean=MEAN, xs=(None,)):
    """A finished cell of the given value in the first class, a thousandth more in each next one."""
    results = []
    for x in xs:
        for number, name in enumerate(classes):
            rocauc = value + number / 1000
            metrics = {"rocauc": rocauc, "rocauc_low": rocauc - 0.008, "rocauc_high": rocauc + 0.007, **PREVALENCE}
            split = name if x is None else f"{name}-n{x}"
            scores, rows = np.zeros(4, np.float32), np.arange(4)
            anomalous = np.arange(4) > 0
            counts = {"n_train": 5000, "n_test": 10_000, "fit_seconds": 0.25, "score_seconds": 1.0}
            results.append(Result(experiment, split, name, x, 0, metrics, scores, rows, anomalous, None, provenance={}, **counts))
    return Cell(experiment, "run", "none", tuple(results), mean)


def text_of(table):
    stream = io.StringIO()
    table.print(stream)
    return stream.getvalue()


def line(text, name):
    return next(line for line in text.splitlines() if re.match(rf"{name}\b", line)).split()


# The published numbers


def test_published_rows_are_fractions_and_no_number_is_there_twice():
    rows = published_rows()
    keys = [tuple(row[name] for name in ("source", "dataset", "protocol", "class_name", "detector", "variant")) for row in rows]
    assert len(set(keys)) == len(keys) == 141
    assert all(0.5 < row["rocauc"] <= 1 for row in rows)
    assert all(row["spread"] is None or 0 <= row["spread"] < 0.3 for row in rows)
    assert all(row["where"] for row in rows)
    assert {row["class_name"] for row in rows if row["dataset"] == "cifar10"} == {*CIFAR10, "mean"}
    assert {row["class_name"] for row in rows if row["dataset"] == "fashion_mnist"} == {*FASHION, "mean"}


def test_printed_means_are_those_of_their_classes_to_the_printed_digit():
    groups = {}
    for row in published_rows():
        key = (row["dataset"], row["protocol"], row["detector"], row["variant"], row["source"])
        groups.setdefault(key, published(*key))
    with_classes = {key: found for key, found in groups.items() if len(found) > 1}
    assert len(with_classes) == 11
    for key, found in with_classes.items():
        classes = [value for name, value in found.items() if name != "mean"]
        assert len(classes) == 10, key
        assert np.mean(classes) == pytest.approx(found["mean"], abs=0.001), key


def test_published_finds_the_papers_own_row_and_mixes_nothing():
    dn2 = published("cifar10", "one_vs_rest", "dn2")
    assert list(dn2) == [*CIFAR10, "mean"]
    assert (dn2["airplane"], dn2["truck"], dn2["mean"]) == (0.939, 0.953, 0.925)
    assert published("cifar10", "leave_one_class_out", "dn2") == {"mean": 0.717}
    assert published("fashion_mnist", "one_vs_rest", "goad") == {"mean": 0.941}
    assert published("fashion_mnist", "one_vs_rest", "goad", source="GOAD 2020")["bag"] == 0.989
    assert published("cifar10", "one_vs_rest", "mhrot")["mean"] == 0.901
    assert published("cifar10", "one_vs_rest", "mhrot", "outlier_exposure") == {"mean": 0.958}
    assert published("cifar10", "one_vs_rest", "geom", "dirichlet")["mean"] == 0.860
    assert published("cifar10", "one_vs_rest", "geom", "simple") == {}
    assert published("cifar10", "one_vs_rest", "ocsvm") == {}, "a hindsight number must not stand beside a plain OC-SVM"
    assert published("wbc", "one_vs_rest", "dn2") == {}


# The table


def test_one_cell_stands_beside_the_paper():
    table = result_table([make_cell()])
    assert [row.name for row in table.rows] == list(CIFAR10)
    airplane = table.rows[0]
    assert airplane.entries[0].rocauc == Interval(0.9, 0.892, 0.907)
    assert (airplane.paper, airplane.difference(0)) == (0.939, pytest.approx(-0.039))
    assert airplane.entries[0].seconds == 1.25
    assert table.mean.entries[0].rocauc == Interval(0.905, 0.9, 0.91)
    assert (table.mean.paper, table.mean.difference(0)) == (0.925, pytest.approx(-0.02))


def test_cells_that_differ_in_parameters_stand_side_by_side():
    table = result_table([make_cell(), make_cell(L2, value=0.94), make_cell(POWER, value=0.95)])
    assert [column.label for column in table.columns] == ["normalize=none", "normalize=l2", "normalize=power"]
    assert [column.params for column in table.columns] == [{"normalize": name} for name in ("none", "l2", "power")]
    assert [table.rows[1].difference(number) for number in range(3)] == pytest.approx([-0.076, -0.036, -0.026])
    assert "normalize=" not in table.settings
    assert table.settings == "encoder=efficientnet_lite0, k=2, index=exact, seed=0; side by side: normalize"


def test_cells_that_differ_in_what_names_stand_for_are_told_apart_by_key():
    other = replace(DN2, resolved={"weights": "another"})
    labels = [column.label for column in result_table([make_cell(), make_cell(other)]).columns]
    assert labels == [f"dn2 {DN2.key[:6]}", f"dn2 {other.key[:6]}"]


def test_the_papers_mean_is_over_the_classes_shown():
    some = result_table([make_cell(replace(DN2, classes=("cat", "dog")), ("cat", "dog"))])
    assert some.mean.paper == pytest.approx((0.855 + 0.913) / 2)
    assert "paper's mean: over the 2 classes shown." in some.notes
    assert result_table([make_cell(DN2, ("cat", "dog"))]).mean.paper == some.mean.paper
    assert not any("92.5" in note for note in some.notes)
    fashion = replace(DN2, dataset="fashion_mnist")
    assert result_table([make_cell(fashion, FASHION)]).mean.paper == 0.944
    part = result_table([make_cell(replace(fashion, classes=("bag",)), ("bag",))])
    assert part.mean.paper is None
    assert "paper: DN2 2020 prints no number for this." in part.notes


def test_validation_results_do_not_stand_beside_test_results():
    table = result_table([make_cell(replace(DN2, partition="validation"))])
    assert table.mean.paper is None
    assert {row.paper for row in table.rows} == {None}
    assert "partition=validation" in table.settings


def test_a_cell_without_some_of_the_rows_has_no_mean_beside_the_others():
    table = result_table([make_cell(), make_cell(replace(L2, classes=("cat",)), ("cat",))])
    assert [entry is None for entry in table.mean.entries] == [False, True]
    assert [entry is None for entry in table.rows[0].entries] == [False, True]
    assert line(text_of(table), "airplane")[4] == "-"
    assert len(table.records()) == 10 + 1 + 1


def test_a_curve_has_a_row_a_point_and_no_mean():
    small = replace(DN2, protocol="small_train")
    table = result_table([make_cell(small, ("cat", "dog"), mean=None, xs=(10, 100))])
    assert [row.name for row in table.rows] == ["cat-n10", "dog-n10", "cat-n100", "dog-n100"]
    assert table.mean.entries == (None,)
    assert line(text_of(table), "mean")[1:] == ["-"] * 7


def test_what_cannot_be_compared_is_refused_and_can_be_separated():
    cells = [make_cell(), make_cell(replace(DN2, dataset="fashion_mnist"), FASHION), make_cell(L2)]
    with pytest.raises(UsageError, match="got cifar10 one_vs_rest dn2; fashion_mnist one_vs_rest dn2"):
        result_table(cells)
    with pytest.raises(UsageError, match="got no cell"):
        result_table([])
    tables = result_tables(cells)
    assert list(tables) == ["cifar10-one_vs_rest-dn2", "fashion_mnist-one_vs_rest-dn2"]
    assert len(tables["cifar10-one_vs_rest-dn2"].columns) == 2


def test_the_notes_say_what_a_reader_must_know():
    notes = " ".join(result_table([make_cell(), make_cell(L2)]).notes)
    assert "95 %" in notes
    assert "anomalies as positives; chance is their share of the test images, 90.0 %" in notes
    assert "The paper used resnet101, ours is efficientnet_lite0" in notes
    assert "The paper's DN2 is normalize=none." in notes
    assert "paper's mean: ResNet-101; printed 92.5; the rows average 92.58." in notes
    same = " ".join(result_table([make_cell(replace(DN2, input="features:resnet101"))]).notes)
    assert "The paper used" not in same
    assert "normalize=none" not in same


# Text, CSV, JSON


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.9395, "94.0"), (0.9385, "93.9"), (0.93949, "93.9"), (1.0, "100.0"), (0.0, "0.0"), (None, "-"), (np.float32(0.5), "50.0")],
)
def test_a_percent_is_rounded_once_and_half_up(fraction, text):
    assert percent(fraction) == text


@pytest.mark.parametrize(
    ("fraction", "text"), [(0.0105, "+1.1"), (-0.0105, "-1.1"), (0.0004, "0.0"), (-0.0004, "0.0"), (-0.0005, "-0.1"), (None, "-")]
)
def test_a_difference_has_a_sign_unless_it_is_zero(fraction, text):
    assert percent(fraction, sign=True) == text


def test_one_cell_as_text():
    text = text_of(result_table([make_cell()]))
    assert text.startswith("ROCAUC of dn2 on cifar10, one_vs_rest\nencoder=efficientnet_lite0, normalize=none, k=2,")
    assert line(text, "airplane")[1:] == ["90.0", "[89.2,", "90.7]", "93.9", "-3.9", "98.0", "5,000", "10,000", "1.25"]
    assert line(text, "mean")[1:] == ["90.5", "[90.0,", "91.0]", "92.5", "-2.0", "98.0", "5,000", "10,000", "1.25"]


def test_three_cells_as_text():
    text = text_of(result_table([make_cell(), make_cell(L2, value=0.94), make_cell(POWER, value=0.95)]))
    ours = ["90.1", "[89.3,", "90.8]", "94.1", "[93.3,", "94.8]", "95.1", "[94.3,", "95.8]"]
    assert line(text, "automobile")[1:] == [*ours, "97.7", "-7.6", "-3.6", "-2.6"]
    assert line(text, "class")[1:] == ["normalize=none", "normalize=l2", "normalize=power", "paper", "none", "l2", "power"]


def test_differences_whose_names_are_too_long_are_numbered():
    text = text_of(result_table([make_cell(), make_cell(replace(DN2, input="features:resnet101"))]))
    assert line(text, "class")[-3:] == ["paper", "1st", "2nd"]


def test_many_cells_are_listed_by_their_means():
    cells = [make_cell(e.with_params(k=k), mean=Interval(0.9 + k / 100, 0.8, 1)) for k in (1, 2) for e in (DN2, L2)]
    text = text_of(result_table(cells))
    assert "airplane" not in text
    ours = ["92.0", "[80.0,", "100.0]", "92.5", "-0.5", "98.0", "5,000", "10,000", "1.25"]
    assert line(text, "normalize=l2, k=2")[2:] == ours


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_the_text_fits_100_columns_and_has_no_colour(count):
    encoders = ("efficientnet_lite0", "efficientnet_lite0+resnet152", "timm:tf_efficientnet_lite0")
    classes = ("large_natural_outdoor_scenes", *CIFAR10[1:])
    kinds = [replace(DN2, input=f"features:{name}", normalize=how) for how in ("none", "l2") for name in encoders]
    text = text_of(result_table([make_cell(kind, classes, value=0.99) for kind in kinds[:count]]))
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text
    assert {letter for letter in text if not letter.isascii()} <= {"─"}
    if count <= 3:
        whole = re.findall(r"\d\d\.\d \[\d\d\.\d, \d+\.\d\]", text)
        assert len(whole) == 11 * count, "a value is broken over two lines"
        assert re.search(r"^automobile ", text, re.MULTILINE), "headers must not squeeze the names of classes"


def test_a_pipe_that_knows_only_ascii_is_no_error():
    code = "import tests.test_report as t; t.result_table([t.make_cell()]).print()"
    command = [sys.executable, "-c", code]
    env = {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(command, env=env, capture_output=True, check=True, cwd=Path(__file__).parent.parent)
    assert b"90.0 [89.2, 90.7]" in done.stdout
    assert done.stdout.isascii()


def test_csv_and_json_hold_every_value_unrounded():
    table = result_table([make_cell(), make_cell(L2, value=1 / 3)])
    lines = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert len(lines) == 2 * 11
    assert [row["class_name"] for row in lines[:11]] == [*CIFAR10, "mean"]
    assert (lines[0]["key"], lines[0]["normalize"], lines[0]["n_train"]) == (DN2.key, "none", "5000")
    assert float(lines[11]["rocauc"]) == 1 / 3
    loaded = json.loads(json.dumps(table.to_json()))
    assert loaded["records"] == table.records()
    assert loaded["records"][0]["difference"] == 0.9 - 0.939
    assert (loaded["records"][0]["rocauc_low"], loaded["records"][0]["rocauc_high"]) == (0.892, 0.907)
    assert loaded["title"] == table.title


# Figures


def heights(axes, label):
    (bars,) = [bars for bars in axes.containers if bars.get_label() == label and hasattr(bars, "patches")]
    return [bar.get_height() for bar in bars.patches]


def test_bars_show_the_table_and_none_is_cut():
    figure = result_table([make_cell(), make_cell(L2, value=0.45, mean=Interval(0.454, 0.4, 0.5))]).figure()
    (axes,) = figure.axes
    assert heights(axes, "normalize=none") == pytest.approx([90 + n / 10 for n in range(10)] + [90.5])
    assert heights(axes, "paper")[-1] == 92.5
    assert [tick.get_text() for tick in axes.get_xticklabels()] == [*CIFAR10, "mean"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["normalize=none", "normalize=l2", "paper"]
    assert axes.get_ylim() == (40, 100)
    edges = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches)
    assert all(right <= left + 1e-9 for (_, right), (left, _) in pairwise(edges)), "bars overlap"
    assert result_table([make_cell()]).figure().axes[0].get_ylim() == (50, 100)


def test_whiskers_reach_from_the_lower_to_the_upper_bound():
    (axes,) = class_bars("t", ["cat"], {"ours": [Interval(0.9, 0.87, 0.91)]}, [None]).axes
    (whisker,) = axes.collections[0].get_segments()
    assert whisker[:, 1] == pytest.approx([87, 91])
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == ["ours"]


def test_a_missing_value_leaves_a_gap():
    (axes,) = class_bars("t", ["a", "b"], {"ours": [None, (0.9, 0.8, 1.0)]}, [0.7, None]).axes
    assert heights(axes, "ours") == [90]
    assert heights(axes, "paper") == [70]
    assert axes.patches[0].get_x() > 0.5


def test_several_k_are_drawn_as_lines():
    cells = [make_cell(e.with_params(k=k), mean=Interval(0.9 - k / 1000, 0.85, 0.95)) for e in (DN2, L2) for k in (10, 1, 2)]
    (axes,) = result_table(cells).figure().axes
    assert axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "10"]
    lines = {one.get_label(): one for one in axes.lines}
    assert set(lines) == {"normalize=none", "normalize=l2", "paper"}
    assert list(lines["normalize=l2"].get_xdata()) == [1, 2, 10]
    assert list(lines["normalize=l2"].get_ydata()) == pytest.approx([89.9, 89.8, 89.0])
    bottom, top = axes.get_ylim()
    assert bottom < 85
    assert 95 < top <= 100


def test_figures_are_pngs_without_pyplot():
    before = dict(matplotlib.rcParams)
    figure = rocauc_by_k("t", {"dn2": {1: (1.0, 1.0, 1.0), 2: (1.0, 1.0, 1.0)}})
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    assert stream.getvalue().startswith(b"\x89PNG")
    assert dict(matplotlib.rcParams) == before
    code = "import sys, benchmarks.report; print('matplotlib.pyplot' in sys.modules)"
    root = Path(__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root).stdout == "False\n"
