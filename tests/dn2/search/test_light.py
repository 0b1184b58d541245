"""The search without torch gives the answers of the search with it, to the last bit."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dn2.search import Bank, light

ROOT = Path(__file__).parent.parent.parent.parent


def gauss(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def make_cases():
    """Make rows (queries, bank) that have led a matrix product astray, or might."""
    raw = np.maximum(gauss(1, 100, 96) @ gauss(2, 96, 96) / 8, 0)
    side = 3e18 * (-1.0) ** np.arange(90)[:, None]
    return {
        "raw": (raw[:40], raw[40:]),
        "float32": (raw[:40].astype(np.float32), raw[40:].astype(np.float32)),
        "float64 in a bank of float32": (raw[:40], raw[40:].astype(np.float32)),
        "one column": (gauss(9, 40, 1), gauss(10, 120, 1)),
        "offset": (gauss(11, 40, 64).astype(np.float32) + 1e4, gauss(12, 90, 64) + 1e4),
        "near duplicates": (gauss(3, 1, 64) + 1e-6 * gauss(4, 40, 64),) * 2,
        "equal rows": (np.ones((30, 8)), np.ones((40, 8))),
        "tiny": (1e-22 * gauss(5, 20, 8), 1e-22 * gauss(6, 30, 8)),
        "huge": (
            (1e16 * gauss(7, 40, 64) + side[:40]).astype(np.float32),
            (1e16 * gauss(8, 90, 64) + side).astype(np.float32),
        ),
    }


CASES = make_cases()


def both(bank):
    return Bank(bank, device="numpy"), Bank(bank, device="cpu")


def assert_equal(ours, theirs):
    for found, expected in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype


@pytest.mark.parametrize("name", CASES)
def test_answers_are_those_of_the_exact_search(name, monkeypatch):
    queries, bank = CASES[name]
    monkeypatch.setattr(light, "BLOCK_DISTANCES", 7 * len(bank))  # more than one block
    ours, theirs = both(bank)
    for k in (1, 4, 20):
        assert_equal(ours.nearest(queries, k), theirs.nearest(queries, k))
    assert_equal(
        ours.nearest(bank, 3, exclude_self=True), theirs.nearest(bank, 3, exclude_self=True)
    )


@pytest.mark.parametrize("exclude_self", [False, True])
def test_subsets_are_banks_of_their_own(exclude_self):
    queries, bank = CASES["raw"]
    subsets = [np.arange(3, 40), np.arange(0, 60, 7), np.arange(60)]
    ours, theirs = both(bank)
    asked = bank if exclude_self else queries
    for found, expected in zip(
        ours.nearest_in(subsets, asked, 3, exclude_self=exclude_self),
        theirs.nearest_in(subsets, asked, 3, exclude_self=exclude_self),
        strict=True,
    ):
        assert_equal(found, expected)


def test_an_index_of_many_rows_needs_no_torch():
    code = (
        "import sys, numpy as np; from dn2.search import nearest\n"
        "rows = np.random.default_rng(0).standard_normal((1200, 8)).astype(np.float32)\n"
        "for index in ('exact', 'flat', 'hnsw', 'ivf'):\n"
        "    found = nearest(rows[:5], rows, 1, index=index, device='numpy')[1]\n"
        "    assert found.ravel().tolist() == [0, 1, 2, 3, 4], index\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
