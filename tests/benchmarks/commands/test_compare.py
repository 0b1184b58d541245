"""The verb `compare` on a store of runs with known scores, and on runs that were really made."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from handmade import FINGERPRINT, PROVENANCE
from scored_runs import OCSVM, TOY, log_cell, resolved, scored

from benchmarks.__main__ import run_main
from benchmarks.tracking import Tracker

ROOT = Path(__file__).parents[3]
L2, POWER = replace(TOY, normalize="l2"), replace(TOY, normalize="power")
ODD = replace(TOY, dataset="[bold]<script>'\"")
LOST = replace(TOY, normalize="l2", detector_params={"k": 7, "clean": 0.0})
OPEN = {"suite": "toy", "fingerprint": FINGERPRINT, "provenance": PROVENANCE}


@pytest.fixture(scope="module")
def filled(tmp_path_factory, make_store):
    """Make a store with runs of all kinds, and return its address and the runs' ids."""
    folder = tmp_path_factory.mktemp("compared")
    uri = make_store(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        tracker = Tracker(uri).connect()
        log = lambda *results: log_cell(tracker, folder / "home", *results)  # noqa: E731
        ids = {
            "old l2": log(scored(L2, 1.0)),
            "l2": log(scored(L2, 2.0)),
            "none": log(scored(TOY, 1.0, seed=2)),
            "ocsvm": log(scored(OCSVM, 1.98, seed=3, provenance={**PROVENANCE, "dirty": True})),
            "moved": log(scored(resolved(TOY, data="e" * 64))),
            "odd": log(scored(ODD)),
            "odd l2": log(scored(replace(ODD, normalize="l2"), 1.2)),
            "tuning": log(scored(replace(TOY, partition="validation"))),
            "lost": log(scored(LOST)),
            "running": tracker.start_cell(POWER, **OPEN),
            "failed": tracker.start_cell(replace(POWER, seed=1), **OPEN),
            "summary": tracker.start_summary("toy", PROVENANCE),
        }
        tracker.end(ids["failed"], "FAILED", "it diverged")
        files = Path(tracker.find_runs(ids["lost"])[0].folder)
        (files / "scores.parquet").unlink()
    return uri, ids


@pytest.fixture
def compare(filled, monkeypatch, capfd):
    """``compare(*arguments)`` returns the exit code, stdout and stderr without progress."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def run(*arguments, uri=filled[0]):
        capfd.readouterr()
        code = run_main(["compare", "--tracking-uri", uri, *arguments])
        out, err = capfd.readouterr()
        lines = [line for line in err.splitlines() if not line.endswith("...")]
        return code, out, "\n".join(lines)

    return run


def of_ids(found):
    return [run["run_id"] for run in json.loads(found)["runs"]]


def test_two_runs_by_id(compare, filled):
    _, ids = filled
    code, out, err = compare(ids["l2"], ids["none"])
    assert (code, err) == (0, "")
    assert "2 runs on toy, one_vs_rest" in out
    assert ["normalize", "l2", "none"] in [line.split() for line in out.splitlines()]
    sentence = "dn2 normalize=l2 is better than dn2 normalize=none by"
    assert sentence in " ".join(out.split())


def test_json_has_a_line_for_each_class_and_one_for_the_mean(compare, filled):
    _, ids = filled
    code, out, _ = compare(ids["l2"], ids["none"], "--json")
    found = json.loads(out)
    assert (code, of_ids(out)) == (0, [ids["l2"], ids["none"]])
    assert [one["class_name"] for one in found["differences"]] == ["cat", "dog", "owl", None]
    for one in found["differences"]:
        assert (one["a"], one["b"]) == (ids["l2"], ids["none"])
        assert one["low"] <= one["difference"] <= one["high"]
        assert 0 <= one["p"] <= one["p_holm"] <= 1


def test_a_name_and_filters_stand_for_the_newest_run_of_each_cell(compare, filled):
    _, ids = filled
    name = "detector=dn2,normalize=l2,k=2,dataset=toy"
    _, out, _ = compare(name, "detector=ocsvm", "--json")
    assert of_ids(out) == [ids["l2"], ids["ocsvm"]]
    _, out, _ = compare("dataset=toy,clean=0.0,k=2,encoder=efficientnet_lite0", "--json")
    assert of_ids(out) == [ids["l2"], ids["none"]]
    (called,) = {run.name for run in Tracker(filled[0]).find_runs(ids["ocsvm"])}
    _, out, _ = compare(ids["l2"], called, "--json")
    assert of_ids(out) == [ids["l2"], ids["ocsvm"]]
    _, out, _ = compare(ids["l2"], f" {ids['none']}", ids["l2"], "--json")
    assert of_ids(out) == [ids["l2"], ids["none"]]


def test_what_a_comparison_prints_can_be_typed_again(compare, filled):
    _, ids = filled
    _, out, _ = compare("dn2 normalize=l2 dataset=toy k=2", ids["none"][:8], "--json")
    assert of_ids(out) == [ids["l2"], ids["none"]]
    _, out, _ = compare(f"dn2 normalize=l2 {ids['l2'][:8]}", "ocsvm oracle seed=0", "--json")
    assert of_ids(out) == [ids["l2"], ids["ocsvm"]]
    assert compare("dn2 normalize=l3", ids["l2"])[2] == (
        "error: no finished run has normalize=l3. Did you mean l2? There are: l2, none."
    )


def test_what_cannot_be_compared_is_kept_apart(compare, filled):
    _, ids = filled
    code, out, _ = compare(ids["l2"], ids["none"], ids["moved"])
    assert code == 0
    assert "Kept apart" in out
    assert "other data under the name toy, dddddddd and eeeeeeee" in " ".join(out.split())


def test_odd_names_stay_text(compare, filled):
    _, ids = filled
    code, out, err = compare(ids["odd"], ids["odd l2"])
    assert (code, err) == (0, "")
    assert "2 runs on [bold]<script>'\", one_vs_rest" in out
    code, out, err = compare(f"dataset={ODD.dataset}", "--json")
    assert sorted(of_ids(out)) == sorted([ids["odd"], ids["odd l2"]])


def test_a_worse_run_fails_the_command_on_demand(compare, filled):
    _, ids = filled
    code, out, err = compare(ids["l2"], ids["none"], "--fail-if-worse", "0.005")
    assert code == 1
    assert "dn2 normalize=l2 is better" in out
    assert err.startswith("error: dn2 normalize=none is worse than dn2 normalize=l2 by ")
    assert compare(ids["none"], ids["l2"], "--fail-if-worse", "0.005")[0] == 0
    assert compare(ids["l2"], ids["none"], "--fail-if-worse", "0.9")[0] == 0
    assert compare(ids["l2"], ids["ocsvm"], "--fail-if-worse", "0")[0] == 0  # not real
    code, _, err = compare(ids["none"], ids["l2"], ids["moved"], "--fail-if-worse", "0.005")
    assert code == 1
    assert "was compared with no other, see above" in err
    code, _, err = compare("dataset=toy,normalize=l2", ids["none"], "--fail-if-worse", "0.9")
    assert code == 1
    assert err.endswith("error: 1 run(s) had no scores, see above")


def test_a_filter_leaves_out_a_run_whose_files_are_lost(compare, filled):
    code, out, err = compare("dataset=toy,normalize=l2", "normalize=none,dataset=toy", "--json")
    assert code == 0
    assert filled[1]["lost"] not in of_ids(out)
    assert err.startswith("left out: the scores of run ")


@pytest.mark.parametrize(
    ("asked", "code", "message"),
    [
        ([], 2, "compare needs runs: name two by id or name, or give a filter"),
        (["{l2}"], 2, "compare needs two runs or more, got one, 'dn2"),
        (["{l2}", "{l2}"], 2, "compare needs two runs or more, got one"),
        (["{l2}", "0" * 32], 2, f"there is no run '{'0' * 32}'. Name a run's id, its name"),
        (["{l2}", "ocsvm oracl"], 2, "there is no run 'ocsvm oracl'. Did you mean 'ocsvm oracle"),
        (["{l2}", "detector=ocsvn"], 2, "has detector=ocsvn. Did you mean ocsvm?"),
        (["{l2}", "detektor=dn2"], 2, "parameter or tag 'detektor'. Did you mean detector?"),
        (["detector=dn2,variant=oracle", "{l2}"], 2, "has all of detector=dn2,variant=oracle"),
        (["{l2}", "{running}"], 2, "it is not finished: wait, or run the same command again"),
        (["{l2}", "{failed}"], 2, "it ended as FAILED: run the same command again"),
        (["{l2}", "{summary}"], 2, "it is a summary: name a cell's"),
        (["{l2}", "{lost}"], 1, "cannot be read (FileNotFoundError: "),
        (["{l2}", "{moved}"], 2, "cannot be compared: other data under the name toy, "),
        (["{l2}", "{none}", "--figure", "ranks.jpg"], 2, "--figure must end in .png, .pdf, .svg"),
        (["{l2}", "{none}", "--figure", "ranks.png"], 2, "--figure draws the ranks of at least 3"),
        (["{l2}", "{none}", "--fail-if-worse", "2"], 2, "--fail-if-worse must be a number in [0"),
        (["{l2}", "dataset=]\"';--"], 2, "no finished run has dataset=]"),
    ],
)
def test_bad_input_is_one_line(compare, filled, asked, code, message):
    found, out, err = compare(*(word.format(**filled[1]) for word in asked))
    assert (found, out) == (code, "")
    assert err.startswith("error: ")
    assert message in err
    assert len(err.splitlines()) == 1


def test_where_there_is_no_store_none_is_made(compare, tmp_path):
    code, out, err = compare("detector=dn2", uri=f"sqlite:///{tmp_path}/mlflow.db")
    assert (code, out) == (3, "")
    assert f"there is no tracking store {tmp_path}/mlflow.db: make runs" in err
    assert list(tmp_path.iterdir()) == []


def test_an_empty_store_says_so(compare, make_store, tmp_path):
    code, out, err = compare("detector=dn2", uri=make_store(tmp_path))
    assert (code, out) == (2, "")
    assert "the tracking store has no finished run" in err
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_runs_that_were_really_made(tmp_path_factory, weights_home, make_store):
    """A second command, which looks its runs up, marks the same differences as the first."""
    place = tmp_path_factory.mktemp("made")
    shutil.copytree(weights_home / "weights", place / "home" / "weights")
    make_store(place)
    env = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    env |= {"DN2_HOME": str(place / "home"), "PYTHONPATH": str(ROOT)}
    code = "import sys; from benchmarks.__main__ import run_main; from shlex import split\n"
    code += "sys.exit(max(run_main(split(line)) for line in sys.argv[1:]))"
    run = "run --dataset synthetic --detector dn2,ocsvm"
    lines = [run, run, "compare detector=dn2 detector=ocsvm"]
    done = subprocess.run(
        [sys.executable, "-c", code, *lines], cwd=place, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    made, _, compared = done.stdout.partition("Differences in ROCAUC")
    _, first, second = made.split("ROCAUC of 2 methods")
    table = first.partition("runs and their summary")[0]
    assert "really below the best one" in table
    assert second.startswith(table)
    assert "2 runs on synthetic, one_vs_rest" in compared
    assert "dn2" in compared
