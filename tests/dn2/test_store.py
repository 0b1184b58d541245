"""The feature store: what goes in comes out, by rows, once."""

import json
import threading
import time

import numpy as np
import pytest
from handmade_store import EXPECTED, IDENTITY, WIDTH, Encode, N, features, fill, store
from waiting import wait_until

from dn2.store import SHARD_ROWS, FeatureStore


@pytest.fixture
def full(tmp_path):
    store(tmp_path).fill(Encode())
    return tmp_path


def test_what_is_stored_is_what_was_encoded(tmp_path):
    assert store(tmp_path).missing() == [0, 1, 2, 3]
    assert fill(tmp_path) == [0, 1, 2, 3]
    assert store(tmp_path).missing() == []
    assert fill(tmp_path) == []


@pytest.mark.parametrize(
    "rows",
    [
        slice(None),
        slice(1000, 1100),
        slice(-5, None),
        slice(10, 3000, 7),
        slice(5, 5),
        np.array([3171, 0, 1024, 1023, 0]),
        np.array([[1, 2000], [3000, 5], [-1, -N]]),
        np.empty((0, 4), np.int64),
        7,
        [2, 1030],
    ],
    ids=str,
)
def test_rows_are_gathered_as_from_an_array(full, rows):
    X = store(full).open()
    assert (X.shape, len(X)) == ((N, WIDTH), N)
    ours = X[rows]
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, EXPECTED[rows])


@pytest.mark.parametrize(
    "rows", [np.array([N]), np.array([-N - 1]), np.ones(N, bool), np.array([0.5])], ids=str
)
def test_rows_out_of_range_or_not_integers_are_refused(full, rows):
    with pytest.raises(IndexError, match="rows of features must be"):
        store(full).open()[rows]


def test_stored_features_cannot_be_changed(full):
    X = store(full).open()
    with pytest.raises(ValueError, match="read-only"):
        X.shards[0][0, 0] = 1
    X[0:3][:] = -1  # a copy
    np.testing.assert_array_equal(X[:3], EXPECTED[:3])
    assert all(path.stat().st_mode & 0o222 == 0 for path in store(full).path.glob("*.npy"))


def test_any_difference_in_identity_is_another_store(tmp_path):
    stores = [
        store(tmp_path),
        *(store(tmp_path, **{name: "other"}) for name in IDENTITY),
        store(tmp_path, engine="torch"),
    ]
    stores += [
        FeatureStore(tmp_path, IDENTITY, N + 1, WIDTH),
        FeatureStore(tmp_path, IDENTITY, N, WIDTH + 1),
    ]
    assert len({each.path for each in stores}) == len(stores)
    assert (
        store(tmp_path).path
        == FeatureStore(tmp_path, dict(reversed(IDENTITY.items())), N, WIDTH).path
    )
    assert store(tmp_path).path.name.startswith("toy-timm-some-net-")


def test_the_manifest_says_what_was_stored_and_how_fast(tmp_path):
    def slow(rows):
        time.sleep(0.05)
        return [features(rows)]

    store(tmp_path).fill(slow)
    manifest = json.loads((store(tmp_path).path / "manifest.json").read_text())
    assert manifest["complete"] is True
    assert manifest["identity"] == IDENTITY | {
        "n": N,
        "width": WIDTH,
        "dtype": "float32",
        "shard_rows": SHARD_ROWS,
    }
    assert 0.2 <= manifest["seconds"] < 2
    assert manifest["images_per_second"] == pytest.approx(N / manifest["seconds"], rel=0.01)
    assert store(tmp_path).open().images_per_second == pytest.approx(
        manifest["images_per_second"], rel=0.01
    )


def test_progress_counts_what_was_there_already(full):
    (store(full).path / "shard-00001.npy").unlink()
    calls = []
    store(full).fill(Encode(), lambda done, total: calls.append((done, total)))
    assert calls[0] == (N - SHARD_ROWS + 100, N)
    assert calls[-1] == (N, N)
    assert len(calls) == 11


def test_progress_counts_what_another_process_stores_meanwhile(tmp_path):
    other = threading.Thread(target=store(tmp_path).fill, args=(Encode(),), daemon=True)
    calls = []

    def encode(rows):
        if rows.start == 0:
            other.start()
            wait_until(lambda: (store(tmp_path).path / "shard-00003.npy").exists())
        return Encode()(rows)

    store(tmp_path).fill(encode, lambda done, total: calls.append(done))
    other.join(20)
    assert calls == [*range(100, 1100, 100), SHARD_ROWS, N, N, N]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (
            lambda X: X[:, :-1],
            r"must be encoded to shape \(1024, 8\), got a batch of shape \(1024, 7\)",
        ),
        (lambda X: X[:-1], "got 1023 rows"),
        (lambda X: np.concatenate([X, X]), r"got a batch of shape \(2048, 8\)"),
        (lambda X: X[:, 0], r"got a batch of shape \(1024,\)"),
    ],
)
def test_features_of_another_shape_are_refused(tmp_path, wrong, says):
    with pytest.raises(ValueError, match=says):
        store(tmp_path).fill(lambda rows: [wrong(features(rows))])
    assert not list(store(tmp_path).path.glob("shard-*"))


def test_a_store_without_rows(tmp_path):
    nothing = FeatureStore(tmp_path, IDENTITY, 0, WIDTH)
    nothing.fill(Encode())
    assert nothing.open()[:].shape == (0, WIDTH)


def test_a_complete_store_is_not_written_to(full):
    before = {
        path: path.stat().st_mtime_ns for path in [store(full).path, *store(full).path.rglob("*")]
    }
    fill(full)
    assert {
        path: path.stat().st_mtime_ns for path in [store(full).path, *store(full).path.rglob("*")]
    } == before
