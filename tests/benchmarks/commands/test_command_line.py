"""The command line as a user types it.

A small real run end to end, and every bad input with its exit code and its one line. The first run,
one refusal and the help are processes of their own; the rest calls what they call, which saves the
imports.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image
from stored_runs import cell_runs

from benchmarks.__main__ import main, run_main
from benchmarks.commands.options import EXPERIMENT_OPTIONS, Number, pop_experiments
from benchmarks.commands.sweep import default_encoders
from benchmarks.contracts import UsageError, Workspace
from benchmarks.executors import make_executor
from benchmarks.experiments import make_experiments
from dn2.encoders import ENCODERS
from dn2.search import approximate

ROOT = Path(__file__).parent.parent.parent.parent


@pytest.fixture(scope="module")
def place(tmp_path_factory, weights_home):
    """Make a working directory with its own DN2_HOME; later tests find earlier tests' results."""
    folder = tmp_path_factory.mktemp("work")
    shutil.copytree(weights_home / "weights", folder / "home" / "weights")
    return folder


def in_process(place, *arguments):
    env = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    env |= {"DN2_HOME": str(place / "home"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, timeout=240)


@pytest.fixture
def benchmarks(place, monkeypatch, capfd):
    """``benchmarks(*arguments)`` does what `in_process` does, here."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DN2_HOME", str(place / "home"))
    monkeypatch.chdir(place)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # so that it is put back

    def run(*arguments):
        capfd.readouterr()
        code = run_main(list(arguments))
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, code, out, err)

    return run


@pytest.fixture
def run_json(benchmarks):
    def run(*arguments):
        done = benchmarks("run", "--dataset", "synthetic", "--json", *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["runs"]

    return run


@pytest.fixture(scope="module")
def first_runs(place):
    done = in_process(
        place, "run", "--dataset", "synthetic", "--json", "--k", "1,2", "--normalize", "none,l2"
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["runs"]


def test_a_run_prints_what_the_design_promises(first_runs):
    assert len(first_runs) == 4
    for run in first_runs:
        promised = (
            "run_id key dataset protocol detector input params selection rocauc splits seconds"
        )
        assert set(promised.split()) <= set(run)
        assert run["selection"] == "none"
        assert 0.8 < run["rocauc"] <= 1
        assert run["rocauc"] == pytest.approx(
            sum(split["rocauc"] for split in run["splits"]) / len(run["splits"])
        )
        for split in run["splits"]:
            assert split["rocauc_low"] <= split["rocauc"] <= split["rocauc_high"]
            assert {
                "name",
                "class_name",
                "x",
                "draw",
                "average_precision",
                "n_train",
                "n_test",
            } <= set(split)
    assert len({run["key"] for run in first_runs}) == 4
    cells = {(run["params"]["k"], run["params"]["normalize"]) for run in first_runs}
    assert cells == {(1, "none"), (2, "none"), (1, "l2"), (2, "l2")}


def test_a_second_run_does_nothing_again_and_force_does(run_json, first_runs):
    again = run_json("--k", "1,2", "--normalize", "none,l2")
    by_key = {run["key"]: run for run in first_runs}
    for run in again:
        assert run["run_id"] == by_key[run["key"]]["run_id"]
        assert run["splits"] == by_key[run["key"]]["splits"]
    forced = run_json("--k", "2", "--force")
    assert forced[0]["run_id"] not in {run["run_id"] for run in again}
    assert forced[0]["rocauc"] == by_key[forced[0]["key"]]["rocauc"]


def test_one_search_for_every_k_equals_a_search_for_each(run_json, first_runs):
    alone = run_json("--k", "1", "--force")[0]
    assert (
        alone["rocauc"] == next(run for run in first_runs if run["key"] == alone["key"])["rocauc"]
    )


def test_faiss_agrees(run_json, first_runs):
    flat = run_json("--index", "flat")[0]
    exact = next(
        run
        for run in first_runs
        if run["params"]["k"] == 2 and run["params"]["normalize"] == "none"
    )
    assert flat["rocauc"] == pytest.approx(exact["rocauc"], abs=5e-4)


def test_an_approximate_index_says_what_it_costs(run_json, first_runs, monkeypatch):
    monkeypatch.setattr(approximate, "SMALLEST", 16)  # the synthetic classes are small
    (run,) = run_json("--index", "ivf")
    exact = next(
        run
        for run in first_runs
        if run["params"]["k"] == 2 and run["params"]["normalize"] == "none"
    )
    for split, expected in zip(run["splits"], exact["splits"], strict=True):
        assert 0 < split["recall"] <= 1
        assert split["rocauc_change"] == pytest.approx(split["rocauc"] - expected["rocauc"])
    logged = MlflowClient("sqlite:///mlflow.db").get_run(run["run_id"]).data.metrics
    for name in ("recall", "rocauc_change"):
        assert logged[name] == pytest.approx(
            sum(split[name] for split in run["splits"]) / len(run["splits"])
        )
        assert all(
            logged[f"{name}/{split['class_name']}"] == split[name] for split in run["splits"]
        )
    assert not {"recall", "rocauc_change"} & exact["splits"][0].keys()


def test_the_table_reads_as_text(benchmarks, first_runs):
    done = benchmarks("run", "--dataset", "synthetic", "--k", "2", "--normalize", "none,l2")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "mean" in done.stdout
    assert "python -m benchmarks ui" in done.stdout
    assert "2 of 2 had been computed before" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines() if "http" not in line) <= 130


def test_a_store_that_refuses_views_has_the_results_all_the_same(
    benchmarks, first_runs, make_store, tmp_path, place
):
    store = make_store(tmp_path)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON experiment_tags "
            "BEGIN SELECT RAISE(ABORT, 'read only'); END"
        )
    done = benchmarks("run", "--dataset", "synthetic", "--k", "2", "--tracking-uri", store)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "without their views" in line]
    assert "read only" in line
    assert "viewStateShareKey" not in done.stdout
    (cell,) = cell_runs(tmp_path)
    assert cell.info.status == "FINISHED"
    assert cell.info.run_name == "dn2 synthetic"
    encoded = "throughput/images_per_second"
    assert encoded not in cell.data.metrics, "its features were stored"
    assert any(encoded in run.data.metrics for run in cell_runs(place))


def test_a_run_links_to_the_view_of_its_results(benchmarks, first_runs):
    done = benchmarks("run", "--dataset", "synthetic", "--k", "2")
    assert "workflowType=machine_learning&viewStateShareKey=synthetic-charts-" in done.stdout
    said = benchmarks("paper").stdout
    assert "viewStateShareKey=cifar10-charts-" in said
    assert said.count("viewStateShareKey") == 5


def test_plan_says_what_is_finished(benchmarks, first_runs):
    done = benchmarks("plan", "--dataset", "synthetic", "--k", "2,3", "--json")
    assert done.returncode == 0, done.stderr
    cells = {cell["params"]["k"]: cell["status"] for cell in json.loads(done.stdout)["cells"]}
    assert cells == {2: "finished", 3: "pending"}
    shared, _, *lines, total = benchmarks(
        "plan", "--dataset", "synthetic", "--k", "2,3"
    ).stdout.splitlines()
    assert shared.startswith("all runs: dataset=synthetic protocol=one_vs_rest detector=dn2")
    assert [line.split()[-1] for line in lines] == ["k=2", "k=3"]
    assert total.startswith("2 runs, 1 pending")


def test_ls_lists_every_table(benchmarks):
    tables = json.loads(benchmarks("ls", "--json").stdout)
    assert set(tables) == {"datasets", "encoders", "detectors", "protocols", "suites"}
    assert all(entry["name"] for table in tables.values() for entry in table)
    assert {"cifar10", "fashion_mnist"} <= {entry["name"] for entry in tables["datasets"]}


BAD = {
    "unknown data set": (["run", "--dataset", "synthetik"], 2, "Did you mean synthetic"),
    "unknown encoder": (
        ["run", "--dataset", "synthetic", "--encoder", "resnet1O1"],
        2,
        "resnet101",
    ),
    "unknown detector": (
        ["run", "--dataset", "synthetic", "--detector", "dn3"],
        2,
        "Did you mean dn2",
    ),
    "unknown protocol": (
        ["run", "--dataset", "synthetic", "--protocol", "one_vs_all"],
        2,
        "one_vs_rest",
    ),
    "unknown normalisation": (["run", "--dataset", "synthetic", "--normalize", "l3"], 2, "l2"),
    "unknown suite": (["run", "--suite", "mian"], 2, "Did you mean main"),
    "unknown suite of two": (["plan", "--suite", "main,mian"], 2, "Did you mean main"),
    "unknown class": (
        ["run", "--dataset", "synthetic", "--classes", "nothing"],
        2,
        "unknown class",
    ),
    "unknown index": (["run", "--dataset", "synthetic", "--index", "flatt"], 2, "flat"),
    "unknown engine": (["run", "--dataset", "synthetic", "--engine", "openvin"], 2, "openvino"),
    "k = 0": (
        ["run", "--dataset", "synthetic", "--k", "0"],
        2,
        "--k must be a whole number of at least 1, got 0: write --k 2.",
    ),
    "k > n": (["run", "--dataset", "synthetic", "--k", "100000"], 2, "lower k"),
    "k = two": (["run", "--dataset", "synthetic", "--k", "two"], 2, "got two: write --k 2"),
    "negative seed": (["run", "--dataset", "synthetic", "--seed", "-1"], 2, "at least 0, got -1"),
    "normalised pixels": (
        ["run", "--dataset", "synthetic", "--detector", "geom", "--normalize", "l2"],
        2,
        "leave it out",
    ),
    "encoded pixels": (
        ["run", "--dataset", "synthetic", "--detector", "geom", "--encoder", "resnet18"],
        2,
        "encoder is for features",
    ),
    "unknown preset": (
        ["run", "--dataset", "synthetic", "--detector", "geom", "--preset", "gpu"],
        2,
        "cpu, paper",
    ),
    "preset of none": (["run", "--dataset", "synthetic", "--preset", "cpu"], 2, "has no presets"),
    "seeds = 0": (
        ["run", "--dataset", "synthetic", "--detector", "geom", "--seeds", "0"],
        2,
        "at least 1, got 0",
    ),
    "bad setting": (
        ["run", "--dataset", "synthetic", "--detector", "geom", "--set", "epochs"],
        2,
        "NAME=VALUE, got 'epochs'",
    ),
    "bad nu": (
        ["run", "--dataset", "synthetic", "--detector", "ocsvm", "--set", "nu=2"],
        2,
        "nu must be a number in (0, 1]",
    ),
    "unreadable root": (
        ["run", "--dataset", "cifar10", "--root", "/nonexistent/place"],
        3,
        "/nonexistent/place",
    ),
    "wrong weights": (
        ["run", "--dataset", "synthetic", "--weights", str(ROOT / "pyproject.toml")],
        2,
        "pyproject.toml",
    ),
    "missing weights": (
        ["run", "--dataset", "synthetic", "--weights", "/nonexistent.pth"],
        3,
        "/nonexistent.pth",
    ),
    "unknown option": (["run", "--datasett", "synthetic"], 2, "--dataset"),
    "unknown name to fetch": (["fetch", "cifar"], 2, "cifar10"),
    "file store": (
        ["run", "--dataset", "synthetic", "--tracking-uri", "file:./mlruns"],
        2,
        "sqlite",
    ),
}


NUMBERS = {
    "run": {
        "--k": "0",
        "--max-pixels": "-1",
        "--clean": "1",
        "--centres": "0",
        "--size": "-1",
        "--n-train": "10,none",
        "--contamination": "-0.1",
        "--group-sizes": "1",
        "--n-groups": "0",
        "--draws": "0",
        "--seed": "1.5",
        "--seeds": "nan",
        "--workers": "-1",
    },
    "sweep": {
        "--trials": "0",
        "--max-pixels": "0",
        "--k-values": "1,0",
        "--clean": "nan",
        "--sizes": "0",
        "--seed": "-1",
        "--workers": "two",
    },
}
"""Verb -> each of its options that takes numbers, with a value that is refused."""


TOO_LARGE = {
    "run": {
        **dict.fromkeys(
            ("--k", "--centres", "--n-train", "--group-sizes", "--n-groups"), 1_000_000
        ),
        "--size": 4096,
        "--draws": 1000,
        "--seed": 2**32 - 1,
        "--seeds": 10_000,
        "--workers": 10_000,
        "--max-pixels": 10**10,
    },
    "sweep": {
        "--trials": 100_000,
        "--k-values": 1_000_000,
        "--sizes": 4096,
        "--seed": 2**32 - 1,
        "--workers": 10_000,
        "--max-pixels": 10**10,
    },
}
"""Verb -> each of its options that takes whole numbers, with the largest one."""


@pytest.mark.parametrize("verb", TOO_LARGE)
def test_numbers_that_no_machine_has_are_refused(verb):
    numeric = {
        one.opts[0]: one
        for one in main.get_command(click.Context(main), verb).params
        if isinstance(one.type, Number) and one.type.rule.kind is int
    }
    assert numeric.keys() == TOO_LARGE[verb].keys()
    for name, most in TOO_LARGE[verb].items():
        option = numeric[name]
        option.type.convert(str(most), option, None)
        for text in (str(most + 1), "9" * 5000, "1e400", "nan", "-1", "1e3"):
            with pytest.raises(UsageError) as caught:
                option.type.convert(text, option, None)
            assert "\n" not in str(caught.value)
            assert len(str(caught.value)) < 200
        with pytest.raises(
            UsageError, match=f"{name} must be a whole number of at most {most},.* got {most + 1}: "
        ):
            option.type.convert(str(most + 1), option, None)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"encoders": ["efficientnet_lite0+resnet18+resnet18"]}, "joins 'resnet18' with itself"),
        (
            {"detectors": ["geom"], "seed": 2**32 - 2, "seeds": 3},
            "seed . seeds - 1 must be at most",
        ),
        ({"detectors": ["geom"], "seeds": 10_001}, "seeds must be at most"),
        ({"detectors": ["geom"], "size": 10_000}, "size must be at most 4096"),
        ({"detectors": ["geom"], "params": {"epochs": [10**12]}}, "epochs must be a finite"),
        ({"detectors": ["ocsvm"], "params": {"gamma": [float("inf")]}}, "gamma must be a finite"),
        ({"params": {"k": list(range(1, 30_000))}}, "29,999 runs, and at most 20,000"),
        ({"protocol": "contamination", "protocol_params": {"draws": 1001}}, "draws must be"),
    ],
)
def test_what_no_machine_can_do_is_refused_by_the_plan(asked, words):
    with pytest.raises(UsageError, match=words):
        make_experiments(datasets=["synthetic"], **asked)


def test_processes_are_bounded_by_the_cores():
    with pytest.raises(UsageError, match=r"--workers must be at most \d+ on this machine with"):
        make_executor("processes", Workspace(Path("home")), 5000)


@pytest.mark.parametrize("verb", NUMBERS)
def test_every_number_is_refused_with_its_option_and_a_remedy(benchmarks, verb):
    command = main.get_command(click.Context(main), verb)
    numeric = [one for one in command.params if isinstance(one.type, Number)]
    assert {one.opts[0] for one in numeric} == set(NUMBERS[verb])
    assert not [one for one in command.params if one.type in (click.INT, click.FLOAT)]
    for option, value in NUMBERS[verb].items():
        done = benchmarks(verb, "--dataset", "synthetic", option, value)
        wrong = value.rpartition(",")[2]
        assert_refused(done, 2, f"got {wrong}: write {option} ")
        assert done.stderr.startswith(f"error: {option} must be a ")


def test_each_remedy_is_a_value_that_is_taken():
    for verb in NUMBERS:
        for option in main.get_command(click.Context(main), verb).params:
            if isinstance(option.type, Number):
                option.type.convert(option.type.example, option, None)


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_an_exit_code(benchmarks, case):
    arguments, code, words = BAD[case]
    assert_refused(benchmarks(*arguments), code, words)


def test_a_refusal_ends_the_process_with_its_code(place):
    arguments, code, words = BAD["unknown data set"]
    assert_refused(in_process(place, *arguments), code, words)


def assert_refused(done, code, words):
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    # What takes its time says so first: "loading libraries ...".
    said = [line for line in done.stderr.splitlines() if not line.endswith(" ...")]
    assert len(said) == 1, done.stderr
    assert not done.stdout


def test_help_is_quick_because_it_imports_nothing_heavy():
    heavy = {
        "torch",
        "mlflow",
        "timm",
        "matplotlib",
        "pandas",
        "sklearn",
        "scipy",
        "faiss",
        "openvino",
        "PIL",
        "rich",
    }
    verbs = ("ls", "fetch", "plan", "run", "paper", "ui")
    code = (
        "import sys; from benchmarks.__main__ import run_main; "
        "[run_main([verb, '--help']) for verb in sys.argv[1:]]; print(sorted(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *verbs], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert all(f"Usage: python -m benchmarks {verb}" in done.stdout for verb in verbs)
    assert not heavy & set(eval(done.stdout.splitlines()[-1]))


def test_several_suites_in_one_command_have_each_cell_once():
    def cells(text):
        return pop_experiments(
            {**dict.fromkeys(EXPERIMENT_OPTIONS), "suite": text.split(",")}, None
        )[1]

    with click.Context(click.Command("run")):
        both = [cell.key for cell in cells("table1,k_sweep")]
        assert set(both) == {cell.key for name in ("table1", "k_sweep") for cell in cells(name)}
    assert len(both) == len(set(both)) == 28, "k = 2 is in both"


def test_a_new_encoder_in_a_package_is_swept_by_itself(monkeypatch):
    lites = [f"efficientnet_lite{number}" for number in range(3)]
    assert default_encoders() == (
        *lites,
        "efficientnet_lite0+efficientnet_lite1",
        "efficientnet_lite0+efficientnet_lite2",
        "efficientnet_lite1+efficientnet_lite2",
        "+".join(lites),
    )
    monkeypatch.setitem(ENCODERS, "new", replace(ENCODERS[lites[0]], name="new"))
    assert {"new", "+".join([*lites[:2], "new"])} <= set(default_encoders())


def image_folder(folder, sizes, parts):
    for part in parts:
        (folder / part).mkdir(parents=True)
        for number, size in enumerate(sizes):
            Image.fromarray(np.full((size, size), 9 * number, np.uint8)).save(
                folder / part / f"{number}.png"
            )
    return f"folder:{folder}"


WHOLE = ("train/good", "test/good", "test/bad")
FOLDERS = {
    "not there": (None, (), [], 3, "cannot be read"),
    "no image": ((), (), [], 3, "cannot be read"),
    "no test image": ((8, 8), ("train/good",), [], 2, "has no test image"),
    "no anomaly": ((8, 8), ("train/good", "test/good"), [], 2, "of at least one other class"),
    "too few": ((8, 8), WHOLE, ["--k", "3"], 2, "lower k"),
    "unknown class": ((8, 8), WHOLE, ["--classes", "god"], 2, "Did you mean good"),
    "many sizes": ((8, 9), WHOLE, ["--detector", "ocsvm"], 2, "such as --size 64"),
    "no such weights": ((8, 8), WHOLE, ["--weights", "/none.pth"], 3, "/none.pth"),
    "bad parameter": ((8, 8), WHOLE, ["--set", "k=none"], 2, "k must be"),
}
"""What is wrong -> sides of images in each part, parts, options, exit code, words."""


@pytest.mark.parametrize("problem", FOLDERS)
@pytest.mark.parametrize("home", ["home", "a home without weights"])
def test_plan_refuses_the_folders_that_run_refuses(benchmarks, tmp_path, problem, home):
    sizes, parts, options, code, words = FOLDERS[problem]
    name = f"folder:{tmp_path / 'images'}"
    if sizes is not None:
        image_folder(tmp_path / "images", sizes, parts)
    (tmp_path / "a home without weights").mkdir()
    place = [] if home == "home" else ["--home", str(tmp_path / home)]
    planned = benchmarks("plan", "--dataset", name, *options, *place)
    assert_refused(planned, code, words)
    if home == "home":
        ran = benchmarks("run", "--dataset", name, *options)
        assert ran.returncode == code
        assert planned.stderr.strip() in ran.stderr


def test_plan_says_which_weights_are_to_be_fetched(benchmarks, tmp_path):
    name = image_folder(tmp_path / "images", (8, 8), WHOLE)
    done = benchmarks("plan", "--dataset", name, "--home", str(tmp_path / "empty"), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cells"][0]["features"] == "weights to fetch"


def test_without_a_verb_the_help_is_shown(capfd):
    assert run_main([]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("Usage: ")


@pytest.mark.parametrize("called", ["dn2-bench", "/usr/bin/dn2-bench"])
def test_the_usage_line_has_the_name_that_the_program_was_called_by(
    benchmarks, monkeypatch, called
):
    assert "Usage: python -m benchmarks run " in benchmarks("run", "--help").stdout
    monkeypatch.setattr(sys, "argv", [called, "run"])
    assert "Usage: dn2-bench run " in benchmarks("run", "--help").stdout
    assert benchmarks("--version").stdout.startswith("dn2-bench ")
