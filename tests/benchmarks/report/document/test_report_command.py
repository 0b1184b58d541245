"""The verb `report` on stores of runs with known scores."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from handmade import FINGERPRINT, PROVENANCE
from scored_runs import ANIMALS, CURVE, OCSVM, TOY, log_cell, resolved, scored

from benchmarks.__main__ import run_main
from benchmarks.commands.report import report as verb
from benchmarks.contracts import Workspace
from benchmarks.datasets import load_dataset
from benchmarks.inputs import feature_store
from benchmarks.report.document import html_page as page_module
from benchmarks.report.document import neighbour_section
from benchmarks.report.document.measured import read_rows
from benchmarks.tracking import Tracker

ROOT = Path(__file__).parents[4]
L2 = replace(TOY, normalize="l2")
ODD = replace(TOY, dataset="<script>'\"_%&#{}", detector_params={"k": 3, "clean": 0.0})
OTHER_DATA = resolved(replace(TOY, detector_params={"k": 9, "clean": 0.0}), data="e" * 64)
LOST = replace(TOY, detector_params={"k": 7, "clean": 0.0})
TRAINED = replace(TOY, detector="goad", input="pixels", detector_params={"width": 1}, preset="cpu")
OPEN = {"suite": "toy", "fingerprint": FINGERPRINT, "provenance": PROVENANCE}


@pytest.fixture(scope="module")
def filled(tmp_path_factory, make_store):
    """Make a store with runs of all kinds, and return its address and the runs' ids."""
    folder = tmp_path_factory.mktemp("reported")
    uri = make_store(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        tracker = Tracker(uri).connect()
        log = lambda results: log_cell(tracker, folder / "home", results)  # noqa: E731
        ids = {
            "old": log(scored(TOY, 0.1)),
            "none": log(scored(TOY, 1.0)),
            "l2": log(scored(L2, 2.0)),
            "ocsvm": log(scored(OCSVM, 1.5, provenance={**PROVENANCE, "dirty": True})),
            "other": log(scored(OTHER_DATA)),
            "curve": log(scored(CURVE, xs=(0.0, 0.1))),
            "odd": log(scored(ODD)),
            "validation": log(scored(replace(TOY, partition="validation"))),
            "lost": log(scored(LOST)),
        }
        for seed in (0, 1):
            ids[f"seed {seed}"] = log(scored(replace(TRAINED, seed=seed), 1.0 + seed, seed=seed))
        shutil.rmtree(next(folder.glob(f"mlruns/**/{ids['lost']}/artifacts")))
        tracker.start_cell(replace(TOY, detector="geom", input="pixels"), **OPEN, name="geom one")
        failed = tracker.start_cell(replace(L2, detector="geom", input="pixels"), **OPEN)
        tracker.end(failed, "FAILED", "no memory")
        tracker.start_summary("toy", PROVENANCE)
    return uri, ids


@pytest.fixture
def report(filled, tmp_path, monkeypatch, capsys):
    """Return a function that runs the verb on the filled store: exit code, stdout, stderr."""
    monkeypatch.setattr(page_module, "library", lambda: "")
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DN2_HOME", str(tmp_path / "home"))

    def run(*arguments, uri=filled[0]):
        code = run_main(["report", *arguments, *(["--tracking-uri", uri] if uri else [])])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_the_page_shows_what_is_there_and_what_is_not(report, filled, tmp_path):
    code, out, _ = report()
    page = Path("site/index.html").read_text("utf-8")
    assert (code, out) == (0, "site/index.html\n")
    ids = filled[1]
    for name in ("none", "l2", "ocsvm", "odd", "curve"):
        assert ids[name][:8] in page, name
    assert ids["old"][:8] not in page  # the newest run of a cell counts
    assert "1 run not finished" in page
    assert "1 run failed" in page
    assert "1 runs were scored on validation folds" in page
    assert f"({ids['lost']}) cannot be read" in page
    assert "&lt;script&gt;" in page
    assert "<script>'" not in page
    assert "other data under the name toy" in page
    assert "the data are not in" in page or "cannot be read" in page
    assert "c0ffee+" in page  # not committed


def test_seeds_become_one_result(report):
    assert report("--format", "csv", "--filter", "detector=goad")[0] == 0
    (one,) = read_rows([Path("site/results.csv")])
    assert (one.seeds, one.preset, one.command) == (
        2,
        "cpu",
        "python -m benchmarks run --dataset toy --detector goad --preset cpu --seeds 2",
    )
    assert one.mean.standard_error > 0


def test_the_file_of_results_holds_the_logged_numbers(report, filled):
    assert report("--format", "csv")[0] == 0
    found = {
        one.label: one for one in read_rows([Path("site/results.csv")]) if one.dataset == "toy"
    }
    tracker = Tracker(filled[0])
    for name, label in (("l2", "dn2 normalize=l2"), ("ocsvm", "ocsvm oracle nu=grid")):
        (run,) = tracker.find_runs(filled[1][name])
        record = tracker.read_record(run)
        key = label if label in found else "ocsvm oracle"
        assert found[key].mean.rocauc == pytest.approx(record["rocauc"], abs=1e-7)
        assert [found[key].score(name).rocauc for name in ANIMALS] == pytest.approx(
            [split["rocauc"] for split in record["splits"]], abs=1e-7
        )


@pytest.mark.slow
def test_every_format_is_written_and_logged_with_the_summary(report, filled):
    code, out, err = report("--format", "markdown,latex,csv,html", "--out", "there")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].endswith("more files in there")
    for place in (
        "index.html",
        "report.md",
        "results.csv",
        "tables/all.tex",
        "tables/matrix.md",
        "tables/toy-one_vs_rest-classes.csv",
        "figures/toy-one_vs_rest-bars.svg",
        "figures/toy-contamination-lines.pdf",
    ):
        assert (Path("there") / place).stat().st_size > 0, place
    client = Tracker(filled[0]).connect()._client
    (summary,) = client.search_runs(["1"], "tags.kind = 'summary'")
    logged = {one.path for one in client.list_artifacts(summary.info.run_id, "report")}
    assert logged >= {"report/index.html", "report/report.md", "report/tables", "report/figures"}


