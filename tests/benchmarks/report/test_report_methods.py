"""Several methods side by side, each with its own published mean.

None is compared over other classes.
"""

from dataclasses import replace

import pytest
from handmade_cells import CIFAR10, DN2, L2, class_cell, line, text_of

from benchmarks.contracts import Experiment, Interval
from benchmarks.report import result_tables
from benchmarks.report.methods import MethodTable

OCSVM = Experiment("cifar10", "one_vs_rest", "ocsvm", "pixels", variant="oracle")
GEOM = Experiment(
    "cifar10",
    "one_vs_rest",
    "geom",
    "pixels",
    variant="dirichlet",
    preset="cpu",
    detector_params={"epochs": 1},
)


def methods(*cells):
    found = [table for table in result_tables(cells).values() if isinstance(table, MethodTable)]
    assert len(found) <= 1
    return found[0] if found else None


def test_one_method_has_no_table_of_methods():
    assert methods(class_cell(DN2), class_cell(L2)) is None


def test_each_method_stands_next_to_what_the_paper_prints_for_it():
    oracle = replace(
        class_cell(OCSVM, value=0.6, mean=Interval(0.625, 0.62, 0.63)), selection="oracle"
    )
    text = text_of(methods(class_cell(DN2), class_cell(L2), oracle))
    assert "ROCAUC of 2 methods on cifar10, one_vs_rest" in text
    assert line(text, "airplane")[1:] == ["90.0", "90.0", "60.0"]
    assert line(text, "truck")[1:] == ["90.9", "90.9", "60.9"]
    assert line(text, "mean")[1:] == ["90.5", "90.5", "62.5"]
    assert line(text, "paper's mean")[2:] == ["92.5", "92.5", "62.0"]
    assert line(text, "difference")[1:] == ["-2.0", "-2.0", "+0.5"]
    assert "selection=oracle" in text


def test_budgets_are_said():
    assert "preset=cpu, geom dirichlet" in text_of(methods(class_cell(DN2), class_cell(GEOM)))


def test_a_method_that_lacks_classes_has_no_mean_there():
    table = methods(class_cell(DN2), class_cell(GEOM, CIFAR10[:3]))
    assert table.mean.scores[0] is not None
    assert (table.mean.scores[1], table.paper[1]) == (None, None)
    assert line(text_of(table), "truck")[1:] == ["90.9", "-"]


def test_more_methods_than_fit_are_continued_and_none_is_lost():
    cells = [class_cell(DN2.with_params(k=k), value=0.8 + k / 100) for k in range(1, 7)] + [
        class_cell(GEOM, value=0.7)
    ]
    table = methods(*cells)
    assert [len(grid[0]) - 1 for grid in table.grids()] == [5, 2]
    assert [column.label for column in table.columns] == [
        *(f"dn2, k={k}" for k in range(1, 7)),
        "geom dirichlet, preset=cpu",
    ]


def test_records_say_the_method_and_hold_every_number():
    table = methods(class_cell(DN2), class_cell(GEOM))
    records = table.records()
    assert len(records) == 2 * (len(CIFAR10) + 1)
    assert {record["method"] for record in records} == {"dn2", "geom dirichlet"}
    assert len({tuple(record) for record in records}) == 1
    assert table.to_csv().count("\n") == len(records) + 1


def test_the_figure_has_a_bar_per_method_next_to_the_papers():
    axes = methods(class_cell(DN2), class_cell(GEOM, value=0.8)).figure().axes[0]
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([90.5, 90.5, 92.5, 86.0])
