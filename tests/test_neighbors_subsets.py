"""Searching many subsets at once answers what a bank of each subset answers, to the last bit."""

import numpy as np
import pytest
import torch

from dn2 import exact, narrow
from dn2.neighbors import Bank


def clumsy_rows(n, seed):
    """Few columns of small integers, an offset, duplicates: ties everywhere."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 3, (n, 5)) + 1000.0 + 1e-3 * rng.integers(0, 2, (n, 5))).astype(np.float32)


ROWS = {"ties": clumsy_rows(1300, 0), "gauss": np.random.default_rng(1).standard_normal((1300, 24)).astype(np.float32)}
QUERIES = {"ties": clumsy_rows(70, 2), "gauss": np.random.default_rng(3).standard_normal((70, 24)).astype(np.float32)}


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
        expected = Bank(own, index=index).nearest(own if exclude_self else queries, k, exclude_self=exclude_self)
        for array, want in zip(answer, expected, strict=True):
            assert array.dtype == want.dtype
            np.testing.assert_array_equal(array, want)


@pytest.mark.parametrize("exclude_self", [False, True])
def test_answers_do_not_depend_on_blocks_or_threads(monkeypatch, exclude_self):
    rows = ROWS["ties"]
    queries, subsets = rows if exclude_self else QUERIES["ties"], some_subsets(len(rows), 4)
    expected = Bank(rows).nearest_in(subsets, queries, 3, exclude_self=exclude_self)
    for constant, value in {"PRODUCT": 1, "PIECE": 1}.items():
        monkeypatch.setattr(exact if constant == "PRODUCT" else narrow, constant, value)
        monkeypatch.setattr(exact, "cores", lambda: 3)
        found = Bank(rows).nearest_in(subsets, queries, 3, exclude_self=exclude_self)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one[0], other[0])
            np.testing.assert_array_equal(one[1], other[1])


def test_there_is_one_product_whatever_the_number_of_subsets(monkeypatch):
    columns, mm = [], torch.mm
    monkeypatch.setattr(torch, "mm", lambda a, b, out: columns.append(a.shape[0] * b.shape[1]) or mm(a, b, out=out))
    Bank(ROWS["gauss"]).nearest_in(some_subsets(1300, 2), QUERIES["gauss"], 2)
    assert sum(columns) == 70 * 1300


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
        Bank(rows).nearest_in([np.arange(9), np.array(subset, np.int64)], rows, k, exclude_self=exclude_self)


def test_no_subset_no_answer():
    assert Bank(ROWS["gauss"]).nearest_in([], QUERIES["gauss"], 2) == []