def test_the_run_of_mlflow_run_gets_the_page(report, filled, monkeypatch):
    tracker = Tracker(filled[0]).connect()
    run_id = tracker._client.create_run("1").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    assert report()[0] == 0
    run = tracker._client.get_run(run_id)
    assert run.data.tags["kind"] == "summary"
    assert [one.path for one in tracker._client.list_artifacts(run_id, "report")] == [
        "report/index.html"
    ]
    tracker._client.delete_run(run_id)


def test_an_empty_store_is_a_page_that_says_so(report, make_store, tmp_path):
    code, _, err = report(uri=make_store(tmp_path))
    page = Path("site/index.html").read_text("utf-8")
    assert code == 0
    assert "There is no finished run here." in page
    assert "python -m benchmarks run --dataset synthetic" in page
    assert "not logged: the store has no summary run" in err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--format", "docx"), 2, "unknown format 'docx'"),
        (("--format", ","), 2, "--format needs a name"),
        (("--filter", "k"), 2, "--filter takes NAME=VALUE"),
        (("--filter", "detector=goat"), 2, "no result has detector=goat: there are dn2, goad"),
        (("--filter", "depth=3"), 2, "no run has 'depth'"),
        (("--update", "README.md"), 2, "name them, --from results"),
        (("--from", "nowhere"), 3, "--from nowhere has no file of results"),
        (("--out", "file"), 1, "cannot write the report to file"),
    ],
)
def test_wrong_usage_is_one_line(report, arguments, code, says):
    Path("file").write_text("")
    found = report(*arguments)
    assert found[0] == code
    assert says in found[2]
    assert len(found[2].strip().splitlines()) == 1


def test_a_store_that_is_not_there_is_not_made(report, tmp_path):
    code, _, err = report(uri=f"sqlite:///{tmp_path}/none.db")
    assert (code, Path("none.db").exists(), Path("site").exists()) == (3, False, False)
    assert "there is no tracking store" in err


