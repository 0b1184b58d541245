"""Sweeps are killed, doubled or refused: each point of the grid is still computed just once.

The sweeps run in processes of their own (`forked`), with an encoder that is no network.
"""

import json
import shutil
import sys
from functools import partial

import pytest
from forked import Process, after_call, die, run_benchmarks
from servers import postgresql
from stored_runs import cell_runs

ENCODERS = ("--encoders", "efficientnet_lite0", "--normalize", "none,l2")
SWEEP = (
    "sweep",
    "--dataset",
    "synthetic",
    *ENCODERS,
    "--k-values",
    "1,2",
    "--classes",
    "disc,square",
    "--json",
)
SPLITS, POINTS = 10, 4
"""Two classes in five folds; two values of k for each of two normalisations."""
ALL_SAVES = SPLITS * POINTS + 2
"""The winner has two splits on the test partition."""


@pytest.fixture
def place(tmp_path, weights_home, make_store):
    shutil.copytree(weights_home / "weights", tmp_path / "home" / "weights")
    make_store(tmp_path)
    return tmp_path


def start(place, prepare=None, *more, **environment):
    return Process(
        place, run_benchmarks, (*SWEEP, *more), prepare, DN2_HOME=str(place / "home"), **environment
    )


def count_saves():
    from benchmarks.result_store import ResultStore

    after_call(ResultStore, "save", partial(print, "saved", file=sys.stderr))


def die_in_the_second_trial():
    """Die when the first trial is finished and the run of the second is just open."""
    from benchmarks.ledger import Ledger

    count_saves()
    after_call(Ledger, "start", die, 2)


def die_in_the_first_trial():
    from benchmarks.result_store import ResultStore

    count_saves()
    after_call(ResultStore, "save", die, 3)


def whole(out):
    record = json.loads(out)
    points = {json.dumps(trial["params"], sort_keys=True) for trial in record["trials"]}
    assert len(points) == POINTS
    assert all(trial["value"] is not None and trial["run_id"] for trial in record["trials"])
    assert record["best"]["rocauc_validation"] == max(trial["value"] for trial in record["trials"])
    assert 0.5 < record["best"]["rocauc"] <= 1
    return record


def storages(place):
    return {"journal": (), "sqlite": ("--storage", f"sqlite:///{place}/study.db")}


@pytest.mark.parametrize("storage", ["journal", "sqlite"])
def test_killed_in_a_trial_it_continues_and_runs_that_trial_again(place, storage):
    more = storages(place)[storage]
    code, _, first = start(place, die_in_the_second_trial, *more).finish()
    assert code == -9
    code, out, second = start(place, count_saves, *more).finish()
    assert code == 0, second
    assert "trials that were interrupted or failed and are run again: 1" in second
    assert first.count("saved") + second.count("saved") == ALL_SAVES
    assert len(whole(out)["trials"]) == POINTS
    assert len(cell_runs(place)) == POINTS + 1
    assert {run.info.status for run in cell_runs(place)} == {"FINISHED"}

    code, again, third = start(place, count_saves, *more).finish()
    assert code == 0, third
    assert json.loads(again) == json.loads(out)
    assert "saved" not in third


@pytest.mark.parametrize("storage", ["journal", "sqlite"])
def test_two_on_one_study_share_its_trials(place, storage):
    more = storages(place)[storage]
    both = [
        process.finish()
        for process in (start(place, count_saves, *more), start(place, count_saves, *more))
    ]
    for code, _, err in both:
        assert code == 0, err
    assert sum(err.count("saved") for _, _, err in both) == ALL_SAVES
    told = "".join(err for _, _, err in both)
    first, second = (whole(out) for _, out, _ in both)
    best = first["best"]["rocauc_validation"]
    assert f" ({POINTS}/{POINTS}, best {best:.4f} so far)" in told, "counts are the study's"
    assert first["best"] == second["best"]
    assert len(first["trials"]) == POINTS
    assert len(cell_runs(place)) == POINTS + 1


def test_of_two_the_one_that_is_left_runs_the_trial_of_the_one_that_was_killed(place):
    killed, other = start(place, die_in_the_first_trial), start(place, count_saves)
    assert killed.finish()[0] == -9
    code, out, err = other.finish()
    assert code == 0, err
    assert len(whole(out)["trials"]) == POINTS


@pytest.mark.slow
def test_several_workers_do_the_trials(place):
    code, out, err = start(place, None, "--executor", "processes", "--workers", "2").finish()
    assert code == 0, err
    whole(out)
    assert f" ({POINTS}/{POINTS}, best " in err


def test_what_is_wrong_is_one_line_before_any_work(place):
    wrong = {
        ("--trials", "0"): "--trials must be a whole number of at least 1",
        ("--sampler", "grid"): "sampler",
        ("--objective", "guess"): "objective",
        ("--storage", "mysql://x"): "sqlite:///",
        ("--study", "../x"): "study's name",
        ("--k-values", "0"): "k",
        ("--sizes", "32"): "--sizes",
        ("--encoders", "resnet19"): "resnet18",
        ("--detector", "geom", "--k-values", ""): "--encoders is for detectors on features",
    }
    for options, message in wrong.items():
        code, out, err = start(place, None, *options).finish()
        assert (code, out) == (2, ""), (options, err)
        assert message in err
        assert err.count("\n") == 1
    assert not list((place / "home").glob("studies/*"))


def test_an_encoder_without_weights_is_left_out_with_the_reason(place):
    code, out, err = start(
        place, offline, "--encoders", "efficientnet_lite0,resnet18,efficientnet_lite0+resnet18"
    ).finish()
    assert code == 0, err
    assert "skipped: " in err
    assert "resnet18" in err
    assert {trial["params"]["encoder"] for trial in whole(out)["trials"]} == {"efficientnet_lite0"}


def offline():
    import benchmarks.fetch.weights
    from dn2.encoders import MissingWeightsError

    def refuse(encoder, **_):
        raise MissingWeightsError(f"no weights of {encoder} here")

    benchmarks.fetch.weights.fetch_weights = refuse


@pytest.mark.slow
def test_a_killed_worker_s_trial_is_run_again_in_postgresql(place):
    with postgresql() as url:
        more = ("--storage", url)
        code, _, first = start(place, die_in_the_second_trial, *more).finish()
        assert code == -9
        both = [
            process.finish()
            for process in (start(place, count_saves, *more), start(place, count_saves, *more))
        ]
        for code, out, err in both:
            assert code == 0, err
            assert len(whole(out)["trials"]) == POINTS
        assert first.count("saved") + sum(err.count("saved") for _, _, err in both) == ALL_SAVES
