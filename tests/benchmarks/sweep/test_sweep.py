"""A study in this process: what is computed, looked up, logged and refused."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from batches import run_session
from mlflow_laws import client
from small_studies import LITE, question_of, run_study, small

import benchmarks.evaluate
import benchmarks.experiments
from benchmarks.contracts import OutsideError, SplitError, UsageError
from benchmarks.datasets import load_dataset
from benchmarks.experiments import make_experiments
from benchmarks.inputs import Rows
from benchmarks.session import Session
from benchmarks.sweep import check_storage, check_study_name, choose_sampler
from benchmarks.sweep.studies import make_sampler, point_text
from benchmarks.tracking.views import TAG, names_of_views, unpack
from dn2.detector import DN2


def counted(monkeypatch, owner, name):
    original, calls = getattr(owner, name), []

    def wrapped(*args, **kwargs):
        calls.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)
    return calls


def runs_of(tracker, **tags):
    with tracker._asking("look") as client:
        return [
            run
            for run in client.search_runs([tracker.experiment_id])
            if tags.items() <= run.data.tags.items()
        ]


def artifact(tracker, run_id, name):
    with tracker._asking("look") as client:
        return Path(client.download_artifacts(run_id, name)).read_text()


def test_a_grid_is_visited_once_and_all_k_cost_one_search(workspace, tracker, monkeypatch):
    searches = counted(monkeypatch, DN2, "score_path")
    plans = counted(monkeypatch, benchmarks.experiments, "same_fit")
    question = question_of()
    found, _ = run_study(question, workspace, tracker)
    # Normalisations x classes x folds, and the winner's classes; not three times as many.
    assert len(searches) == 2 * 4 * 5 + 4
    assert [len(cells) for (cells,) in plans] == [6, 1]  # the whole grid at once, then the winner
    assert len(found.table.trials) == 6
    assert {point_text(trial.params) for trial in found.table.trials} == {
        point_text(params) for params in question.grid()
    }

    trials = runs_of(tracker, kind="cell", selection="none")
    numbers = {
        one.info.run_id: int(one.data.tags["study/toy"].removeprefix("validation, trial "))
        for one in trials
    }
    assert sorted(numbers.values()) == list(range(6))
    for one in trials:
        assert "rocauc" not in one.data.metrics
        trial = found.table.trials[numbers[one.info.run_id]]
        assert one.data.params["k"] == str(trial.params["k"])
        assert one.data.metrics["rocauc_validation"] == pytest.approx(trial.value)
        assert not [name for name in one.data.metrics if "_number" in name]

    (winner,) = runs_of(tracker, kind="cell", selection="validation")
    assert winner.data.tags["study/toy"] == f"validation, winner, trial {found.best.number}"
    assert winner.data.params["partition"] == "test"
    assert winner.data.metrics["rocauc"] == pytest.approx(found.record()["best"]["rocauc"])
    assert found.record()["best"]["rocauc_validation"] == max(
        trial.value for trial in found.table.trials
    )
    assert not list(workspace.home.glob("cells/*/*.result"))

    (summary,) = runs_of(tracker, kind="summary")
    assert (
        summary.data.tags.items()
        >= {"study": "toy", "objective": "validation", "selection": "validation"}.items()
    )
    lines = list(csv.DictReader(artifact(tracker, summary.info.run_id, "trials.csv").splitlines()))
    assert {line["run_id"] for line in lines} == {one.info.run_id for one in trials}
    assert json.loads(artifact(tracker, summary.info.run_id, "best.json"))["params"] == dict(
        found.best.params
    )
    with tracker._asking("look") as client:
        names = {file.path for file in client.list_artifacts(summary.info.run_id)}
        by_k = client.get_metric_history(summary.info.run_id, f"rocauc_validation_by_k/{LITE}/l2")
    assert {"history.png", "importances.png", "contour.png", "by_k.png"} <= names
    assert [step.step for step in by_k] == [1, 2, 5]


def test_what_is_finished_is_looked_up(workspace, tracker, monkeypatch):
    first, _ = run_study(small(), workspace, tracker)
    computed = counted(monkeypatch, benchmarks.evaluate.Worker, "work")
    again, _ = run_study(small(), workspace, tracker)
    assert again.record() == first.record()
    other, _ = run_study(small(), workspace, tracker, study="another")
    assert not computed
    assert {trial.run_id for trial in other.table.trials} == {
        trial.run_id for trial in first.table.trials
    }
    for one in runs_of(tracker, kind="cell"):
        assert one.data.tags["study/toy"] == one.data.tags["study/another"]


def test_a_cell_of_two_studies_has_the_marks_of_both_and_each_has_a_view(workspace, tracker):
    run_study(small(normalize=("l2", "none"), k_values=(1,)), workspace, tracker, study="one")
    run_study(small(normalize=("none", "power"), k_values=(1,)), workspace, tracker, study="other")
    trials = runs_of(tracker, kind="cell", selection="none")
    marks = {
        one.data.params["normalize"]: {name for name in one.data.tags if name.startswith("study/")}
        for one in trials
    }
    assert marks == {
        "l2": {"study/one"},
        "none": {"study/one", "study/other"},
        "power": {"study/other"},
    }
    tags = client(tracker).get_experiment(tracker.experiment_id).tags
    names = names_of_views(tags).values()
    assert {"study one", "study other"} <= set(names)
    (found,) = [text for tag, text in tags.items() if tag.startswith(f"{TAG}one-study-")]
    state = unpack(json.loads(found)["state"])
    assert state["compareRunCharts"][0]["selectedParams"] == ["normalize"]
    assert len(client(tracker).search_runs([tracker.experiment_id], state["searchFilter"])) == 2


def test_a_study_is_continued_to_more_trials(workspace, tracker):
    few, _ = run_study(small(), workspace, tracker, trials=1)
    assert len(few.table.trials) == 1
    more, _ = run_study(small(), workspace, tracker, trials=2)
    assert more.table.trials[:1] == few.table.trials
    whole, _ = run_study(small(), workspace, tracker, trials=50)
    assert len(whole.table.trials) == 3


def test_oracle_trials_are_plain_cells_and_say_what_they_are(workspace, tracker, monkeypatch):
    cells = make_experiments(
        datasets=["synthetic"], params={"k": [1, 2, 5]}, classes=("disc", "square")
    )
    plain = run_session(Session(workspace, tracker), cells).cells
    computed = counted(monkeypatch, benchmarks.evaluate.Worker, "work")
    found, _ = run_study(small(objective="oracle"), workspace, tracker)
    assert not computed
    assert {trial.run_id for trial in found.table.trials} == {cell.run_id for cell in plain}
    assert all(
        one.data.tags["study/toy"].startswith("oracle, trial ")
        for one in runs_of(tracker, kind="cell")
    )
    (summary,) = runs_of(tracker, kind="summary", suite="toy")
    assert summary.data.tags["selection"] == "oracle"
    assert {line["selection"] for line in found.table.records()} == {"oracle"}
    assert found.record()["best"]["rocauc_validation"] is None
    assert found.record()["best"]["rocauc"] == max(trial.value for trial in found.table.trials)


def test_no_test_row_reaches_a_validation_objective(workspace, tracker, monkeypatch):
    """Test rows get NaN as features and shuffled labels, yet every trial keeps its value."""
    clean, _ = run_study(small(), workspace, tracker)
    dataset = load_dataset("synthetic", home=workspace.home)
    load = benchmarks.evaluate.load_input

    def poisoned(*args):
        X = load(*args)
        (part,) = (np.array(part[np.arange(len(X))]) for part in X.parts)
        part[~dataset.is_train] = np.nan
        return Rows([part], X.normalize, X.names)

    labels = np.where(
        dataset.is_train, dataset.labels, np.random.default_rng(5).permutation(dataset.labels)
    )
    monkeypatch.setattr(benchmarks.evaluate, "load_input", poisoned)
    monkeypatch.setattr(
        benchmarks.evaluate, "load_dataset", lambda *_, **__: replace(dataset, labels=labels)
    )
    blind, said = run_study(small(), workspace, tracker, study="blind", force=True)
    assert [(trial.params, trial.value) for trial in blind.table.trials] == [
        (trial.params, trial.value) for trial in clean.table.trials
    ]
    assert blind.winner is None  # the winner is tested on those rows, and fails
    assert any("failed" in line for line in said)


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp"])
def test_other_samplers_run_each_point_of_a_grid_at_most_once(workspace, tracker, sampler):
    for asked, made in ((2, 2), (4, 3)):  # three points
        found, _ = run_study(small(), workspace, tracker, sampler=sampler, trials=asked)
        assert len({point_text(trial.params) for trial in found.table.trials}) == made
        assert len(found.table.trials) == made
        assert len(runs_of(tracker, kind="cell", selection="none")) == made


def test_a_failed_cell_is_reported_with_its_reason_and_run_again_next_time(
    workspace, tracker, monkeypatch
):
    with monkeypatch.context() as patch:
        fit = DN2.fit

        def failing(self, X, **watched):
            if self.clean:
                raise ValueError("broken on purpose")
            return fit(self, X, **watched)

        patch.setattr(DN2, "fit", failing)
        found, _ = run_study(small(k_values=(1,), clean=(0.0, 0.1)), workspace, tracker)
    assert [
        trial.value is None
        for trial in sorted(found.table.trials, key=lambda one: one.params["clean"])
    ] == [False, True]
    assert "broken on purpose" in next(
        trial.error for trial in found.table.trials if trial.value is None
    )
    assert len(found.outcome.failures) == 1
    assert isinstance(next(iter(found.outcome.failures.values())), SplitError)
    healed, said = run_study(small(k_values=(1,), clean=(0.0, 0.1)), workspace, tracker)
    assert not healed.outcome.failures
    assert len([trial for trial in healed.table.trials if trial.value is not None]) == 2
    assert any("run again" in line for line in said)


def test_one_trial_has_no_figure_that_needs_more(workspace, tracker):
    found, _ = run_study(small(k_values=(2,)), workspace, tracker)
    assert len(found.table.trials) == 1
    assert found.best.params["k"] == 2
    with tracker._asking("look") as client:
        files = {file.path for file in client.list_artifacts(found.outcome.summary_run_id)}
    assert {"best.json", "trials.csv"} <= files
    assert not {"history.png", "importances.png", "contour.png"} & files


@pytest.mark.parametrize(
    ("other", "differing"),
    [
        (small(k_values=(1, 2)), "space of k"),
        (small(objective="oracle"), "objective"),
        (replace(small(), classes=("disc", "cross")), "classes"),
        (replace(small(), seed=3), "seed"),
        (replace(small(), protocol="leave_one_class_out"), "protocol"),
    ],
)
def test_a_study_that_asks_something_else_is_refused(workspace, tracker, other, differing):
    run_study(small(), workspace, tracker, trials=1)
    with pytest.raises(UsageError, match=f"the study 'toy' has another {differing}.*--study"):
        run_study(other, workspace, tracker)


def test_storages_that_cannot_be_reached_are_one_line(workspace, tracker):
    for storage in (f"sqlite:///{workspace.home}", "postgresql://nobody@127.0.0.1:9/none"):
        with pytest.raises(OutsideError, match="cannot use the study in") as error:
            run_study(small(), workspace, tracker, storage=storage)
        assert "\n" not in str(error.value)
    assert not runs_of(tracker)
    with pytest.raises(UsageError, match="sqlite:///"):
        check_storage("mysql://x")
    for name in ("", "../x", ".x", "a b"):
        with pytest.raises(UsageError, match="study's name"):
            check_study_name(name)


def test_samplers_and_trials_that_cannot_be_are_refused():
    assert choose_sampler("", small(), None) == ("brute", 3)
    assert choose_sampler("", small(), 2) == ("brute", 2)
    trained = question_of(detector="geom", encoders=())
    assert choose_sampler("", trained, None)[0] == "tpe"
    with pytest.raises(
        UsageError, match="brute takes a finite grid, and learning_rate, weight_decay of 'geom'"
    ):
        choose_sampler("brute", trained, None)
    for trials in (0, -1):
        with pytest.raises(UsageError, match="--trials must be at least 1"):
            choose_sampler("tpe", small(), trials)
    with pytest.raises(UsageError, match="sampler"):
        choose_sampler("grid", small(), None)


def test_equal_samplers_of_two_processes_propose_different_points():
    drawn = []
    for opened in (0, 0, 1):
        study = optuna.create_study(
            sampler=make_sampler("random", question_of(detector="geom"))(opened)
        )
        drawn.append([study.ask().suggest_float("x", 0, 1) for _ in range(3)])
    assert drawn[0] == drawn[1] != drawn[2]
