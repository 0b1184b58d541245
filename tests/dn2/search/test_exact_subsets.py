"""Searching many subsets at once answers what a bank of each subset answers, to the last bit."""

import numpy as np
import pytest
import torch

from dn2.search import Bank, exact


def clumsy_rows(n, seed):
    """Draw few columns of small integers, with an offset and duplicates: ties everywhere."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 3, (n, 5)) + 1000.0 + 1e-3 * rng.integers(0, 2, (n, 5))).astype(
        np.float32
    )


ROWS = {
    "ties": clumsy_rows(1300, 0),
    "gauss": np.random.default_rng(1).standard_normal((1300, 24)).astype(np.float32),
}
QUERIES = {
    "ties": clumsy_rows(70, 2),
    "gauss": np.random.default_rng(3).standard_normal((70, 24)).astype(np.float32),
}


def some_subsets(n, least):
    rng = np.random.default_rng(4)
    sizes = (n, n - 1, n // 2, n // 2, least, least + 1)
    middle = np.arange(600, 640)  # no row of it in the first block of queries
    return [*(np.sort(rng.choice(n, size, replace=False)) for size in sizes), middle]


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("k", [1, 2, 9])
@pytest.mark.parametrize("index", ["exact", "flat"])
@pytest.mark.parametrize("name", ROWS)
def test_subsets_equal_banks_of_their_own(name, index, k, exclude_self):
    rows, queries = ROWS[name], ROWS[name] if exclude_self else QUERIES[name]
    subsets = some_subsets(len(rows), k + exclude_self)
    found = Bank(rows, index=index).nearest_in(subsets, queries, k, exclude_self=exclude_self)
    assert len(found) == len(subsets)
    for subset, answer in zip(subsets, found, strict=True):
        own = rows[subset]
        expected = Bank(own, index=index).nearest(
            own if exclude_self else queries, k, exclude_self=exclude_self
        )
        for array, want in zip(answer, expected, strict=True):
            assert array.dtype == want.dtype
            np.testing.assert_array_equal(array, want)


@pytest.mark.parametrize("exclude_self", [False, True])
def test_answers_do_not_depend_on_blocks_or_threads(monkeypatch, exclude_self):
    rows = ROWS["ties"]
    queries, subsets = rows if exclude_self else QUERIES["ties"], some_subsets(len(rows), 4)
    expected = Bank(rows).nearest_in(subsets, queries, 3, exclude_self=exclude_self)
    for constant, value in {"BLOCK_DISTANCES": 1, "SCANNED_VALUES": 1}.items():
        monkeypatch.setattr(exact, constant, value)
        monkeypatch.setattr(exact, "available_cores", lambda: 3)
        found = Bank(rows).nearest_in(subsets, queries, 3, exclude_self=exclude_self)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one[0], other[0])
            np.testing.assert_array_equal(one[1], other[1])


@pytest.mark.parametrize("subsets", [1, 2, 7])
def test_there_is_one_product_whatever_the_number_of_subsets(subsets, monkeypatch):
    columns, mm = [], torch.mm
    monkeypatch.setattr(
        torch, "mm", lambda a, b, out: columns.append(a.shape[0] * b.shape[1]) or mm(a, b, out=out)
    )
    monkeypatch.setattr(
        exact, "is_fast_in_bfloat16", lambda device: False
    )  # a coarse product may be followed by a fine one
    Bank(ROWS["gauss"]).nearest_in(some_subsets(1300, 2)[:subsets], QUERIES["gauss"], 2)
    assert sum(columns) == 70 * 1300


def assert_like_banks_of_their_own(rows, queries, subsets, k, exclude_self):
    found = Bank(rows).nearest_in(subsets, queries, k, exclude_self=exclude_self)
    for subset, answer in zip(subsets, found, strict=True):
        own = rows[subset]
        expected = Bank(own).nearest(own if exclude_self else queries, k, exclude_self=exclude_self)
        np.testing.assert_array_equal(answer[0], expected[0])
        np.testing.assert_array_equal(answer[1], expected[1])


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("listed", [3, 20, 256])
def test_the_worst_rounding_of_the_product_changes_no_answer(listed, exclude_self, monkeypatch):
    """Short lists, on which the error leaves most queries unsure."""
    rows, generator = ROWS["gauss"], torch.Generator().manual_seed(0)
    queries, subsets = rows if exclude_self else QUERIES["gauss"], some_subsets(1300, 4)

    def worst(ours, theirs, out):
        lengths = ours[:, :-1].double().norm(dim=1)[:, None] * theirs[:-1].double().norm(dim=0)
        signs = torch.rand(out.shape, generator=generator).round() * 2 - 1
        out.copy_(ours.double() @ theirs.double() + signs * 0.45 * lengths)

    expected = [
        Bank(rows[s]).nearest(rows[s] if exclude_self else queries, 3, exclude_self=exclude_self)
        for s in subsets
    ]
    monkeypatch.setattr(torch, "mm", worst)
    monkeypatch.setattr(exact, "SHORTLISTED", listed)
    monkeypatch.setattr(
        exact.Product,
        "error_bound",
        lambda self, centred, moved: centred.double().norm(dim=1) * self.longest,
    )
    for answer, want in zip(
        Bank(rows).nearest_in(subsets, queries, 3, exclude_self=exclude_self), expected, strict=True
    ):
        np.testing.assert_array_equal(answer[0], want[0])
        np.testing.assert_array_equal(answer[1], want[1])


@pytest.mark.parametrize("exclude_self", [False, True])
def test_squares_that_overflow_hide_no_near_row(exclude_self):
    rng = np.random.default_rng(5)
    side = 3e18 * (-1.0) ** np.arange(600)[:, None]
    rows = (1e16 * rng.standard_normal((600, 64)) + side).astype(np.float32)
    subsets = [
        np.arange(600),
        np.arange(600)[np.arange(600) % 3 > 0],
        np.arange(0, 600, 2),
        np.arange(50, 600),
    ]
    queries = (
        rows
        if exclude_self
        else (1e16 * rng.standard_normal((40, 64)) + side[:40]).astype(np.float32)
    )
    assert_like_banks_of_their_own(rows, queries, subsets[:2] + subsets[3:], 3, exclude_self)


def test_no_pair_is_measured_twice(monkeypatch):
    pairs, original = [], exact.measure

    def spy(queries, rows, query, row):
        pairs.extend(zip(queries[query, 0].tolist(), row.tolist(), strict=True))
        return original(queries, rows, query, row)

    monkeypatch.setattr(exact, "measure", spy)
    subsets = [np.arange(start, 1300) for start in range(0, 400, 20)]
    Bank(ROWS["gauss"]).nearest_in(subsets, QUERIES["gauss"], 2)
    assert len(pairs) == len(set(pairs)) < 70 * 2 * 20 / 3


def test_equal_rows_make_no_list():
    rows, values = np.zeros((2500, 4), np.float32), torch.zeros(6, 2500)
    known = exact.Shortlist(rows, rows[:6], values, torch.zeros(6, dtype=torch.float64))
    assert len(known.row) == 0
    assert not known.nearest(np.arange(2500), np.ones(6, dtype=bool), 2)[0].any()
    assert_like_banks_of_their_own(
        rows, rows[:6], [np.arange(n, 2500) for n in (0, 1, 700)], 2, False
    )


@pytest.mark.parametrize(
    ("subset", "k", "exclude_self", "message"),
    [
        ([0, 2, 1], 1, False, "must ascend from 0 to 1299"),
        ([0, 1, 1], 1, False, "must ascend"),
        ([-1, 0], 1, False, "must ascend"),
        ([0, 1300], 1, False, "must ascend"),
        ([3, 4], 3, False, r"nearest\(k=3\) needs at least 3 bank rows, got 2"),
        ([3, 4], 2, True, r"at least 3 bank rows, the query's own included, got 2"),
        ([], 1, False, "got 0"),
    ],
)
def test_bad_subsets_are_refused(subset, k, exclude_self, message):
    rows = ROWS["gauss"]
    with pytest.raises(ValueError, match=message):
        Bank(rows).nearest_in(
            [np.arange(9), np.array(subset, np.int64)], rows, k, exclude_self=exclude_self
        )


def test_no_subset_no_answer():
    assert Bank(ROWS["gauss"]).nearest_in([], QUERIES["gauss"], 2) == []
