"""A line under the table calls out a detector that learned nothing."""

from dataclasses import replace

import numpy as np
import pytest
from handmade_cells import DN2, L2, class_cell, curve_cell, text_of

from baselines.geom import GEOM
from baselines.goad import GOAD
from baselines.mhrot import HEADS, MHRot, head_labels
from benchmarks.contracts import Experiment, Interval
from benchmarks.detectors import Method, detector_params
from benchmarks.metrics import split_metrics
from benchmarks.report import result_table, result_tables

CLASSES = ("cat", "dog", "frog", "ship", "bird")


def cell_of(detector="dn2", variant="", metrics=(), mean=None, **params):
    """Make a run in which the n-th class has the n-th metrics on top of the usual ones."""
    experiment = (
        DN2
        if detector == "dn2"
        else Experiment(
            "cifar10",
            "one_vs_rest",
            detector,
            "pixels",
            variant=variant,
            preset="cpu",
            detector_params=detector_params(detector, variant, params, "cpu"),
        )
    )
    cell = class_cell(experiment, CLASSES)
    results = [
        replace(result, metrics={**result.metrics, **more})
        for result, more in zip(cell.results, [*metrics, *[{}] * 5], strict=False)
    ]
    return replace(cell, results=tuple(results), mean=mean or cell.mean)


def warned(*cells):
    return [note for note in result_table(cells).notes if note.startswith("Beware: ")]


def right(accuracy):
    return {"accuracy_normal": accuracy, "accuracy_anomaly": accuracy}


def below(high):
    return {"rocauc": 0.4, "rocauc_low": 0.3, "rocauc_high": high}


def test_a_detector_that_works_gets_no_warning():
    assert warned(cell_of()) == []
    assert warned(cell_of("geom", metrics=[right(0.9)] * 5)) == []


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("few", [2, 3, 50])
def test_equal_scores_are_told_by_the_interval_alone(seed, few):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(100) < few)
    constant = split_metrics(labels, np.full(100, rng.normal(), np.float32))
    (note,) = warned(cell_of(metrics=[{}, constant]))
    assert "dn2 gives all test images the same score in dog: a ROCAUC of 50" in note
    almost = np.zeros(100)
    almost[[np.flatnonzero(labels)[0], np.flatnonzero(~labels)[0]]] = 1.0, 1.0
    if few == 50:
        assert split_metrics(labels, almost)["rocauc"] == 0.5
    assert warned(cell_of(metrics=[{}, split_metrics(labels, almost)])) == []


def test_equal_scores_are_seen_in_results_that_were_stored_without_scores():
    constant = {"rocauc": 0.5, "rocauc_low": 0.5, "rocauc_high": 0.5}
    cell = cell_of(metrics=[constant] * 5)
    empty = np.empty(0)
    stored = replace(cell, results=tuple(replace(one, scores=empty) for one in cell.results))
    (note,) = warned(stored)
    assert "in all 5 classes" in note


def test_a_rocauc_below_one_half_is_named_if_its_interval_is():
    (note,) = warned(cell_of(metrics=[below(0.49), {}, below(0.51), below(0.45)]))
    assert "significantly below 50, which is chance, for cat and ship: anomalies score" in note
    many = [below(0.4)] * 4
    (note,) = warned(cell_of(metrics=many, mean=Interval(0.45, 0.4, 0.499)))
    assert "for the mean and cat, dog, frog and 1 more: " in note
    (note,) = warned(cell_of(mean=Interval(0.45, 0.4, 0.499)))
    assert "for the mean: " in note


def test_an_accuracy_at_chance_is_named_with_the_margin_of_its_images():
    # 10,000 test images, 90 % anomalies: the standard error at 1/72 is at most 0.37 percent.
    (note,) = warned(cell_of("geom", metrics=[right(0.0205), right(0.0217), *[right(0.9)] * 3]))
    assert "the accuracy of geom on normal images cannot be told from guessing" in note
    assert "(1.4 %) in cat, so " in note
    text = text_of(result_table([cell_of("geom", metrics=[right(0.5)] * 5)]))
    assert "acc (accuracy): percentage of an image's transformations" in text
    assert "guessing recognises 1.4 %." in text.replace("\n", " ")
    assert "guessing" not in text_of(result_table([cell_of()]))


def test_runs_side_by_side_and_seeds_are_told_apart():
    bad = cell_of(metrics=[below(0.4)])
    other = replace(bad, experiment=L2)
    labels = [note.partition(" is ")[0] for note in warned(cell_of(), other)]
    assert labels == ["Beware: the ROCAUC of dn2 (normalize=l2)"]
    seeds = [cell_of("geom", metrics=[right(0.9 - 0.89 * seed)] * 5) for seed in (0, 1)]
    seeds = [replace(c, experiment=replace(c.experiment, seed=s)) for s, c in enumerate(seeds)]
    (note,) = warned(*seeds)
    assert note.startswith("Beware: the accuracy of geom (seed 1) on")


def test_the_warning_is_the_first_line_under_the_table_and_under_that_of_all_methods():
    bad = cell_of(metrics=[below(0.4)])
    assert result_table([bad], {"one_vs_rest": "one"}).notes[0] == warned(bad)[0]
    tables = result_tables([bad, cell_of("geom")])
    (joint,) = [table for name, table in tables.items() if name.startswith("methods")]
    assert warned(bad)[0] in joint.notes


def test_curves_are_warned_of_too():
    cell = curve_cell(DN2, {0.0: [[0.9, 0.9]], 0.1: [[0.9, 0.9]]})
    assert warned(cell) == []
    first, *rest = cell.results
    bad = replace(first, metrics={**first.metrics, "rocauc_high": 0.4})
    (note,) = warned(replace(cell, results=(bad, *rest)))
    assert f"for {first.split}: " in note


def test_the_chance_of_a_detector_is_one_over_the_number_of_its_transformations():
    import torch

    assert 1 / GEOM().chance == pytest.approx(len(GEOM()._sources(32)))
    rotation = GEOM(transformations="rotation")
    assert 1 / rotation.chance == pytest.approx(len(rotation._sources(32)))
    assert 1 / GOAD().chance == pytest.approx(len(GOAD()._sources(32)))
    labels = head_labels(torch.arange(len(MHRot()._sources(32))))
    constant = [float((head == 0).double().mean()) for head in labels]
    assert MHRot().chance == pytest.approx(np.mean(constant))
    assert len(HEADS) == len(labels)
    assert Method.of(DN2).chance is None


def test_intervals_of_few_test_images_are_called_too_narrow():
    # 62 test images: 5 of them are normal, as of WBC's smallest class.
    few = replace(
        cell_of(),
        results=tuple(
            replace(one, n_test=62, metrics={**one.metrics, "prevalence": prevalence})
            for one, prevalence in zip(
                cell_of().results, [0.5, 57 / 62, 0.5, 0.5, 0.5], strict=True
            )
        ),
    )
    (note,) = warned(few)
    assert "a 95 % interval is too narrow" in note
    assert note.endswith("Here dog has 5.")
    enough = replace(few, results=few.results[:1] + few.results[2:])
    assert warned(enough) == []
