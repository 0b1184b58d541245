"""DN2's cleaning against a brute force in float64."""

import numpy as np
import pytest

from dn2.detector import DN2, n_dropped, normal_rows

RNG = np.random.default_rng(0)
TRAIN = np.concatenate([RNG.standard_normal((61, 8)), RNG.standard_normal((20, 8)) * 3 + 4]).astype(
    np.float32
)
TEST = RNG.standard_normal((40, 8)).astype(np.float32)


def brute_kept(train, k, clean):
    """Drop the floor(clean * n) rows with the largest mean distance to their k nearest others."""
    train = train.astype(np.float64)
    distances = ((train[:, None] - train) ** 2).sum(2)
    np.fill_diagonal(distances, np.inf)
    means = np.sort(distances, axis=1)[:, :k].mean(1)
    drop = int(clean * len(train))
    return np.sort(np.argsort(means, kind="stable")[: len(train) - drop])


@pytest.mark.parametrize("clean", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("k", [1, 2, 7])
def test_cleaning_equals_brute_force(k, clean):
    kept = brute_kept(TRAIN, k, clean)
    fitted = DN2(k=k, clean=clean).fit(TRAIN)
    np.testing.assert_array_equal(fitted.kept_, kept)
    np.testing.assert_array_equal(fitted.bank_, TRAIN[kept])
    np.testing.assert_array_equal(
        fitted.anomaly_score(TEST), DN2(k=k).fit(TRAIN[kept]).anomaly_score(TEST)
    )


def test_a_cleaned_path_is_one_point_and_names_rows_of_the_training_set():
    kept = brute_kept(TRAIN, 3, 0.5)
    ((params, scores, nearest),) = DN2(k=3, clean=0.5).fit(TRAIN).score_path(TEST)
    assert params == {"k": 3}
    *_, (_, expected, places) = DN2(k=3).fit(TRAIN[kept]).score_path(TEST)
    np.testing.assert_array_equal(scores, expected)
    np.testing.assert_array_equal(nearest, kept[places])


@pytest.mark.parametrize("index", ["exact", "flat"])
@pytest.mark.parametrize("clean", [0.3, 0.5, 0.01])
def test_cleaned_subsets_agree_with_fits(clean, index):
    bank = np.concatenate([TRAIN, TRAIN[:30]])  # duplicates
    subsets = [np.arange(len(bank)), np.arange(0, len(bank), 2), np.arange(60, 111), np.arange(10)]
    found = DN2(k=2, clean=clean, index=index).score_subsets(bank, subsets, TEST)
    for subset, points in zip(subsets, found, strict=True):
        ((params, scores, nearest),) = points
        ((_, expected, rows),) = (
            DN2(k=2, clean=clean, index=index).fit(bank[subset]).score_path(TEST)
        )
        assert params == {"k": 2}
        np.testing.assert_array_equal(scores, expected)
        np.testing.assert_array_equal(nearest, rows)


def test_anomalies_among_the_training_rows_are_dropped():
    assert DN2(clean=20 / 81).fit(TRAIN).kept_.max() < 61
    assert DN2(clean=0.0).fit(TRAIN).kept_.tolist() == list(range(81))


def test_a_row_is_not_its_own_neighbour():
    """If it were, every distance would be 0 and the last row dropped, not the far one."""
    rows = np.array([[50.0], [0.0], [1.0], [2.0]])
    assert DN2(k=1, clean=0.25).fit(rows).kept_.tolist() == [1, 2, 3]


def test_of_equal_rows_the_last_are_dropped():
    assert DN2(k=1, clean=0.5).fit(np.ones((6, 2))).kept_.tolist() == [0, 1, 2]
    assert normal_rows(np.array([1.0, 3.0, 3.0, 0.0]), 0.25).tolist() == [0, 1, 3]


@pytest.mark.parametrize(
    ("n", "clean", "dropped"), [(100, 0.29, 29), (10, 0.19, 1), (7, 0.5, 3), (3, 0.3, 0), (5, 0, 0)]
)
def test_floor_of_the_fraction(n, clean, dropped):
    assert n_dropped(n, clean) == dropped


@pytest.mark.parametrize("clean", [1, 1.5, -0.1, float("nan"), True, "0.5"])
def test_a_fraction_out_of_range_is_refused(clean):
    for check in (lambda: DN2(clean=clean).check_rows(100), lambda: DN2(clean=clean).fit(TRAIN)):
        with pytest.raises(
            ValueError, match=r"clean must be a fraction of the training rows in \[0, 1\), got"
        ):
            check()


def test_rows_are_counted_after_cleaning():
    message = (
        r"^DN2\(k=5\) needs at least 5 training rows after clean=0\.5, got 4 of 8: "
        r"lower k or train on more images\.$"
    )
    for check in (
        lambda: DN2(k=5, clean=0.5).check_rows(8),
        lambda: DN2(k=5, clean=0.5).fit(TRAIN[:8]),
    ):
        with pytest.raises(ValueError, match=message):
            check()
    DN2(k=5, clean=0.5).check_rows(10)
    DN2(k=5, clean=0.5).fit(TRAIN[:10])
    with pytest.raises(ValueError, match="after clean"):
        list(DN2(k=5, clean=0.5).score_subsets(TRAIN, [np.arange(20), np.arange(8)], TEST))


def test_an_unknown_index_is_known_before_the_fit():
    with pytest.raises(ValueError, match="did you mean 'flat'"):
        DN2(index="flatt").check_rows(100)
