"""What the sections of a report say, on results made by hand."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from benchmarks.report.document.measured import Measured, Score
from benchmarks.report.document.neighbour_section import find_copies, mean_without
from benchmarks.report.document.overview import overview_section
from benchmarks.report.document.paper_sections import PLACES, choose, paper_sections, published_mean
from benchmarks.report.document.parts import ClassBars, Entry, Grid, Lines
from benchmarks.report.document.score_section import histogram, roc_points
from benchmarks.report.document.settings_section import settings_section, speed_section
from benchmarks.result_store import NeighbourRows
from benchmarks.suites import SUITES

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
USUAL = {"encoder": "efficientnet_lite0", "normalize": "none", "k": 2, "index": "exact"}


def result(value=0.9, classes=CIFAR10, detector="dn2", variant="none", selection="none", **changed):
    scores = [Score(name, value, value - 0.01, value + 0.01) for name in classes]
    return Measured(
        "cifar10",
        "one_vs_rest",
        detector,
        variant,
        "none",
        {**(USUAL if detector == "dn2" else {}), **changed},
        (*scores, Score("mean", value, value - 0.005, value + 0.005, average_precision=0.99)),
        selection=selection,
        runs=("a" * 32,),
    )


def of_kind(section, kind):
    return [part for part in section.parts if isinstance(part, kind)]


def row_of(grid, first):
    (row,) = [row for row in grid.rows if row[0].text == first]
    return dict(zip(grid.header, row, strict=True))


def test_every_table_of_the_paper_has_a_section_and_a_suite():
    sections = list(paper_sections([]))
    assert [section.name for section in sections] == [place.name for place in PLACES]
    for place, section in zip(PLACES, sections, strict=True):
        assert section.commands == (f"python -m benchmarks run --suite {place.suite}",)
        assert place.suite in SUITES
        assert len(section.missing) == len(place.subjects)


def test_ours_stand_beside_the_published():
    section = next(iter(paper_sections([result(0.93), result(0.97, normalize="l2")])))
    runs, classes = of_kind(section, Grid)
    one = row_of(runs, "dn2")
    assert [one[n].text for n in ("ROCAUC", "published", "difference", "seeds", "selection")] == [
        "93.0 [92.5, 93.5]",
        "92.5",
        "+0.5",
        "1",
        "none",
    ]
    assert one["ROCAUC"].runs == ("a" * 32,)
    assert row_of(runs, "dn2 normalize=l2")["ROCAUC"].best
    assert not one["ROCAUC"].best
    assert row_of(runs, "geom dirichlet")["ROCAUC"].text == "not run"
    assert row_of(runs, "geom dirichlet")["published"].text == "86.0"
    assert row_of(classes, "airplane")["published dn2"].text == "93.9"
    assert row_of(classes, "mean")["dn2 normalize=l2"].best


def test_an_oracle_is_never_the_best():
    oracle = result(0.99, detector="ocsvm", variant="oracle", selection="oracle")
    section = next(iter(paper_sections([result(0.9), oracle])))
    runs, classes = of_kind(section, Grid)
    assert row_of(runs, "dn2")["ROCAUC"].best
    assert not row_of(runs, "ocsvm oracle")["ROCAUC"].best
    assert not row_of(classes, "mean")["ocsvm oracle (oracle)"].best


def test_a_published_mean_is_taken_over_the_classes_that_were_run():
    assert published_mean(result()) == 0.925
    some = result(classes=("airplane", "cat"), classes_="", k=2)
    some = replace(some, settings={**USUAL, "classes": "airplane,cat"})
    assert published_mean(some) == pytest.approx((0.939 + 0.855) / 2)
    assert published_mean(result(detector="mine:Class")) is None


def test_runs_side_by_side_are_chosen_without_their_scores():
    many = [result(0.5 + k / 100, normalize=n, k=k) for n in ("none", "l2") for k in range(1, 20)]
    for of in (many, [replace(one, scores=()) for one in many]):
        chosen = choose(of, 4)
        assert len(chosen) == 4
        assert ("none", 2) in {(one.settings["normalize"], one.settings["k"]) for one in chosen}
        assert ("l2", 2) in {(one.settings["normalize"], one.settings["k"]) for one in chosen}


def test_other_data_have_a_section_too():
    own = replace(result(), dataset="folder:/data/screws")
    *_, last = paper_sections([own])
    assert (last.name, len(of_kind(last, ClassBars))) == ("other", 1)


def test_curves_have_a_table_and_bands():
    scores = [Score("mean", 0.8 + x, x=x, standard_error=0.01, draws=3) for x in (0.0, 0.01, 0.1)]
    curve = replace(result(), protocol="contamination", scores=tuple(scores))
    section = next(s for s in paper_sections([curve]) if s.name == "figure-5-contamination")
    (lines,) = of_kind(section, Lines)
    assert lines.series["dn2"][0.01] == pytest.approx((0.81, 0.80, 0.82))
    assert lines.texts[0.01] == "1 %"
    assert row_of(of_kind(section, Grid)[1], "10 %")["dn2"].text == "90.00 (1.00)"


def test_the_matrix_counts_what_is_there_and_what_is_not():
    failed = {("cifar10", "one_vs_rest", "geom"): {"FAILED": 2}}
    section = overview_section(
        [result(), result(k=5)], failed, ["a line"], {"cifar10"}.__contains__
    )
    (grid,) = section.parts
    rows = {(row[0].text, row[1].text): row for row in grid.rows}
    fields = dict(zip(grid.header, rows["cifar10", "one_vs_rest"], strict=True))
    assert (fields["dn2"].text, fields["geom"].text, fields["goad"].text) == ("2", "2 failed", "-")
    assert fields["dn2_group"].text == ""
    assert section.missing == ("a line",)
    assert "Not on this disk: fashion_mnist" in grid.notes[1]
    assert "no finished run" in overview_section([], {}, [], None).text[0]


def test_a_setting_of_three_values_is_drawn():
    section = settings_section([result(k=k) for k in (1, 2, 5)] + [result(clean=0.5)])
    (lines,), (grid,) = of_kind(section, Lines), of_kind(section, Grid)
    assert lines.x_label == "neighbours k"
    assert sorted(lines.series["dn2"]) == [1, 2, 5]
    assert grid.header == ("method", "1", "2", "5")
    assert settings_section([result()]).missing


def test_speed_needs_two_runs_with_a_rate():
    fast = replace(result(0.9), images_per_second=1000.0, rate_of="with network")
    slow = replace(result(0.8, k=5), images_per_second=10.0, rate_of="scoring alone")
    (chart,) = speed_section([fast, slow, result()]).parts
    assert chart.points == {
        "dn2": (1000.0, 0.9, "with network"),
        "dn2 k=5": (10.0, 0.8, "scoring alone"),
    }
    assert speed_section([fast]).missing


@pytest.mark.parametrize("levels", [1, 5, 10_000])
def test_roc_points_lie_on_the_curve_and_enclose_its_area(levels):
    rng = np.random.default_rng(levels)
    anomalous = rng.random(4000) < 0.3
    scores = np.floor(levels * (rng.random(4000) + 0.5 * anomalous)).astype(np.float32)
    points = np.array(roc_points(anomalous, scores))
    assert len(points) <= 61
    assert points[0].tolist() == [0, 0]
    assert points[-1].tolist() == [1, 1]
    false, hits, _ = roc_curve(anomalous, scores, drop_intermediate=False)
    real = {(round(a, 4), round(b, 4)) for a, b in zip(false.tolist(), hits.tolist(), strict=True)}
    assert {tuple(point) for point in points.tolist()} <= real
    area = np.trapezoid(points[:, 1], points[:, 0])
    assert area == pytest.approx(roc_auc_score(anomalous, scores), abs=0.002)


def test_a_histogram_holds_all_images():
    rng = np.random.default_rng(0)
    edges, normal, anomalous = histogram(rng.random(500) < 0.2, rng.normal(size=500))
    assert sum(normal) == pytest.approx(1, abs=1e-3)
    assert sum(anomalous) == pytest.approx(1, abs=1e-3)
    assert edges == sorted(edges)
    assert histogram(np.array([True, False]), np.ones(2))[0][0] == 0.5


class Split:
    def __init__(self, rows, is_anomaly, scores):
        self.rows, self.is_anomaly, self.scores = rows, is_anomaly, scores


def test_copies_are_found_by_distance_and_left_out():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 8))
    features[7] = features[40] + 1e-4  # test row 7 copies training row 40
    tests, train = np.arange(30), np.arange(30, 60)
    squared = ((features[tests][:, None] - features[train][None]) ** 2).sum(-1)
    nearest = train[np.argsort(squared, axis=1)[:, :2]]
    anomalous = tests % 3 == 0
    half = np.flatnonzero(squared.min(1) >= 0)
    neighbours = [
        NeighbourRows("a", tests[half], nearest[half], anomalous, rng.random(30)),
        NeighbourRows("b", tests, nearest[:, ::-1], anomalous, rng.random(30)),
    ]
    copies, pairs = find_copies(neighbours, features, ratio=0.01)
    assert copies.tolist() == [7]
    assert pairs[0][:2] == (7, 40)
    assert pairs[0][2] == pytest.approx(8e-8)

    run = type("Run", (), {"splits": {"a": Split(tests, anomalous, neighbours[0].scores)}})
    whole, without = mean_without(run, copies)
    kept = tests != 7
    assert whole == pytest.approx(roc_auc_score(anomalous, run.splits["a"].scores))
    assert without == pytest.approx(roc_auc_score(anomalous[kept], run.splits["a"].scores[kept]))
    assert mean_without(run, tests[anomalous])[1] is None


def test_a_table_with_a_row_too_short_is_refused():
    with pytest.raises(ValueError, match=r"rows of \[1, 2\] fields"):
        Grid("a", "A", ("x", "y"), (False, False), ((Entry("1"),),))
