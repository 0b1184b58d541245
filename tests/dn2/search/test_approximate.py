"""Every index obeys the same rules; the approximate ones miss no more than their thresholds."""

import doctest

import numpy as np
import pytest

from dn2.detector import DN2
from dn2.search import APPROXIMATE, INDEXES, Bank, approximate, nearest

MISSED = {"exact": 0.0, "flat": 0.0, "hnsw": 0.01, "ivf": 0.03, "pq": 0.10}
"""The fraction of the nearest rows that each index may miss on `like_features`."""

OFF = {"exact": 1e-6, "flat": 1e-4, "hnsw": 1e-6, "ivf": 1e-6, "pq": 0.05}
"""How far a distance may be from the found row's true one, relative to the largest."""


def like_features(n, seed, width=8):
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).standard_normal((4, width))
    return np.maximum(
        rng.standard_normal((n, 4)) @ mixing + 0.2 * rng.standard_normal((n, width)), 0
    ).astype(np.float32)


def brute(queries, bank):
    """Compute all squared distances, in float64."""
    return ((queries[:, None].astype(np.float64) - bank.astype(np.float64)) ** 2).sum(2)


QUERIES, ROWS = like_features(120, 1), like_features(1500, 2)
TRUE = brute(QUERIES, ROWS)


@pytest.fixture(scope="module", params=INDEXES)
def bank(request):
    made = Bank(ROWS, index=request.param)
    made.name = request.param
    return made


def found_share(rows, distances, k):
    """Return the fraction of the k nearest rows that were found; of equally distant ones any do."""
    kth = np.sort(distances, axis=1)[:, k - 1 : k]
    return (np.take_along_axis(distances, rows, 1) <= kth).mean()


def assert_well_formed(distances, rows, n, k, m):
    assert distances.shape == rows.shape == (n, k)
    assert (distances.dtype, rows.dtype) == (np.float32, np.int64)
    assert np.isfinite(distances).all()
    assert distances.max() < 3e38
    assert (distances >= 0).all()
    assert (np.diff(distances, axis=1) >= 0).all()
    assert rows.min() >= 0
    assert rows.max() < m
    assert all(len(set(row)) == k for row in rows.tolist())


@pytest.mark.parametrize("k", [1, 5, 50])
def test_nearly_all_nearest_rows_are_found_and_measured(bank, k):
    distances, rows = bank.nearest(QUERIES, k)
    assert_well_formed(distances, rows, len(QUERIES), k, len(ROWS))
    assert found_share(rows, TRUE, k) >= 1 - MISSED[bank.name]
    np.testing.assert_allclose(
        distances, np.take_along_axis(TRUE, rows, 1), rtol=0, atol=OFF[bank.name] * TRUE.max()
    )


def test_distances_of_kept_rows_are_the_exact_searchs_to_the_last_bit():
    exact, rows = nearest(QUERIES, ROWS, 3)
    for name in ("hnsw", "ivf"):
        distances, found = nearest(QUERIES, ROWS, 3, index=name)
        np.testing.assert_array_equal(distances[found == rows], exact[found == rows])


@pytest.mark.parametrize("k", [150, 151, 1499, 1500])
def test_a_k_near_the_number_of_rows_is_searched_exactly(bank, k):
    distances, rows = bank.nearest(QUERIES[:9], k)
    assert_well_formed(distances, rows, 9, k, len(ROWS))
    if k > 150:
        tolerance = OFF[bank.name] * TRUE.max()
        np.testing.assert_allclose(
            distances, np.sort(TRUE[:9], axis=1)[:, :k], rtol=0, atol=tolerance
        )


def test_no_row_is_its_own_neighbour_and_its_duplicates_are(bank):
    distances, rows = bank.nearest(ROWS, 3, exclude_self=True)
    assert_well_formed(distances, rows, len(ROWS), 3, len(ROWS))
    assert not (rows == np.arange(len(ROWS))[:, None]).any()
    true = brute(ROWS, ROWS)
    np.fill_diagonal(true, np.inf)
    assert found_share(rows, true, 3) >= 1 - MISSED[bank.name]


