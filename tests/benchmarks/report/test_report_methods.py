"""Several methods side by side, each with its own published mean.

None is compared over other classes.
"""

from dataclasses import replace

import numpy as np
import pytest
from handmade_cells import CIFAR10, DN2, L2, class_cell, line, text_of
from scored_runs import OCSVM as OCSVM_TOY
from scored_runs import TOY, scored

from benchmarks.contracts import Cell, Experiment, Interval
from benchmarks.metrics import resample
from benchmarks.paired import Difference
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


def methods(*cells, known=None):
    tables = result_tables(cells, resampled=(known or {}).get)
    found = [table for table in tables.values() if isinstance(table, MethodTable)]
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
    ours, ocsvm = ["90.0", "[89.2,", "90.7]"], ["60.0", "[59.2,", "60.7]"]
    assert line(text, "airplane")[1:] == [*ours, *ours, *ocsvm]
    assert line(text, "truck")[-3:] == ["60.9", "[60.1,", "61.6]"]
    assert line(text, "mean")[-3:] == ["62.5", "[62.0,", "63.0]"]
    assert line(text, "paper's mean")[2:] == ["92.5", "92.5", "62.0"]
    assert line(text, "difference")[1:] == ["-2.0", "-2.0", "+0.5"]
    assert "selection=oracle" in text


def test_budgets_are_said():
    assert "preset=cpu, geom dirichlet" in text_of(methods(class_cell(DN2), class_cell(GEOM)))


def test_a_method_that_lacks_classes_has_no_mean_there():
    table = methods(class_cell(DN2), class_cell(GEOM, CIFAR10[:3]))
    assert table.mean.scores[0] is not None
    assert (table.mean.scores[1], table.paper[1]) == (None, None)
    assert line(text_of(table), "truck")[1:] == ["90.9", "[90.1,", "91.6]", "-"]


def test_more_methods_than_fit_are_continued_and_none_is_lost():
    cells = [class_cell(DN2.with_params(k=k), value=0.8 + k / 100) for k in range(1, 7)] + [
        class_cell(GEOM, value=0.7)
    ]
    table = methods(*cells)
    assert [len(grid[0]) - 1 for grid in table.grids()] == [4, 3]
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


def with_scores(experiment, shift, seed=1, rows=None):
    """Make a cell, and its mean under many weightings of the test images."""
    results = scored(experiment, shift, seed=seed, rows=rows)
    found = resample([(one.rows, one.is_anomaly, one.scores) for one in results])
    return Cell(experiment, "run", "none", tuple(results), found.mean), found


GOOD = replace(TOY, normalize="l2")


def test_means_that_are_really_below_the_best_are_marked():
    cells = [
        with_scores(GOOD, 2.0),
        with_scores(TOY, 1.98, seed=2),
        with_scores(OCSVM_TOY, 1.0, seed=3),
    ]
    known = {cell.experiment.key: found for cell, found in cells}
    table = methods(*(cell for cell, _ in cells), known=known)
    assert table.worse == {2}
    assert line(text_of(table), "mean")[-1] == "*"
    assert line(text_of(table), "mean").count("*") == 1
    note = "*: the mean is really below the best one, that of dn2, normalize=none (paired bootstrap"
    assert note in " ".join(text_of(table).split())
    alike = methods(cells[0][0], replace(cells[1][0], experiment=GEOM_TOY), known=known)
    assert (alike.worse, "really below" in text_of(alike)) == (frozenset(), False)
    known[GEOM_TOY.key] = cells[1][1]
    alike = methods(cells[0][0], replace(cells[1][0], experiment=GEOM_TOY), known=known)
    assert "No mean is really below the best one" in " ".join(text_of(alike).split())


def test_which_is_the_best_was_seen_in_the_same_numbers_so_all_pairs_are_corrected(monkeypatch):
    cells = [
        with_scores(one, 2.0 - number / 10) for number, one in enumerate((GOOD, TOY, OCSVM_TOY))
    ]
    known = {cell.experiment.key: found for cell, found in cells}
    p = {frozenset(pair): 0.02 if pair[0] == 0 else 0.9 for pair in ((0, 1), (0, 2), (1, 2))}
    number = {id(found): n for n, (_, found) in enumerate(cells)}
    monkeypatch.setattr("benchmarks.report.methods._of_column", lambda column, _: known[column.key])
    monkeypatch.setattr(
        "benchmarks.report.methods.paired_mean",
        lambda a, b: Difference(0.0, 0.0, 0.0, p[frozenset((number[id(a)], number[id(b)]))]),
    )
    table = methods(*(cell for cell, _ in cells), known=known)
    assert table.worse == frozenset()  # 3 * 0.02


GEOM_TOY = replace(GEOM, dataset="toy")


def test_methods_tested_on_other_images_are_not_marked():
    one, other = with_scores(TOY, 2.0), with_scores(OCSVM_TOY, 0.5, rows=np.arange(150))
    known = {cell.experiment.key: found for cell, found in (one, other)}
    assert methods(one[0], other[0], known=known).worse == frozenset()


def test_seeds_are_averaged_before_they_are_tested():
    one = with_scores(TOY, 2.0)
    seeds = [with_scores(replace(GEOM_TOY, seed=seed), 1.0, seed=seed) for seed in (1, 2)]
    known = {cell.experiment.key: found for cell, found in (one, *seeds)}
    table = methods(one[0], *(cell for cell, _ in seeds), known=known)
    assert table.columns[1].label.endswith("2 seeds")
    assert table.worse == {1}
    del known[seeds[1][0].experiment.key]
    table = methods(one[0], *(cell for cell, _ in seeds), known=known)
    assert table.worse == frozenset()
