"""Nearest neighbours against a brute force in float64."""

import numpy as np
import pytest
import torch

from dn2.search import Bank, exact, nearest, terms
from dn2.search.exact import Product


@pytest.fixture(autouse=True, params=["fine", "coarse"])
def precision(request, monkeypatch):
    """Either product can be the first, whatever the processor."""
    monkeypatch.setattr(exact, "is_fast_in_bfloat16", lambda device: request.param == "coarse")
    return request.param


def gauss(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def brute(queries, bank, k, exclude_self=False):
    """Search by differences in float64, ties to the lowest row: the oracle."""
    bank = bank.astype(np.float64)
    distances = np.array([((bank - query) ** 2).sum(1) for query in queries.astype(np.float64)])
    if exclude_self:
        np.fill_diagonal(distances, np.inf)
    rows = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, rows, 1), rows


def assert_exact(queries, bank, k, **options):
    distances, rows = nearest(queries, bank, k, **options)
    expected, expected_rows = brute(queries, bank, k, options.get("exclude_self", False))
    assert distances.dtype == np.float32
    assert rows.dtype == np.int64
    np.testing.assert_allclose(distances, expected, rtol=1e-6, atol=1e-37)
    np.testing.assert_array_equal(rows, expected_rows)
    assert (distances >= 0).all()
    assert (np.diff(distances, axis=1) >= 0).all()


def make_cases():
    """Make rows (queries, bank) that have led a matrix product astray, or might."""
    raw = np.maximum(gauss(1, 200, 96) @ gauss(2, 96, 96) / 8, 0)
    bank = 10 * gauss(3, 120, 64)
    tight = np.repeat(gauss(4, 6, 64), 20, 0)
    half_zero = np.maximum(gauss(5, 120, 64), 0) * (np.arange(120) % 2)[:, None]
    outlier = gauss(6, 120, 64) * np.where(np.arange(120) == 7, 1e6, 1)[:, None]
    cases = {
        "raw": (raw[:60], raw[60:]),
        "normalised": (unit(raw[:60] + 1e-3), unit(raw[60:] + 1e-3)),
        "wide": (gauss(7, 20, 9000), gauss(8, 30, 9000)),
        "one column": (gauss(9, 40, 1), gauss(10, 120, 1)),
        "offset 1e3": (gauss(11, 60, 64) + 1e3, gauss(12, 120, 64) + 1e3),
        "offset 1e4": (gauss(11, 60, 64) + 1e4, gauss(12, 120, 64) + 1e4),
        "near duplicates": (
            bank + 1e-4 * np.linalg.norm(bank, axis=1, keepdims=True) * unit(gauss(13, 120, 64)),
            bank,
        ),
        "tight clusters": (tight + 1e-4 * gauss(14, 120, 64), tight + 1e-4 * gauss(15, 120, 64)),
        "two far clusters": (
            gauss(16, 60, 64) + 1e3,
            gauss(17, 120, 64) + 1e3 * (-1.0) ** np.arange(120)[:, None],
        ),
        "duplicates": (np.repeat(bank[:20], 3, 0), np.tile(bank[:40], (3, 1))),
        "all zero": (np.zeros((40, 64)), np.zeros((120, 64))),
        "half zero": (half_zero[:40], half_zero),
        "far queries": (1e6 * gauss(18, 40, 64), gauss(19, 120, 64)),
        "one outlier": (gauss(20, 40, 64), outlier),
        "tiny": (1e-22 * gauss(21, 40, 64), 1e-22 * gauss(22, 120, 64)),
        "many groups of columns": (gauss(25, 20, 8), gauss(26, 1500, 8)),
    }
    cases = {name: tuple(part.astype(np.float32) for part in case) for name, case in cases.items()}
    integers = np.random.default_rng(27).integers(0, 4, (160, 16))
    cases["integers with ties"] = (integers[:40], integers[40:])
    cases["float64 beyond float32"] = (gauss(28, 40, 64) + 1e7, gauss(29, 120, 64) + 1e7)
    return cases


CASES = make_cases()


@pytest.mark.parametrize("k", [1, 2, 25, "all"])
@pytest.mark.parametrize("name", CASES)
def test_equals_brute_force_in_float64(name, k):
    queries, bank = CASES[name]
    assert_exact(queries, bank, len(bank) if k == "all" else k)


@pytest.mark.parametrize("name", CASES)
def test_exclude_self_equals_brute_force(name):
    assert_exact(CASES[name][1], CASES[name][1], 2, exclude_self=True)


