"""Trials with equal values: the cheaper one is taken, and the command says so."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from small_studies import question_of, run_study, small

from benchmarks.commands.sweep import _print_best
from benchmarks.sweep import SweepOutcome, SweepTable, Trial, cheapest_first, ties
from benchmarks.sweep.results import Cost, best_of

LITE0, LITE1 = "efficientnet_lite0", "efficientnet_lite1"
CHEAP_TO_DEAR = [
    {"encoder": "resnet18", "normalize": "power", "k": 50},  # 512 features
    {"encoder": LITE0, "normalize": "none", "k": 50},
    {"encoder": LITE0, "normalize": "l2", "k": 1},
    {"encoder": LITE0, "normalize": "l2", "k": 2},
    {"encoder": f"{LITE0}+{LITE1}", "normalize": "none", "k": 1},
    {"encoder": f"{LITE0}+{LITE1}+resnet18", "normalize": "none", "k": 1},
]


def test_of_equal_values_the_cheapest_is_first_whatever_the_order():
    trials = [Trial(10 - n, params, 0.96) for n, params in enumerate(CHEAP_TO_DEAR)]
    for shuffled in permutations(trials):
        assert cheapest_first(shuffled) == trials
    assert best_of(trials) == trials[0]


def test_other_parameters_cost_too_and_the_number_comes_last():
    for one, other in (
        ({"size": 32}, {"size": 64}),
        ({"k": 3, "centres": 10}, {"k": 1, "centres": 30}),
        ({"k": 3, "clean": 0.0}, {"k": 1, "clean": 0.1}),
    ):
        assert best_of([Trial(0, other, 0.5), Trial(1, one, 0.5)]).number == 1
    assert best_of([Trial(2, {"nu": 0.1}, 0.5), Trial(1, {"nu": 0.2}, 0.5)]).number == 1


def test_only_equal_bits_are_a_tie():
    dear = Trial(0, CHEAP_TO_DEAR[-1], float(np.nextafter(0.96, 1)))
    cheap = Trial(1, CHEAP_TO_DEAR[0], 0.96)
    assert best_of([cheap, dear]) == dear
    assert ties([cheap, dear]) == [dear]
    failed = Trial(2, CHEAP_TO_DEAR[0], None, error="bad")
    assert best_of([failed]) is None
    assert ties([failed]) == []


def test_what_a_study_writes_begins_with_its_winner():
    trials = [Trial(n, params, 0.96) for n, params in enumerate(CHEAP_TO_DEAR[::-1])]
    table = SweepTable(question_of("oracle", encoders=(LITE0,)), "s", tuple(trials), {})
    assert f"trial {best_of(trials).number}: " in table.to_text().splitlines()[1]


def test_of_equal_values_only_the_best_by_a_measure_is_on_its_front():
    trials = [Trial(0, {"encoder": "dear"}, 0.9), Trial(1, {"encoder": "cheap"}, 0.9)]
    costs = {"dear": Cost(10.0, 2000), "cheap": Cost(20.0, 1000)}
    table = SweepTable(question_of("oracle", encoders=(LITE0,)), "s", tuple(trials), costs)
    assert table.front("images_per_second") == table.front("feature_bytes") == [trials[1]]


@pytest.mark.parametrize("tied", [True, False])
def test_the_command_says_that_there_is_a_tie(capsys, tied):
    trials = [Trial(n, params, 0.96) for n, params in enumerate(CHEAP_TO_DEAR[::-1])]
    trials = trials if tied else [*trials[:-1], replace(trials[-1], value=0.97)]
    question = question_of("oracle", encoders=(LITE0,))
    table = SweepTable(question, "s", tuple(trials), {})
    _print_best(SweepOutcome("s", question, best_of(trials), None, table, None))
    out = capsys.readouterr().out
    assert out.splitlines()[-1].startswith("Best: encoder=resnet18, normalize=power, k=50: ")
    line = "6 trials tie at 96.00 %; the cheapest is taken, trial 5: fewest encoders and features"
    assert (line in out) == tied


def test_each_trial_says_how_far_the_study_is(workspace, tracker):
    told = []
    found, said = run_study(
        small(), workspace, tracker, tell=lambda line, standing: told.append((line, standing))
    )
    assert not said
    assert [(one.study, one.done, one.total) for _, one in told] == [
        ("toy", n, 3) for n in (0, 1, 2, 3)
    ]
    values = [trial.value for trial in found.table.trials]
    assert told[0][1].best is None
    assert [one.best for _, one in told[1:]] == [max(values[: n + 1]) for n in range(3)]
    assert [one.seconds_left is None for _, one in told] == [True, False, False, False]
    assert told[3][1].seconds_left == 0
    for trial, (line, _) in zip(found.table.trials, told[1:], strict=True):
        assert line.startswith(f"trial {trial.number}: ")
        assert f" k={trial.params['k']}" in line
        assert line.endswith(f": rocauc_validation {trial.value:.4f}")
