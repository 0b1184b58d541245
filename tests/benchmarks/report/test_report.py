"""The published numbers and the table that compares with them: its text, CSV and JSON."""

import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from handmade import start
from handmade_cells import CIFAR10, DN2, FASHION, L2, POWER, class_cell, line, text_of

from benchmarks.contracts import Interval, UsageError
from benchmarks.report import percent, published, published_rows, result_table, result_tables

# The published numbers


def test_published_rows_are_fractions_and_no_number_is_there_twice():
    rows = published_rows()
    keys = [
        tuple(
            row[name]
            for name in ("source", "dataset", "protocol", "class_name", "detector", "variant")
        )
        for row in rows
    ]
    assert len(set(keys)) == len(keys) == 141
    assert all(0.5 < row["rocauc"] <= 1 for row in rows)
    assert all(row["spread"] is None or 0 <= row["spread"] < 0.3 for row in rows)
    assert all(row["where"] for row in rows)
    assert {row["class_name"] for row in rows if row["dataset"] == "cifar10"} == {*CIFAR10, "mean"}
    assert {row["class_name"] for row in rows if row["dataset"] == "fashion_mnist"} == {
        *FASHION,
        "mean",
    }


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
    geom = published("fashion_mnist", "one_vs_rest", "geom", "dirichlet", source="GOAD 2020")
    # GEOM 2018 counts the classes in alphabetical order: ankle boot, bag, coat ...
    printed = [0.994, 0.976, 0.911, 0.899, 0.921, 0.934, 0.833, 0.989, 0.908, 0.992]
    assert geom == {**dict(zip(sorted(FASHION), printed, strict=True)), "mean": 0.935}
    assert published("cifar10", "one_vs_rest", "mhrot")["mean"] == 0.901
    assert published("cifar10", "one_vs_rest", "mhrot", "outlier_exposure") == {"mean": 0.958}
    assert published("cifar10", "one_vs_rest", "geom", "dirichlet")["mean"] == 0.860
    assert published("cifar10", "one_vs_rest", "geom", "simple") == {}
    assert published("cifar10", "one_vs_rest", "ocsvm") == {}, (
        "a hindsight number must not stand next to a plain OC-SVM"
    )
    assert published("wbc", "one_vs_rest", "dn2") == {}


# The table


def test_one_run_is_compared_with_the_paper():
    table = result_table([class_cell()])
    assert [row.name for row in table.rows] == list(CIFAR10)
    airplane = table.rows[0]
    assert airplane.scores[0].rocauc == Interval(0.9, 0.892, 0.907)
    assert (airplane.paper, airplane.difference(0)) == (0.939, pytest.approx(-0.039))
    assert airplane.scores[0].seconds == 1.25
    assert table.mean.scores[0].rocauc == Interval(0.905, 0.9, 0.91)
    assert (table.mean.paper, table.mean.difference(0)) == (0.925, pytest.approx(-0.02))


def test_cells_that_differ_in_parameters_stand_side_by_side():
    table = result_table([class_cell(), class_cell(L2, value=0.94), class_cell(POWER, value=0.95)])
    assert [column.label for column in table.columns] == [
        "normalize=none",
        "normalize=l2",
        "normalize=power",
    ]
    assert [column.params for column in table.columns] == [
        {"normalize": name} for name in ("none", "l2", "power")
    ]
    assert [table.rows[1].difference(number) for number in range(3)] == pytest.approx(
        [-0.076, -0.036, -0.026]
    )
    assert "normalize=" not in table.settings
    assert (
        table.settings
        == "encoder=efficientnet_lite0, k=2, index=exact, seed=0; side by side: normalize"
    )


def test_cells_that_differ_in_what_names_stand_for_are_told_apart_by_key():
    other = replace(DN2, resolved={"weights": "another"})
    labels = [column.label for column in result_table([class_cell(), class_cell(other)]).columns]
    assert labels == [f"dn2 {DN2.key[:6]}", f"dn2 {other.key[:6]}"]


def test_the_papers_mean_is_over_the_classes_shown():
    some = result_table([class_cell(replace(DN2, classes=("cat", "dog")), ("cat", "dog"))])
    assert some.mean.paper == pytest.approx((0.855 + 0.913) / 2)
    assert "paper's mean: taken over the 2 classes shown." in some.notes
    assert result_table([class_cell(DN2, ("cat", "dog"))]).mean.paper == some.mean.paper
    assert not any("92.5" in note for note in some.notes)
    fashion = replace(DN2, dataset="fashion_mnist")
    assert result_table([class_cell(fashion, FASHION)]).mean.paper == 0.944
    part = result_table([class_cell(replace(fashion, classes=("bag",)), ("bag",))])
    assert part.mean.paper is None
    assert "paper: DN2 2020 reports no number for this." in part.notes