def test_random_shapes_and_scales_equal_brute_force():
    for seed in range(60):
        rng = np.random.default_rng(seed)
        n, m, width = rng.integers(1, 70), rng.integers(1, 70), rng.integers(1, 40)
        pool = rng.normal(size=(rng.integers(1, 80), width)) * 10.0 ** rng.integers(
            -6, 6
        ) + 10.0 ** rng.integers(-3, 5)
        rows = (
            pool[rng.integers(0, len(pool), n + m)] * (1 + 1e-6 * rng.normal(size=(n + m, 1)))
        ).astype(np.float32)
        assert_exact(rows[:n], rows[n:], int(rng.integers(1, m + 1)))
        if m > 1:
            assert_exact(rows[n:], rows[n:], int(rng.integers(1, m)), exclude_self=True)


@pytest.mark.parametrize("name", CASES)
def test_depends_on_no_batch_order_block_or_thread_to_the_last_bit(name, monkeypatch):
    queries, bank = CASES[name]
    distances, rows = nearest(queries, bank, 3)
    order = np.random.default_rng(0).permutation(len(queries))
    for part in [slice(i, i + 7) for i in range(0, len(queries), 7)] + [order, slice(4, 5)]:
        for found, expected in zip(
            nearest(queries[part], bank, 3), (distances[part], rows[part]), strict=True
        ):
            np.testing.assert_array_equal(found, expected)
    bank_order = np.random.default_rng(1).permutation(len(bank))
    np.testing.assert_array_equal(nearest(queries, bank[bank_order], 3)[0], distances)
    for constant, value in {
        "BLOCK_DISTANCES": 1,
        "SCANNED_VALUES": 1,
        "CACHED_NUMBERS": 3 * bank.shape[1],
    }.items():
        home = terms if constant == "CACHED_NUMBERS" else exact
        monkeypatch.setattr(home, constant, value)
        np.testing.assert_array_equal(nearest(queries, bank, 3)[1], rows)
    monkeypatch.setattr(exact, "available_cores", lambda: 1)
    for found, expected in zip(nearest(queries, bank, 3), (distances, rows), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_squares_that_overflow_float32_hide_no_near_row():
    side = 3e18 * (-1.0) ** np.arange(120)[:, None]
    queries, bank = (
        (1e16 * gauss(seed, n, 64) + side[:n]).astype(np.float32)
        for seed, n in ((23, 40), (24, 120))
    )
    assert_exact(queries, bank, 3)
    assert_exact(bank, bank, 3, exclude_self=True)


@pytest.mark.parametrize("name", ["raw", "normalised", "near duplicates", "wide"])
def test_the_worst_rounding_of_the_product_changes_no_answer(name, monkeypatch):
    """A sum of d float32 products may be off by d / 2**24 of the lengths' product, up or down."""
    queries, bank = CASES[name]

    def worst(ours, theirs, out):
        width = bank.shape[1]
        lengths = ours[:, :width].double().norm(dim=1)[:, None] * theirs[:width].double().norm(
            dim=0
        )
        signs = torch.rand(out.shape, generator=torch.Generator().manual_seed(0)).round() * 2 - 1
        out.copy_(ours.double() @ theirs.double() + signs * 0.9 * width / 2**24 * lengths)

    monkeypatch.setattr(torch, "mm", worst)
    assert_exact(queries, bank, 2)
    assert_exact(queries, bank, 9)


def test_several_blocks_and_own_rows_in_each():
    rows = np.repeat(gauss(30, 700, 4), 3, 0).astype(np.float32)  # more than two blocks of queries
    distances, found = nearest(rows, rows, 3, exclude_self=True)
    own = np.arange(len(rows))
    assert not (found == own[:, None]).any()
    first = own - own % 3
    np.testing.assert_array_equal(
        np.sort(np.column_stack([found[:, :2], own]), 1), first[:, None] + np.arange(3)
    )
    assert (distances[:, :2] == 0).all()
    assert (distances[:, 2] > 0).all()


def test_equal_distances_come_lowest_row_first():
    np.testing.assert_array_equal(
        nearest(np.zeros((3, 5)), np.ones((40, 5)), 4)[1], np.tile(np.arange(4), (3, 1))
    )


def with_rounding_all_one_way():
    """Make rows whose every entry is rounded to bfloat16 in one direction, as far as possible."""
    signs = np.sign(gauss(36, 60, 64)).astype(np.float32)
    return signs[:20] * np.float32(1 + 2**-8.01), signs[20:] * np.float32(1 + 2**-8.01)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("name", [*CASES, "rounded one way"])
def test_no_product_is_off_by_more_than_its_bound(name, coarse):
    queries, bank = with_rounding_all_one_way() if name == "rounded one way" else CASES[name]
    queries, bank = (
        np.asarray(rows, np.float32 if rows.dtype != np.float64 else np.float64)
        for rows in (queries, bank)
    )
    out, product = (
        torch.empty(len(queries), len(bank)),
        Product(bank, torch.device("cpu"), coarse=coarse),
    )
    with product.settings():
        error = product.multiply(queries, out).numpy()
    mean = product.mean.double().numpy()  # the true distances, less the query's own square
    true = ((queries[:, None].astype(np.float64) - bank[None]) ** 2).sum(2) - (
        (queries - mean) ** 2
    ).sum(1)[:, None]
    assert (np.abs(out.double().numpy() - true).max(1) <= error).all()


@pytest.mark.parametrize("needed", [True, False])
def test_the_bound_on_coarse_factors_is_needed(needed, monkeypatch):
    """Without it a row that rounding hides is lost."""
    queries, bank = (gauss(seed, n, 256).astype(np.float32) for seed, n in ((37, 200), (38, 2000)))
    monkeypatch.setattr(exact, "is_fast_in_bfloat16", lambda device: True)
    if needed:
        monkeypatch.setattr(exact.Product, "error_bound", lambda self, centred, moved: 0 * moved)
    assert (nearest(queries, bank, 1)[1] != brute(queries, bank, 1)[1]).any() == needed


@pytest.mark.parametrize(("coarse", "most"), [(False, 6), (True, 12)])
def test_few_rows_are_measured_again(coarse, most):
    """The search is fast as its error bound is tight: offsets are removed with the mean."""
    queries, bank = (
        gauss(seed, n, 256).astype(np.float32) + np.float32(1e4)
        for seed, n in ((31, 200), (32, 2000))
    )
    values, product = torch.empty(200, 2000), Product(bank, torch.device("cpu"), coarse=coarse)
    marks = exact.candidates(values, product.multiply(queries, values), 5, None)
    assert 5 * 200 <= marks.sum() < most * 200


def test_a_fine_product_follows_only_where_the_coarse_one_leaves_a_crowd(precision):
    for name, fine in {"raw": False, "tight clusters": True}.items():
        queries, rows = CASES[name]
        bank = Bank(rows, device="cpu")
        bank.nearest(queries, 2)
        assert ("coarse" in vars(bank._index)) == (precision == "coarse")
        assert ("fine" in vars(bank._index)) == (precision == "fine" or fine)


def test_takes_any_real_matrix_and_changes_none(tmp_path):
    queries, bank = (gauss(33, 20, 6).astype(np.float32), gauss(34, 50, 6).astype(np.float32))
    expected = nearest(queries, bank, 3)
    np.save(tmp_path / "bank.npy", bank)
    frozen = bank.copy()
    frozen.flags.writeable = False
    forms = [
        np.load(tmp_path / "bank.npy", mmap_mode="r"),
        frozen,
        np.asfortranarray(bank),
        bank.tolist(),
        bank.astype(">f4"),
    ]
    for form in forms:
        for found, want in zip(
            nearest(np.repeat(queries, 2, 1)[:, ::2], form, 3), expected, strict=True
        ):
            np.testing.assert_array_equal(found, want)
    np.testing.assert_array_equal(bank, gauss(34, 50, 6).astype(np.float32))
    np.testing.assert_array_equal(queries, gauss(33, 20, 6).astype(np.float32))


def test_a_bank_is_searched_again_and_keeps_its_own_copy():
    queries, rows = CASES["raw"]
    given = rows.copy()
    bank = Bank(given, device="cpu")
    bank.nearest(rows, 4, exclude_self=True)
    given[:] = 0
    for found, expected in zip(bank.nearest(queries, 2), nearest(queries, rows, 2), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("name", ["raw", "normalised", "duplicates", "half zero"])
def test_flat_agrees_within_its_rounding(name, exclude_self):
    queries, bank = CASES[name]
    queries = bank if exclude_self else queries
    distances, rows = nearest(queries, bank, 5, index="flat", exclude_self=exclude_self)
    noise = 1e-5 * (np.square(queries).sum(1).max() + np.square(bank).sum(1).max())
    np.testing.assert_allclose(distances, brute(queries, bank, 5, exclude_self)[0], atol=noise)
    assert (distances >= 0).all()
    assert (np.diff(distances, axis=1) >= 0).all()
    assert (distances.dtype, rows.dtype) == (np.float32, np.int64)
    assert all(len(set(row)) == 5 for row in rows.tolist())
    assert not exclude_self or not (rows == np.arange(len(rows))[:, None]).any()


def test_flat_clamps_and_sorts_what_faiss_finds(monkeypatch):
    found = (np.array([[-0.01, 0.0, -0.02, 4.0]], np.float32), np.array([[3, 2, 1, 0]]))
    bank = Bank(gauss(35, 9, 2), index="flat")
    monkeypatch.setattr(
        bank._index, "index", type("Index", (), {"search": lambda self, queries, k: found})()
    )
    distances, rows = bank.nearest(np.zeros((1, 2)), 4)
    np.testing.assert_array_equal(distances, [[0, 0, 0, 4]])
    np.testing.assert_array_equal(rows, [[1, 2, 3, 0]])
