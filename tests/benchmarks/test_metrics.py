"""ROCAUC, average precision and their intervals.

They are compared with scikit-learn, with definitions written out, and with simulation.
"""

import time

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks import metrics
from benchmarks.metrics import auroc, average_precision, mean_rocauc, rocauc, split_metrics

DTYPES = [bool, np.uint8, np.int64, np.float32, np.float64]


def draw(seed, n=200, dtype=np.float64, distinct=None):
    """Draw labels of both classes, and scores.

    With ``distinct``, the scores take so few values that most are tied.
    """
    rng = np.random.default_rng(seed)
    is_anomaly = rng.permutation(np.arange(n) < max(1, rng.integers(1, n)))
    scores = rng.normal(size=n) + rng.uniform(-1, 3) * is_anomaly
    if dtype is bool:
        return is_anomaly, scores > 0
    if distinct or np.issubdtype(dtype, np.integer):
        scores = np.clip(np.round(scores * (distinct or 5)), 0, 250)
    return is_anomaly, scores.astype(dtype)


def one_vs_rest(seed, per_class=50, n_classes=4, shift=1.5, shared=0.0):
    """Make splits over one test set.

    ``shared`` is the part of an image's noise that all its scores have in common.
    """
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_classes), per_class)
    noise = np.sqrt(1 - shared) * rng.normal(size=(n_classes, len(labels))) + np.sqrt(
        shared
    ) * rng.normal(size=len(labels))
    rows = 1000 + np.arange(len(labels))
    return [(rows, labels != c, noise[c] + shift * (labels != c)) for c in range(n_classes)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(30))
def test_values_equal_scikit_learn(seed, dtype):
    is_anomaly, scores = draw(seed, n=5 + 13 * seed, dtype=dtype, distinct=seed % 3)
    expected = roc_auc_score(is_anomaly, scores)
    assert auroc(is_anomaly, scores) == pytest.approx(expected, abs=1e-12)
    assert rocauc(is_anomaly, scores).value == auroc(is_anomaly, scores)
    assert average_precision(is_anomaly, scores) == pytest.approx(
        average_precision_score(is_anomaly, scores), abs=1e-12
    )


def test_integers_beyond_float_precision_are_told_apart():
    assert auroc(np.array([False, True]), np.array([2**60, 2**60 + 1])) == 1.0


def test_higher_is_more_anomalous_and_ties_count_half():
    labels = np.array([False, False, True, True])
    assert auroc(labels, np.array([0, 1, 2, 3])) == 1.0
    assert auroc(labels, np.array([3, 2, 1, 0])) == 0.0
    assert auroc(labels, np.array([0, 1, 1, 2])) == 0.875
    assert auroc(labels, np.zeros(4)) == 0.5


def test_inputs_are_not_modified_and_their_order_does_not_matter():
    is_anomaly, scores = draw(0)
    before = scores.copy()
    order = np.random.default_rng(1).permutation(len(scores))
    assert split_metrics(is_anomaly, scores) == pytest.approx(
        split_metrics(is_anomaly[order], scores[order]), abs=1e-12
    )
    assert np.array_equal(scores, before)


def delong_by_definition(is_anomaly, scores):
    """Compute the variance from all pairs, one at a time."""
    normal, anomalous = scores[~is_anomaly], scores[is_anomaly]
    wins = np.array([[1.0 if a > b else 0.5 if a == b else 0.0 for b in normal] for a in anomalous])
    return wins.mean(1).var(ddof=1) / len(anomalous) + wins.mean(0).var(ddof=1) / len(normal)


@pytest.mark.parametrize("seed", range(15))
def test_the_interval_has_delongs_variance_on_the_logit_scale(seed):
    is_anomaly, scores = draw(seed, n=40 + seed, distinct=seed % 3)
    value, low, high = rocauc(is_anomaly, scores)
    if 0 < value < 1 and 1 < is_anomaly.sum() < len(scores) - 1:
        half = 1.96 * np.sqrt(delong_by_definition(is_anomaly, scores)) / (value * (1 - value))
        assert (low, high) == pytest.approx(
            (expit(logit(value) - half), expit(logit(value) + half)), abs=1e-5
        )
    assert 0 <= low <= value <= high <= 1