def test_the_report_of_this_repository_is_made_from_its_files(report):
    code, _, _ = report("--from", str(ROOT / "results"), "--format", "html,markdown", uri="")
    assert code == 0
    page = Path("site/index.html").read_text("utf-8")
    assert "91.3 [91.0, 91.6]" in page
    assert "Files of results hold no scores" in page


def test_pages_are_updated_from_files(report):
    page = Path("page.md")
    page.write_text("<!--table:neighbours-->\n<!--end-->\n")
    source = ("--from", str(ROOT / "results"), "--update", "page.md", "--format", "csv")
    assert report(*source, uri="")[0] == 0
    assert "| CIFAR-10, none | 91.0 | 91.3 |" in page.read_text()
    page.write_text("<!--table:neighbour-->\n<!--end-->\n")
    code, _, err = report(*source, uri="")
    assert (code, "no table 'neighbour'" in err) == (2, True)


@pytest.fixture
def with_pictures(tmp_path_factory, make_store, monkeypatch):
    """Make a run of generated images with neighbours, and store made-up features of them."""
    folder = tmp_path_factory.mktemp("pictures")
    uri, dataset = make_store(folder), load_dataset("synthetic", home=folder)
    workspace = Workspace(folder / "home")
    weights = {"weights": {"efficientnet_lite0": "a" * 64}, "preprocessing": "p", "engine": "e"}
    monkeypatch.setattr("benchmarks.inputs.input_identity", lambda *_: weights)
    store = feature_store(dataset, "efficientnet_lite0", workspace)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(len(dataset.labels), 1280)).astype(np.float32)
    tests, train = np.flatnonzero(~dataset.is_train), np.flatnonzero(dataset.is_train)
    features[tests[0]] = features[train[0]] + 1e-3
    store.fill(lambda rows: iter([features[rows.start : rows.stop]]))
    cell = replace(TOY, dataset="synthetic", resolved={**TOY.resolved, "data": dataset.fingerprint})
    squared = ((features[tests][:, None] - features[train][None]) ** 2).sum(-1)
    nearest = train[np.argsort(squared, axis=1)[:, :2]]
    results = [
        replace(
            result,
            rows=tests,
            n_test=len(tests),
            nearest=nearest,
            scores=result.scores[: len(tests)],
            is_anomaly=result.is_anomaly[: len(tests)],
        )
        for result in scored(cell)
    ]
    log_cell(Tracker(uri).connect(), folder / "cells", results)
    return uri, folder / "home", tests[0]


def test_errors_are_shown_beside_their_nearest_training_images(report, with_pictures):
    uri, home, copied = with_pictures
    assert report("--home", str(home), uri=uri)[0] == 0
    page = Path("site/index.html").read_text("utf-8")
    assert page.count("worst false alarms") == len(ANIMALS)
    assert page.count("data:image/webp;base64,") >= len(ANIMALS) * 2 * 3 * 3
    assert f"row {copied}" in page
    assert "1 of " in page
    assert "have a near-duplicate in the training set" in page
    shutil.rmtree(home / "features")
    assert report("--home", str(home), uri=uri)[0] == 0
    page = Path("site/index.html").read_text("utf-8")
    assert "its features are not in the feature store" in page
    assert "data:image/webp" not in page


def test_images_that_cannot_be_read_are_a_line(report, with_pictures, monkeypatch):
    def unreadable(*_):
        raise OSError("cut short")

    monkeypatch.setattr(neighbour_section, "_picture", unreadable)
    uri, home, _ = with_pictures
    assert report("--home", str(home), uri=uri)[0] == 0
    page = Path("site/index.html").read_text("utf-8")
    assert page.count("the images cannot be read (cut short)") == 2


def test_the_entry_point_of_mlproject_names_options_of_the_verb():

    entry = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]["report"]
    options = {option for one in verb.params for option in one.opts}
    for name in entry["parameters"]:
        assert f"--{name} {{{name}}}" in entry["command"]
        assert f"--{name}" in options