def test_duplicates_are_found_apart(bank):
    """A thousand equal rows, which fill lists and cut graphs into islands."""
    rows = np.concatenate([np.repeat(ROWS[:1], 1000, 0), ROWS[:600]])
    doubled = Bank(rows, index=bank.name)
    for k in (1, 40):
        distances, found = doubled.nearest(ROWS[:1], k)
        assert_well_formed(distances, found, 1, k, len(rows))
        np.testing.assert_allclose(distances, 0, atol=OFF[bank.name] * TRUE.max())
    distances, found = doubled.nearest(rows, 2, exclude_self=True)
    assert_well_formed(distances, found, len(rows), 2, len(rows))
    assert (
        found_share(found[999:], (brute(rows, rows) + np.diag(np.full(len(rows), np.inf)))[999:], 2)
        >= 1 - 1.5 * MISSED[bank.name] - 0.01
    )
    equal = Bank(np.ones((1200, 8)), index=bank.name)
    assert_well_formed(*equal.nearest(QUERIES[:5], 7), 5, 7, 1200)


def test_no_query_depends_on_the_others(bank):
    """To the last bit; for the codes, whose rows are turned by a matrix product, to 1e-5."""
    distances, rows = bank.nearest(QUERIES, 4)
    order = np.random.default_rng(0).permutation(len(QUERIES))
    for part in [slice(i, i + 7) for i in range(0, 50, 7)] + [order, slice(3, 4)]:
        some, some_rows = bank.nearest(QUERIES[part], 4)
        tolerance = {"pq": 1e-5, "flat": 1e-5}.get(bank.name, 0)
        np.testing.assert_allclose(some, distances[part], rtol=tolerance, atol=tolerance)
        if not tolerance:
            np.testing.assert_array_equal(some_rows, rows[part])


def test_an_index_depends_on_its_rows_alone(bank, monkeypatch):
    """It does not depend on threads, other random draws, or how many queries are converted."""
    expected = bank.nearest(QUERIES, 4)
    monkeypatch.setattr(approximate, "available_cores", lambda: 3)
    np.random.seed(5)
    state = np.random.get_state()[1].copy()
    again = Bank(ROWS, index=bank.name)
    for cut in (approximate.NUMBERS_AT_ONCE, 8 * 50):
        monkeypatch.setattr(approximate, "NUMBERS_AT_ONCE", cut)
        for found, want in zip(again.nearest(QUERIES, 4), expected, strict=True):
            np.testing.assert_allclose(found, want, rtol=1e-5 if bank.name == "pq" else 0)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize(
    "change",
    [
        lambda X: X + 1e4,
        lambda X: 1e-19 * X,
        lambda X: 1e17 * X,
        lambda X: X.astype(np.float64) + 1e7,
    ],
)
def test_neither_offset_nor_scale_costs_neighbours(bank, change):
    if bank.name == "flat":
        return  # it neither centres nor scales rows
    rows, queries = change(ROWS), change(QUERIES)
    _, found = Bank(rows, index=bank.name).nearest(queries, 5)
    assert found_share(found, brute(queries, rows), 5) >= 1 - MISSED[bank.name] - 0.01