def test_a_perfect_separation_has_the_bound_of_as_many_trials_as_the_smaller_class():
    labels = np.arange(50) >= 10
    assert rocauc(labels, np.arange(50)) == pytest.approx((1.0, 0.025**0.1, 1.0))
    assert rocauc(labels, -np.arange(50)) == pytest.approx((0.0, 0.0, 1 - 0.025**0.1))
    assert rocauc(np.arange(2000) >= 1000, np.arange(2000)).low > 0.996


def test_a_class_of_one_image_gets_a_wide_interval():
    scores = np.arange(100.0)
    value, low, high = rocauc(scores == 90, scores)
    assert value == pytest.approx(90 / 99)
    assert low < 0.5
    assert high > 0.98


def test_equal_scores_everywhere_are_chance_without_width():
    assert rocauc(np.arange(10) < 4, np.ones(10)) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("area", [0.6, 0.9, 0.98])
def test_the_interval_covers_the_truth_as_often_as_it_says(area):
    rng = np.random.default_rng(int(100 * area))
    labels = np.arange(600) >= 100
    shift = np.sqrt(2) * norm.ppf(area)
    found = [rocauc(labels, rng.normal(size=600) + shift * labels) for _ in range(400)]
    coverage = np.mean([low <= area <= high for _, low, high in found])
    assert 0.915 < coverage < 0.98  # 0.95 within three standard errors of the simulation


def weighted_by_definition(units, is_anomaly, scores, weights):
    """Compute the weighted ROCAUC from all pairs."""
    w = weights[units]
    wins = (scores[is_anomaly][:, None] > scores[~is_anomaly]) + 0.5 * (
        scores[is_anomaly][:, None] == scores[~is_anomaly]
    )
    return w[is_anomaly] @ wins @ w[~is_anomaly] / (w[is_anomaly].sum() * w[~is_anomaly].sum())


@pytest.mark.parametrize("seed", range(12))
def test_the_resampled_rocauc_is_exact_with_ties(seed):
    is_anomaly, scores = draw(seed, n=30 + seed, distinct=(seed % 4) or None)
    rng = np.random.default_rng(seed)
    units = rng.integers(0, 60, size=len(scores))  # some rows appear twice, some never
    weights = rng.standard_exponential((60, 3))
    found = metrics._Counts(units, is_anomaly, scores, 60).auroc(weights)
    assert found == pytest.approx(
        [weighted_by_definition(units, is_anomaly, scores, w) for w in weights.T], abs=1e-12
    )


def influence_width(splits):
    """Compute the width of the mean's interval from the linear expansion.

    It sums each image's influence on all splits.
    """
    pull = np.zeros(len(splits[0][0]))
    for _, is_anomaly, scores in splits:
        for side in (is_anomaly, ~is_anomaly):
            wins = (scores[side][:, None] > scores[~side]) + 0.5 * (
                scores[side][:, None] == scores[~side]
            )
            pull[side] += (
                (wins.mean(1) - wins.mean())
                / side.sum()
                * (1 if side is is_anomaly else -1)
                / len(splits)
            )
    return 2 * 1.96 * np.sqrt((pull**2).sum())


@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_the_means_interval_agrees_with_the_linear_expansion(shared):
    splits = one_vs_rest(3, per_class=150, shared=shared)
    value, low, high = mean_rocauc(splits, replicates=4000)
    assert value == pytest.approx(np.mean([roc_auc_score(a, s) for _, a, s in splits]), abs=1e-12)
    assert high - low == pytest.approx(influence_width(splits), rel=0.06)
    assert (low + high) / 2 == pytest.approx(value, abs=0.1 * (high - low))


def test_splits_over_the_same_images_are_not_taken_for_independent():
    rows, is_anomaly, scores = one_vs_rest(0, per_class=100)[0]
    twice = mean_rocauc([(rows, is_anomaly, scores)] * 2, replicates=4000)
    apart = mean_rocauc(
        [(rows, is_anomaly, scores), (rows + 10_000, is_anomaly, scores)], replicates=4000
    )
    alone = rocauc(is_anomaly, scores)
    assert twice.high - twice.low == pytest.approx(alone.high - alone.low, rel=0.08)
    assert apart.high - apart.low == pytest.approx((alone.high - alone.low) / np.sqrt(2), rel=0.08)


def test_the_means_interval_covers_the_truth_as_often_as_it_says():
    truth = norm.cdf(1.5 / np.sqrt(2))
    found = [
        mean_rocauc(one_vs_rest(seed, per_class=40, shared=0.5), replicates=300)
        for seed in range(300)
    ]
    assert 0.91 < np.mean([low <= truth <= high for _, low, high in found]) < 0.985


