"""What may be compared, what differs, and what the tables, sentences and figures say of it."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from click import ClickException
from handmade import PROVENANCE
from scored_runs import ANIMALS, CURVE, OCSVM, TOY, resolved, scored

from benchmarks.commands.compare import _check
from benchmarks.comparison import Run, compare, why_not
from benchmarks.contracts import UsageError
from benchmarks.figures import critical_difference
from benchmarks.metrics import mean_rocauc
from benchmarks.paired import holm, paired_delong
from benchmarks.report.differences import (
    comparison_record,
    draw_ranking,
    print_comparison,
    verdict,
)
from benchmarks.tracking import cell_record
from benchmarks.tracking.finding import StoredRun


def run_of(results, name="run"):
    """Make the run that a store would hold of these results."""
    record = json.loads(json.dumps(cell_record(results)))
    stored = StoredRun(f"{name:x<32}", name, {}, {}, None)
    splits = {one.split: one for one in results}
    test_rows = {one.split: repr((one.rows.tolist(), one.is_anomaly.tolist())) for one in results}
    return Run(stored, record, splits, test_rows)


def text_of(comparison):
    stream = io.StringIO()
    print_comparison(comparison, stream)
    return stream.getvalue()


L2 = replace(TOY, normalize="l2")
GOOD, BAD = run_of(scored(L2, 2.0), "good"), run_of(scored(TOY, 1.0, seed=2), "bad")


# What may be compared


def reasons(one, other=TOY, rows=None):
    return why_not(run_of(scored(TOY)), run_of(scored(other, rows=rows)))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (replace(TOY, dataset="fur"), None),
        (resolved(replace(TOY, dataset="fur"), data="e" * 64), "other data sets, toy and fur"),
        (resolved(TOY, data="e" * 64), "other data under the name toy, dddddddd and eeeeeeee"),
        (replace(TOY, protocol="leave_one_class_out"), "another protocol, one_vs_rest and leave"),
        (resolved(TOY, versions={"protocol": 2}), "another version of the protocol, 1 and 2"),
        (replace(TOY, partition="validation"), "another partition, test and validation"),
        (
            resolved(TOY, weights={"efficientnet_lite0": "b" * 64}),
            "other weights under the name efficientnet_lite0, aaaaaaaa and bbbbbbbb",
        ),
        (resolved(TOY, weights={"resnet18": "b" * 64}), None),
        (resolved(TOY, versions={"protocol": 1, "detector": 9}), None),
        (OCSVM, None),
        (replace(TOY, seed=3, normalize="l2"), None),
    ],
)
def test_what_the_names_stand_for_decides(other, message):
    found = reasons(TOY, other)
    assert (found == []) if message is None else (message in found[0])


def test_the_test_rows_decide():
    assert "other test rows in cat" in reasons(TOY, rows=np.arange(200))[0]
    of_two = run_of([one for one in scored(TOY) if one.class_name != "owl"])
    assert why_not(GOOD, of_two) == ["other classes, cat, dog, owl and cat, dog"]


def test_curves_share_their_values_of_x_and_other_parameters_must_be_equal():
    few = run_of(scored(CURVE, xs=(0.0, 0.1)))
    wider = replace(CURVE, protocol_params={"contamination": (0.1, 0.2)})
    more = run_of(scored(wider, xs=(0.1, 0.2)))
    assert why_not(few, more) == []
    assert (
        "other values of x, 0.0, 0.1 and 0.3" in why_not(few, run_of(scored(CURVE, xs=(0.3,))))[0]
    )
    draws = replace(CURVE, protocol_params={"contamination": (0.0, 0.1), "draws": 5})
    assert "another draws, - and 5" in why_not(few, run_of(scored(draws, xs=(0.0, 0.1))))[0]
    third = run_of(scored(wider, xs=(0.0, 0.2)))
    with_all = compare([few, more, third])
    assert [len(group.runs) for group in with_all.groups] == [2]
    assert "no value of x that all runs have" in with_all.apart[0]


def test_runs_that_cannot_be_compared_are_kept_apart_and_the_others_are_compared():
    moved = run_of(scored(resolved(TOY, data="e" * 64)), "moved")
    found = compare([GOOD, moved, BAD])
    assert [[run.stored.name for run in group.runs] for group in found.groups] == [["good", "bad"]]
    assert [run.stored.name for run in found.alone] == ["moved"]
    assert "'good' and 'moved' cannot be compared: other data under the name toy" in text_of(found)
    with pytest.raises(UsageError, match="'good' and 'moved' cannot be compared: other data"):
        compare([GOOD, moved])
    twin = run_of(scored(resolved(TOY, data="e" * 64), seed=4), "good")
    object.__setattr__(twin.stored, "run_id", "f" * 32)
    with pytest.raises(UsageError, match=r"'good' \(goodxxxx\) and 'good' \(ffffffff\) cannot"):
        compare([GOOD, twin])


# What is computed


def test_two_runs_are_tested_class_by_class_and_in_the_mean():
    (group,) = compare([GOOD, BAD]).groups
    (pair,) = group.pairs
    by_hand = [
        paired_delong(
            GOOD.splits[name].is_anomaly, GOOD.splits[name].scores, BAD.splits[name].scores
        )
        for name in ANIMALS
    ]
    assert [pair.parts[name].difference for name in ANIMALS] == by_hand
    assert [pair.parts[name].p_holm for name in ANIMALS] == holm([one.p for one in by_hand])
    assert pair.mean.difference.value == pytest.approx(np.mean([one.value for one in by_hand]))
    assert group.means[0] == mean_rocauc(
        [(one.rows, one.is_anomaly, one.scores) for one in GOOD.splits.values()]
    )
    assert group.differing == {"normalize": ["l2", "none"]}
    assert group.labels == ("dn2 normalize=l2", "dn2 normalize=none")


def test_many_runs_are_tested_in_pairs_and_corrected_for_their_number():
    runs = [run_of(scored(TOY.with_params(k=k), 1 + k / 4, seed=k), f"k{k}") for k in (1, 2, 3)]
    (group,) = compare(runs).groups
    assert [(pair.a, pair.b) for pair in group.pairs] == [(0, 1), (0, 2), (1, 2)]
    p = [pair.mean.difference.p for pair in group.pairs]
    assert [pair.mean.p_holm for pair in group.pairs] == holm(p)
    (alone,) = compare([runs[0], runs[2]]).groups
    assert alone.pairs[0].mean.difference == group.pairs[1].mean.difference
    turned = group.pair(2, 0).difference
    assert turned.value == -group.pair(0, 2).difference.value > 0
    assert turned.low <= turned.value <= turned.high


def test_a_curve_is_compared_at_each_x_that_both_have():
    wider = replace(
        L2, protocol="contamination", protocol_params={"contamination": (0.0, 0.1, 0.2)}
    )
    one, other = (
        run_of(scored(CURVE, 1.0, xs=(0.0, 0.1))),
        run_of(scored(wider, 2.0, seed=2, xs=(0.0, 0.1, 0.2))),
    )
    found = compare([one, other])
    (group,) = found.groups
    assert group.parts == (0.0, 0.1)
    at_zero = compare([run_of(scored(CURVE, 1.0, xs=(0.0,))), other]).groups[0]
    assert group.pairs[0].parts[0.0].difference == at_zero.pairs[0].mean.difference
    text = text_of(found)
    assert "Left out, since not all runs have them: x = 0.2." in text
    assert "better in 2 of 2 values of x" in text
    records = comparison_record(found)["differences"]
    assert [(one["class_name"], one["x"]) for one in records] == [
        (None, 0.0),
        (None, 0.1),
        (None, None),
    ]


# What is said


def test_the_sentence_says_who_is_better_and_by_how_much():
    (group,) = compare([BAD, GOOD]).groups
    value, low, high, _ = group.pair(1, 0).difference
    assert verdict(group) == (
        f"dn2 normalize=l2 is better than dn2 normalize=none by {100 * value:.1f} points on "
        f"average [{100 * low:.1f}, {100 * high:.1f}]; better in 3 of 3 classes after Holm's "
        "correction."
    )


def test_the_sentence_says_that_nothing_is_shown():
    (group,) = compare([run_of(scored(L2)), run_of(scored(TOY, 1.51, seed=2))]).groups
    assert verdict(group).startswith("No real difference is shown between dn2 normalize=")
    assert verdict(group).endswith("], and in none of 3 classes after Holm's correction.")


def test_runs_from_uncommitted_code_and_choices_in_hindsight_are_marked():
    results = scored(OCSVM, 1.2, provenance={**PROVENANCE, "dirty": True})
    oracle = run_of(results)
    oracle.record["selection"] = "oracle"
    text = text_of(compare([GOOD, oracle]))
    assert "ocsvm oracle (oracle) (dirty)" in text
    assert "dirty: from code that was not committed" in text
    assert "oracle: tuned on the test labels" in text
    assert "dirty" not in text_of(compare([GOOD, BAD]))


def test_names_are_text_and_lines_fit():
    named = replace(TOY, dataset="[bold]<script>$x$")
    text = text_of(compare([run_of(scored(named)), run_of(scored(replace(named, normalize="l2")))]))
    assert "2 runs on [bold]<script>$x$, one_vs_rest" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_table_shows_all_pairs_of_a_few_runs_and_the_best_of_many():
    runs = [run_of(scored(TOY.with_params(k=k), 1 + k / 4, seed=k), f"k{k}") for k in range(1, 8)]
    few, many = text_of(compare(runs[:3])), text_of(compare(runs))
    assert "row - column" in few
    assert "row - column" not in many
    listed = [line.split()[1] for line in many.splitlines() if line.startswith("dn2 k=")]
    assert listed[:2] == ["k=7", "k=6"]
    assert sorted(listed[:7]) == [f"k={k}" for k in range(1, 8)]
    assert "of 21 pairs of runs differ really" in " ".join(many.split())


def test_a_perfect_run_is_better_than_a_reversed_one_whatever_runs_are_beside_them():
    perfect, reversed_ = run_of(scored(L2, 1000.0)), run_of(scored(TOY, -1000.0, seed=2))
    (pair,) = compare([perfect, reversed_]).groups[0].pairs
    assert pair.mean.difference.value == 1.0
    assert pair.mean.difference.p < 0.05
    assert pair.mean.real
    beside = compare([perfect, reversed_, run_of(scored(OCSVM, 1.0, seed=3))]).groups[0]
    assert beside.pair(0, 1).difference == pair.mean.difference
    assert beside.pair(0, 1).real


def test_runs_that_form_a_group_of_their_own_fail_where_none_may_be_worse():
    other = [run_of(scored(resolved(one, data="f" * 64), 1.0)) for one in (L2, TOY)]
    _check(compare([GOOD, BAD]), 0.9)
    with pytest.raises(ClickException, match="was not compared with dn2 normalize=l2, see above"):
        _check(compare([GOOD, BAD, *other]), 0.9)


def test_groups_of_one_data_set_that_are_not_ranked_are_named():
    other = [
        run_of(scored(resolved(replace(one, dataset="set1"), data="f" * 64), 1.0))
        for one in (L2, TOY)
    ]
    found = compare([*on_data_sets(3), *other])
    assert len(found.rankings) == 1
    assert found.apart[-1] == (
        "The ranks on set1, one_vs_rest are those of the first group, without 'dn2 normalize=l2'."
    )


def test_the_record_has_the_keys_that_are_promised():
    record = comparison_record(compare([GOOD, BAD]))
    json.dumps(record, allow_nan=False)
    assert [one["class_name"] for one in record["differences"]] == [*ANIMALS, None]
    assert {"a", "b", "class_name", "difference", "low", "high", "p", "p_holm"} <= set(
        record["differences"][0]
    )
    assert {one["a"] for one in record["differences"]} == {GOOD.stored.run_id}
    assert [one["run_id"] for one in record["runs"]] == [GOOD.stored.run_id, BAD.stored.run_id]


# Several data sets


def on_data_sets(n, shifts=(2.0, 1.5, 1.0)):
    """Make runs of three methods on several data sets, the best first on each."""
    methods = (L2, TOY, OCSVM)
    return [
        run_of(scored(resolved(replace(method, dataset=f"set{d}"), data=f"{d:064}"), shift, seed=d))
        for d in range(n)
        for method, shift in zip(methods, shifts, strict=True)
    ]


def test_methods_on_several_data_sets_are_ranked():
    found = compare(on_data_sets(4))
    assert found.apart == ()
    (ranking,) = found.rankings
    assert ranking.labels == ("dn2 normalize=l2", "dn2 normalize=none", "ocsvm oracle")
    assert ranking.datasets == ("set0", "set1", "set2", "set3")
    assert ranking.test.mean_ranks.tolist() == [1.0, 2.0, 3.0]
    assert not ranking.too_few
    text = " ".join(text_of(found).split())
    assert "The methods differ. dn2 normalize=l2 ranks really better than ocsvm oracle." in text
    assert comparison_record(found)["rankings"][0]["f"] is None


def test_two_data_sets_are_too_few_and_the_table_says_so():
    text = " ".join(text_of(compare(on_data_sets(2))).split())
    assert "2 data sets are too few to show a difference between 3 methods by their ranks" in text


def test_only_methods_that_every_data_set_has_are_ranked():
    assert compare(on_data_sets(3)[:-1]).rankings == ()
    other = resolved(L2, weights={"efficientnet_lite0": "b" * 64})
    swapped = run_of(scored(resolved(replace(other, dataset="set2"), data=f"{2:064}"), 2.0))
    assert compare([*on_data_sets(2), swapped, *on_data_sets(3)[-2:]]).rankings == ()


def test_seeds_of_a_method_are_averaged_before_they_are_ranked():
    again = [run_of(scored(replace(L2, dataset="set0", seed=5), 0.1, seed=9))]
    again[0].record["resolved"]["data"] = f"{0:064}"
    (ranking,) = compare([*on_data_sets(3), *again]).rankings
    alone = compare(on_data_sets(3)).rankings[0]
    assert len(ranking.labels) == 3
    assert ranking.values[0, 0] < alone.values[0, 0]
    assert (ranking.values[1:] == alone.values[1:]).all()


def test_the_diagram_joins_what_does_not_differ():
    figure = draw_ranking(compare(on_data_sets(4)).rankings[0])
    assert [text.get_text() for text in figure.axes[0].texts[-3:]] == [
        "dn2 normalize=l2 (1.00)",
        "dn2 normalize=none (2.00)",
        "ocsvm oracle (3.00)",
    ]
    ranks = {"a": 1.0, "b": 2.0, "$c": 3.5}
    axes = critical_difference("title", ranks, 1.6, 9).axes[0]
    bars = [line.get_xdata() for line in axes.lines if line.get_linewidth() == 4]
    assert [[round(float(end)) for end in bar] for bar in bars] == [[1, 2], [2, 4]]
    critical_difference("title", ranks, 1.6, 9).savefig(io.BytesIO())