def test_an_approximate_index_says_what_it_logs_and_where_it_is_exact():
    notes = {}
    for index in ("exact", "hnsw"):
        table = result_table(
            [class_cell(replace(DN2, detector_params={**DN2.detector_params, "index": index}))]
        )
        notes[index] = " ".join(table.notes)
    assert "fewer than 1,000 rows are searched exactly" in notes["hnsw"]
    assert "searched exactly" not in notes["exact"]


@pytest.mark.parametrize("columns", [1, 2, 4])
def test_without_a_published_number_there_is_no_paper_column(columns):
    ours = [
        replace(DN2, detector_params={**DN2.detector_params, "k": k}) for k in range(1, columns + 1)
    ]
    ((header, *_),) = result_table([class_cell(each) for each in ours]).grids()
    own = [class_cell(replace(each, dataset="synthetic"), ("disc", "cross")) for each in ours]
    ((header_of_own, *lines),) = result_table(own).grids()
    assert "paper" in header
    assert header_of_own == [
        title for title in header if title != "paper" and not title.startswith("diff")
    ]
    assert {len(line) for line in lines} <= {len(header_of_own), 0}


def test_validation_results_are_not_compared_with_test_results():
    table = result_table([class_cell(replace(DN2, partition="validation"))])
    assert table.mean.paper is None
    assert {row.paper for row in table.rows} == {None}
    assert "partition=validation" in table.settings


def test_a_run_without_some_of_the_rows_has_no_mean():
    table = result_table([class_cell(), class_cell(replace(L2, classes=("cat",)), ("cat",))])
    assert [score is None for score in table.mean.scores] == [False, True]
    assert [score is None for score in table.rows[0].scores] == [False, True]
    assert line(text_of(table), "airplane")[4] == "-"
    assert len(table.records()) == 10 + 1 + 1


def test_what_cannot_be_compared_is_refused_and_can_be_separated():
    cells = [
        class_cell(),
        class_cell(replace(DN2, dataset="fashion_mnist"), FASHION),
        class_cell(L2),
    ]
    with pytest.raises(
        UsageError, match="got cifar10 one_vs_rest dn2; fashion_mnist one_vs_rest dn2"
    ):
        result_table(cells)
    with pytest.raises(UsageError, match="got no run"):
        result_table([])
    tables = result_tables(cells)
    assert list(tables) == ["cifar10-one_vs_rest-dn2", "fashion_mnist-one_vs_rest-dn2"]
    assert len(tables["cifar10-one_vs_rest-dn2"].columns) == 2


def test_names_of_tables_are_fit_for_files():
    (name,) = result_tables([class_cell(replace(DN2, dataset="folder:/my data/set"))])
    assert name == "folder:_my_data_set-one_vs_rest-dn2"


def test_the_definition_of_the_protocol_is_printed():
    definitions = {"one_vs_rest": "one is normal", "groups": "another"}
    (table,) = result_tables([class_cell()], definitions).values()
    assert table.notes[0] == "one_vs_rest: one is normal."
    assert not any("another" in note for note in table.notes)
    assert table.notes[1:] == result_table([class_cell()]).notes


def test_the_notes_say_what_a_reader_must_know():
    notes = " ".join(result_table([class_cell(), class_cell(L2)]).notes)
    assert "95 %" in notes
    assert "chance level is the fraction of anomalies among the test images, 90.0 %." in notes
    assert "average precision with anomalies as positives" in notes
    assert "The paper used resnet101, as far as we know, and we used efficientnet_lite0" in notes
    assert "The paper's DN2 uses raw features: normalize=none." in notes
    assert (
        "paper's mean: ResNet-101 is known from memory only; printed 92.5; the rows average 92.58."
        in notes
    )
    same = " ".join(result_table([class_cell(replace(DN2, input="features:resnet101"))]).notes)
    assert "The paper used" not in same
    assert "normalize=none" not in same


# Text, CSV, JSON


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0.9395, "94.0"),
        (0.9385, "93.9"),
        (0.93949, "93.9"),
        (1.0, "100.0"),
        (0.0, "0.0"),
        (None, "-"),
        (np.float32(0.5), "50.0"),
    ],
)
def test_a_percent_is_rounded_once_and_half_up(fraction, text):
    assert percent(fraction) == text


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0.0105, "+1.1"),
        (-0.0105, "-1.1"),
        (0.0004, "0.0"),
        (-0.0004, "0.0"),
        (-0.0005, "-0.1"),
        (None, "-"),
    ],
)
def test_a_difference_has_a_sign_unless_it_is_zero(fraction, text):
    assert percent(fraction, sign=True) == text