@pytest.mark.parametrize("exclude_self", [False, True])
def test_subsets_are_searched_apart(bank, exclude_self):
    subsets = [np.arange(len(ROWS)), np.arange(0, len(ROWS), 2), np.arange(7, 1300), np.arange(30)]
    queries = ROWS if exclude_self else QUERIES
    found = bank.nearest_in(subsets, queries, 3, exclude_self=exclude_self)
    for subset, (distances, rows) in zip(subsets, found, strict=True):
        asking = queries[subset] if exclude_self else queries
        assert_well_formed(distances, rows, len(asking), 3, len(subset))
        true = brute(asking, ROWS[subset])
        if exclude_self:
            np.fill_diagonal(true, np.inf)
        assert found_share(rows, true, 3) >= 1 - MISSED[bank.name] - 0.01
        if bank.name != "pq":  # which has no rows to make another bank of
            expected = Bank(ROWS[subset], index=bank.name).nearest(
                asking, 3, exclude_self=exclude_self
            )
            np.testing.assert_array_equal(rows, expected[1])
            np.testing.assert_array_equal(distances, expected[0])


@pytest.mark.parametrize("m", [2, 40, approximate.SMALLEST - 1])
@pytest.mark.parametrize("name", APPROXIMATE)
def test_few_rows_are_searched_exactly(name, m):
    made = Bank(ROWS[:m], index=name)
    for found, expected in zip(
        made.nearest(QUERIES, 2), nearest(QUERIES, ROWS[:m], 2), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(made.rows, ROWS[:m])


@pytest.mark.parametrize("m", [approximate.SMALLEST, approximate.SMALLEST + 1])
def test_the_smallest_bank_has_an_index(bank, m):
    _, rows = Bank(ROWS[:m], index=bank.name).nearest(QUERIES, 5)
    assert found_share(rows, TRUE[:, :m], 5) >= 1 - MISSED[bank.name] - 0.01


def test_bad_input_is_refused(bank):
    spoilt = ROWS.copy()
    spoilt[77, 3] = np.nan
    for use in (lambda: Bank(spoilt, index=bank.name), lambda: bank.nearest(spoilt, 2)):
        with pytest.raises(ValueError, match="must be finite, got NaN or infinity in row 77"):
            use()
    with pytest.raises(ValueError, match="needs the bank itself as queries"):
        bank.nearest(ROWS[::-1], 2, exclude_self=True)
    with pytest.raises(ValueError, match="8 columns, got 7"):
        bank.nearest(QUERIES[:, 1:], 2)
    with pytest.raises(ValueError, match="needs at least 1501 bank rows, got 1500"):
        bank.nearest(QUERIES, 1501)
    with pytest.raises(ValueError, match="squared distances must fit in float32"):
        bank.nearest(np.full((1, 8), 1e30, np.float32), 2)


def test_the_table_of_thresholds_is_complete():
    assert set(MISSED) == set(OFF) == set(INDEXES)
    assert set(APPROXIMATE) == {"hnsw", "ivf", "pq"}


@pytest.mark.parametrize("clean", [0.0, 0.1])
@pytest.mark.parametrize("name", APPROXIMATE)
def test_dn2_scores_with_it(name, clean):
    detector = DN2(k=3, index=name, clean=clean).fit(ROWS)
    twin = detector.reference()
    assert twin.get_params() == detector.get_params() | {"index": "exact"}
    assert twin.reference() is None
    expected = twin.fit(ROWS).anomaly_score(QUERIES)
    scores = detector.anomaly_score(QUERIES)
    assert np.corrcoef(scores, expected)[0, 1] > 0.995
    subsets = [np.arange(1200), np.arange(100, 1500)]
    for subset, points in zip(subsets, detector.score_subsets(ROWS, subsets, QUERIES), strict=True):
        for point, want in zip(
            points, DN2(3, name, clean).fit(ROWS[subset]).score_path(QUERIES), strict=True
        ):
            np.testing.assert_array_equal(point[1], want[1])
            np.testing.assert_array_equal(point[2], want[2])


@pytest.mark.parametrize("name", ["hnsw", "ivf"])
def test_where_too_few_are_found_the_search_is_exact(name, monkeypatch):
    made = Bank(ROWS, index=name)
    find = made._index.find

    def short(queries, k):
        rows = find(queries, k)
        rows[::2, -1] = -1
        rows[4] = -1
        return rows

    monkeypatch.setattr(made._index, "find", short)
    distances, rows = made.nearest(QUERIES, 3)
    for found, expected in zip((distances, rows), nearest(QUERIES, ROWS, 3), strict=True):
        np.testing.assert_array_equal(found[::2], expected[::2])
    assert_well_formed(distances, rows, len(QUERIES), 3, len(ROWS))


def test_where_too_few_codes_are_found_all_lists_are_searched(monkeypatch):
    made = Bank(ROWS, index="pq")
    probe, asked = made._index.probe, []

    def short(queries, k, lists, **settings):
        distances, rows = probe(queries, k, lists, **settings)
        asked.append((len(queries), lists))
        if lists < made._index.index.nlist:
            distances[::2, -1], rows[::2, -1] = 3.4e38, -1
        return distances, rows

    monkeypatch.setattr(made._index, "probe", short)
    assert_well_formed(*made.nearest(QUERIES, 3), len(QUERIES), 3, len(ROWS))
    assert [n for n, lists in asked if lists == made._index.index.nlist] == [len(QUERIES) // 2]
    for few in ([3, 900], [0, 1, 2]):  # of a small subset the usual lists hold hardly any
        ((distances, rows),) = made.nearest_in([np.array(few)], QUERIES, 2)
        assert_well_formed(distances, rows, len(QUERIES), 2, len(few))


def test_codes_keep_no_rows():
    made = Bank(ROWS, index="pq")
    assert made.rows is None
    assert DN2(index="pq").fit(ROWS).bank_ is None
    with pytest.raises(ValueError, match="needs the bank itself"):
        made.nearest(ROWS + np.eye(1500, 8, dtype=np.float32), 2, exclude_self=True)
    made.nearest(ROWS.astype(np.float64), 2, exclude_self=True)


@pytest.mark.parametrize("name", APPROXIMATE)
def test_what_was_built_is_written_and_read_and_not_built_again(name, tmp_path, monkeypatch):
    rows = np.concatenate([ROWS, ROWS[:90]])  # some are equal
    built = Bank(rows, index=name)
    with (tmp_path / "graph").open("wb") as file:
        built.built.write(file)
    monkeypatch.setattr(approximate.KINDS[name], "build", None)
    read = approximate.Built.read(tmp_path / "graph", built.built.arrays)
    for copy in (True, False):
        bank = Bank(rows, index=name, built=read, copy=copy, device="numpy")
        for found, expected in zip(
            bank.nearest(QUERIES, 3), built.nearest(QUERIES, 3), strict=True
        ):
            np.testing.assert_array_equal(found, expected)
        assert name == "pq" or (bank.rows is rows) != copy
    with pytest.raises(ValueError, match=r"has 1,590 rows, the bank 1,500|has 0 rows"):
        Bank(ROWS, index=name, built=read)
    again = tmp_path / "again"
    with again.open("wb") as file:  # of a graph that is a map
        bank.built.write(file)
    assert again.read_bytes() == (tmp_path / "graph").read_bytes()
    again.write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"faiss .* cannot read again"):
        approximate.Built.read(again, {})


def test_few_rows_and_exact_searches_build_nothing():
    assert [Bank(ROWS[:900], index=name).built for name in INDEXES] == [None] * len(INDEXES)
    assert [Bank(ROWS, index=name).built for name in ("exact", "flat")] == [None, None]


def test_a_memory_map_is_read_a_piece_at_a_time(tmp_path, monkeypatch):
    np.save(tmp_path / "rows.npy", ROWS)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    monkeypatch.setattr(approximate, "NUMBERS_AT_ONCE", 8 * 100)
    for name in INDEXES:
        for found, expected in zip(
            Bank(mapped, index=name).nearest(QUERIES, 2),
            nearest(QUERIES, ROWS, 2, index=name),
            strict=True,
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_examples_in_the_docstrings():
    assert doctest.testmod(approximate) == (0, 2)