def test_rows_tell_which_images_are_the_same_in_any_order():
    splits = one_vs_rest(1)
    order = np.random.default_rng(5).permutation(len(splits[0][0]))
    shuffled = [splits[0], *((rows[order], a[order], s[order]) for rows, a, s in splits[1:])]
    assert mean_rocauc(shuffled) == pytest.approx(mean_rocauc(splits), abs=1e-12)
    half = [
        (rows[::2], a[::2], s[::2]) if i else (rows, a, s) for i, (rows, a, s) in enumerate(splits)
    ]
    assert mean_rocauc(half).low < mean_rocauc(half).value < mean_rocauc(half).high


def test_a_group_of_images_is_one_unit():
    splits = one_vs_rest(1)
    as_groups = [(np.stack([rows, rows + 7], axis=1), a, s) for rows, a, s in splits]
    assert mean_rocauc(as_groups) == pytest.approx(mean_rocauc(splits), abs=1e-12)


def test_one_split_has_its_own_interval_and_perfect_ones_the_mean_of_theirs():
    (split,) = one_vs_rest(0)[:1]
    assert mean_rocauc([split]) == rocauc(*split[1:])
    rows, labels = np.arange(50), np.arange(50) >= 10
    assert mean_rocauc([(rows, labels, np.arange(50))] * 3) == pytest.approx((1.0, 0.025**0.1, 1.0))


def test_a_seed_gives_the_same_interval_and_the_global_generator_is_left_alone():
    splits = one_vs_rest(2)
    np.random.random()
    state = np.random.get_state()[1].copy()
    first = mean_rocauc(splits, seed=4)
    assert mean_rocauc(splits, seed=4) == first
    assert mean_rocauc(splits, seed=5) != first
    assert np.array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize(
    ("is_anomaly", "scores", "message"),
    [
        ([True, True], [0.1, 0.2], "got 0 and 2"),
        ([False, False], [0.1, 0.2], "got 2 and 0"),
        ([], [], "booleans|got 0 and 0"),
        ([True, False], [np.nan, 0.2], r"got nan at position 0 \(1 of 2 scores are not finite\)"),
        ([True, False], [0.1, np.inf], "got inf at position 1"),
        ([True, False, True], [0.1, 0.2], r"got \(3,\) and \(2,\)"),
        ([[True, False]], [[0.1, 0.2]], r"shape \(n,\)"),
        ([1, 0], [0.1, 0.2], "booleans .* got int64"),
        ([1, -1], [0.1, 0.2], "booleans"),
        ([True, False], ["a", "b"], "real numbers, got <U1"),
        ([True, False], [1j, 0], "real numbers, got complex128"),
    ],
)
@pytest.mark.parametrize("metric", [auroc, rocauc, average_precision, split_metrics])
def test_bad_input_is_named(metric, is_anomaly, scores, message):
    with pytest.raises(ValueError, match=message):
        metric(np.array(is_anomaly), np.array(scores))


def test_the_mean_refuses_no_splits_and_misaligned_rows():
    rows, is_anomaly, scores = one_vs_rest(0)[0]
    with pytest.raises(ValueError, match="at least one split"):
        mean_rocauc([])
    with pytest.raises(ValueError, match="199 rows and 200 scores"):
        mean_rocauc([(rows[1:], is_anomaly, scores)])


def test_split_metrics_are_complete_and_plain_floats():
    is_anomaly, scores = draw(1, dtype=np.float32)
    found = split_metrics(is_anomaly, scores)
    assert list(found) == ["rocauc", "rocauc_low", "rocauc_high", "average_precision", "prevalence"]
    assert all(type(value) is float for value in found.values())
    assert found["prevalence"] == is_anomaly.mean()


def fastest(call, repeats=3):
    """Take the shortest of a few runs, so that a busy machine does not fail the test."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def test_ten_thousand_scores_cost_milliseconds_and_their_bootstrap_a_second():
    splits = one_vs_rest(0, per_class=1000, n_classes=10)
    _, is_anomaly, scores = splits[0]
    assert fastest(lambda: auroc(is_anomaly, scores)) < 0.010
    assert fastest(lambda: split_metrics(is_anomaly, scores)) < 0.020
    assert fastest(lambda: mean_rocauc(splits)) < 1.5