def test_one_cell_as_text():
    text = text_of(result_table([class_cell()]))
    assert text.startswith(
        "ROCAUC of dn2 on cifar10, one_vs_rest\nencoder=efficientnet_lite0, normalize=none, k=2,"
    )
    assert line(text, "airplane")[1:] == [
        "90.0",
        "[89.2,",
        "90.7]",
        "93.9",
        "-3.9",
        "98.0",
        "5,000",
        "10,000",
        "1.25",
    ]
    assert line(text, "mean")[1:] == [
        "90.5",
        "[90.0,",
        "91.0]",
        "92.5",
        "-2.0",
        "98.0",
        "5,000",
        "10,000",
        "1.25",
    ]


def test_three_cells_as_text():
    text = text_of(
        result_table([class_cell(), class_cell(L2, value=0.94), class_cell(POWER, value=0.95)])
    )
    ours = ["90.1", "[89.3,", "90.8]", "94.1", "[93.3,", "94.8]", "95.1", "[94.3,", "95.8]"]
    assert line(text, "automobile")[1:] == [*ours, "97.7", "-7.6", "-3.6", "-2.6"]
    assert line(text, "class")[1:] == [
        "normalize=none",
        "normalize=l2",
        "normalize=power",
        "paper",
        "none",
        "l2",
        "power",
    ]


def test_differences_whose_names_are_too_long_are_numbered():
    text = text_of(
        result_table([class_cell(), class_cell(replace(DN2, input="features:resnet101"))])
    )
    assert line(text, "class")[-3:] == ["paper", "1st", "2nd"]


def test_many_cells_are_listed_by_their_means():
    cells = [
        class_cell(e.with_params(k=k), mean=Interval(0.9 + k / 100, 0.8, 1))
        for k in (1, 2)
        for e in (DN2, L2)
    ]
    text = text_of(result_table(cells))
    assert "airplane" not in text
    ours = ["92.0", "[80.0,", "100.0]", "92.5", "-0.5", "98.0", "5,000", "10,000", "1.25"]
    assert line(text, "normalize=l2, k=2")[2:] == ours


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_the_text_fits_100_columns_and_has_no_colour(count):
    encoders = ("efficientnet_lite0", "efficientnet_lite0+resnet152", "timm:tf_efficientnet_lite0")
    classes = ("large_natural_outdoor_scenes", *CIFAR10[1:])
    kinds = [
        replace(DN2, input=f"features:{name}", normalize=how)
        for how in ("none", "l2")
        for name in encoders
    ]
    text = text_of(result_table([class_cell(kind, classes, value=0.99) for kind in kinds[:count]]))
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text
    assert {letter for letter in text if not letter.isascii()} <= {"─"}
    if count <= 3:
        whole = re.findall(r"\d\d\.\d \[\d\d\.\d, \d+\.\d\]", text)
        assert len(whole) == 11 * count, "a value is broken over two lines"
        assert re.search(r"^automobile ", text, re.MULTILINE), (
            "headers must not squeeze the names of classes"
        )


def test_a_pipe_that_knows_only_ascii_is_no_error():
    code = """
        from handmade_cells import *
        from benchmarks.report import result_table
        result_table([class_cell()]).print()
        result_table([curve_cell(DN2, {10: [(0.9, 0.8)] * 2})]).print()
    """
    done = start(code, PYTHONIOENCODING="ascii")
    out, errors = done.communicate()
    assert done.returncode == 0, errors
    assert "90.0 [89.2, 90.7]" in out
    assert "85.00 (0.00)" in out
    assert out.isascii()


def test_csv_and_json_hold_every_value_unrounded():
    table = result_table([class_cell(), class_cell(L2, value=1 / 3)])
    lines = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert len(lines) == 2 * 11
    assert [row["class_name"] for row in lines[:11]] == [*CIFAR10, "mean"]
    assert (lines[0]["key"], lines[0]["normalize"], lines[0]["n_train"]) == (
        DN2.key,
        "none",
        "5000",
    )
    assert float(lines[11]["rocauc"]) == 1 / 3
    loaded = json.loads(json.dumps(table.to_json()))
    assert loaded["records"] == table.records()
    assert loaded["records"][0]["difference"] == 0.9 - 0.939
    assert (loaded["records"][0]["rocauc_low"], loaded["records"][0]["rocauc_high"]) == (
        0.892,
        0.907,
    )
    assert loaded["title"] == table.title
