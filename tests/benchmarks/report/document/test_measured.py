"""Files of results: what goes in comes out, and a command makes its run again."""

import shlex
from dataclasses import replace

import click
import pytest

from benchmarks.commands.options import experiment_options, pop_experiments
from benchmarks.contracts import UsageError
from benchmarks.experiments import make_experiments
from benchmarks.report.document.measured import (
    COLUMNS,
    NOT_SETTINGS,
    Measured,
    Score,
    command_of,
    read_rows,
    write_rows,
)

SCORES = (
    Score("cat", 0.9123456, 0.9, 0.92, average_precision=0.5),
    Score("mean", 1 / 3, 0.3, 0.4),
)
DN2 = Measured(
    "cifar10",
    "one_vs_rest",
    "dn2",
    "none",
    "none",
    {"encoder": "efficientnet_lite0", "normalize": "l2", "k": 5, "clean": 0.5, "index": "exact"},
    SCORES,
    cpu_minutes=2.5,
    images_per_second=1000.0,
    rate_of="scoring alone",
    command="python -m benchmarks run",
    date="2026-11-28",
    commit="c0ffee",
    machine="2 cores of AMD EPYC",
)


def measured_of(experiment):
    """Make what a store would say of an experiment."""
    settings = {n: v for n, v in experiment.params.items() if n not in NOT_SETTINGS}
    kind, _, size = experiment.input.partition(":")
    if kind == "pixels":
        settings["size"] = size or "native"
    names = ("dataset", "protocol", "detector", "variant", "preset")
    named = (str(experiment.params[name]) for name in names)
    return Measured(*named, settings, SCORES)


def parsed(command):
    """Make the experiments that a command asks for, with the real options."""
    found = []

    @click.command()
    @experiment_options
    def run(**options):
        found.extend(pop_experiments(options, None)[1])

    words = shlex.split(command)
    assert words[:4] == ["python", "-m", "benchmarks", "run"]
    run.main(words[4:], standalone_mode=False)
    return found


@pytest.mark.parametrize(
    "arguments",
    [
        {"datasets": ["cifar10"]},
        {"datasets": ["fashion_mnist"], "normalize": ["power"], "params": {"k": [7]}},
        {"datasets": ["cifar10"], "params": {"clean": [0.5]}, "protocol": "contamination"},
        {"datasets": ["wbc"], "detectors": ["mhrot"], "variants": ["high"], "presets": ["cpu"]},
        {"datasets": ["cifar10"], "detectors": ["geom"], "variants": ["rotation"]},
        {"datasets": ["cifar10"], "detectors": ["geom"], "params": {"max_images": [1000]}},
        {"datasets": ["cifar10"], "detectors": ["ocsvm"], "variants": ["oracle"], "size": 16},
        {"datasets": ["cifar10"], "detectors": ["ocsvm"], "classes": ["cat", "dog"], "seed": 4},
        {"datasets": ["cifar10"], "detectors": ["dn2_plus"]},
        {"datasets": ["cifar10"], "encoders": ["resnet18+resnet34"]},
        {
            "datasets": ["cifar10"],
            "protocol": "small_train",
            "protocol_params": {"n_train": (10, "all"), "draws": 2},
        },
        {
            "datasets": ["cifar10"],
            "detectors": ["dn2_group"],
            "variants": ["max"],
            "protocol": "groups",
        },
        {"datasets": ["fashion_mnist"], "detectors": ["goad"], "presets": ["cpu"]},
        {"datasets": ["fashion_mnist"], "detectors": ["deep_svdd"]},
    ],
    ids=str,
)
def test_the_command_of_a_result_makes_the_same_cell(arguments):
    (experiment,) = make_experiments(**arguments)
    (again,) = parsed(command_of(measured_of(experiment)))
    assert again.key == experiment.key


def test_several_seeds_are_asked_for():
    (experiment,) = make_experiments(datasets=["cifar10"], detectors=["goad"])
    command = command_of(replace(measured_of(experiment), seeds=3))
    assert [one.seed for one in parsed(command)] == [0, 1, 2]


@pytest.mark.parametrize(
    "one",
    [
        DN2,
        replace(DN2, settings={"grid": True, "n_train": (10, "all"), "classes": "cat,dog"}),
        replace(DN2, settings={"path": "a b 'c'=\"d\"", "n": 10}, dataset='folder:/x, "y"'),
        replace(DN2, scores=(Score("mean", 0.5, x=0.01, standard_error=0.002, draws=3),)),
        replace(DN2, source="taken over", seeds=3, selection="oracle", cpu_minutes=None),
    ],
)
def test_results_come_back_from_their_file(tmp_path, one):
    file = tmp_path / "results.csv"
    other = replace(DN2, dataset="other")
    file.write_text(write_rows([one, other, other]))
    assert file.read_text().splitlines()[0].split(",")[: len(COLUMNS)] == list(COLUMNS)
    back = read_rows([file])
    assert len(back) == 3
    scores = tuple(replace(score, rocauc=round(score.rocauc, 7)) for score in one.scores)
    assert back[0] == replace(one, scores=scores)
    assert back[1] == back[2]


def test_a_file_of_the_first_columns_alone_is_read(tmp_path):
    values = "cifar10,one_vs_rest,geom,dirichlet,cpu,mean,0.85,0.84,0.86,1,150.5,c,2026-11-28,c0,m"
    file = tmp_path / "baselines.csv"
    file.write_text(f"{','.join(COLUMNS)}\n{values}\n")
    (one,) = read_rows([file])
    assert (one.method, one.preset, one.cpu_minutes) == ("geom dirichlet", "cpu", 150.5)
    assert one.mean == Score("mean", 0.85, 0.84, 0.86)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("rocauc,", "auc,", "lacks the column rocauc"),
        ("0.9123456", "91.2", r"line 2: rocauc must be a fraction in \[0, 1\], got '91.2'"),
        ("0.9123456", "nan", "line 2: rocauc must be a fraction"),
        ("0.9123456", "high", "line 2: rocauc must be a number, got 'high'"),
    ],
)
def test_a_bad_file_is_refused_in_a_line(tmp_path, old, new, says):
    file = tmp_path / "results.csv"
    file.write_text(write_rows([DN2]).replace(old, new, 1))
    with pytest.raises(UsageError, match=says):
        read_rows([file])


def test_a_label_names_what_is_unusual():
    assert DN2.label == "dn2 normalize=l2 k=5 clean=0.5"
    usual = replace(DN2, settings={"encoder": "efficientnet_lite0", "normalize": "none", "k": 2})
    assert usual.label == "dn2"
    assert replace(usual, detector="mine:Class", settings={"a": 1}).label == "mine:Class a=1"
