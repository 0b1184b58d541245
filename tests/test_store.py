"""The feature store, above all when something goes wrong: kills, damage, full disks, two processes."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from dn2 import shards
from dn2.store import SHARD_ROWS, FeatureStore, StoreError

N, WIDTH = 3 * SHARD_ROWS + 100, 8
IDENTITY = {"dataset": "toy", "encoder": "timm:some/net", "data": "f00", "weights": "abc"}


def features(rows):
    return (np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + np.arange(WIDTH) / 10).astype(np.float32)


EXPECTED = features(slice(0, N))


class Encode:
    """Gives features in batches and counts what it was asked for."""

    def __init__(self, fail_at=None):
        self.fail_at = fail_at
        self.asked = []

    def __call__(self, rows):
        self.asked.append(rows.start // SHARD_ROWS)
        for start in range(rows.start, rows.stop, 100):
            if self.fail_at is not None and start >= self.fail_at:
                raise FileNotFoundError("an image is gone")
            yield features(slice(start, min(start + 100, rows.stop)))


def store(home, **changes):
    return FeatureStore(home, IDENTITY | changes, N, WIDTH)


@pytest.fixture
def full(tmp_path):
    store(tmp_path).fill(Encode())
    return tmp_path


def fill(home):
    """Fill with a new store object; the shards that had to be computed."""
    encode, again = Encode(), store(home)
    again.fill(encode)
    np.testing.assert_array_equal(again.open()[:], EXPECTED)
    return encode.asked


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


@pytest.mark.parametrize("rows", [np.array([N]), np.array([-N - 1]), np.ones(N, bool), np.array([0.5])], ids=str)
def test_rows_that_are_none_are_refused(full, rows):
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
    stores = [store(tmp_path), *(store(tmp_path, **{name: "other"}) for name in IDENTITY), store(tmp_path, engine="torch")]
    stores += [FeatureStore(tmp_path, IDENTITY, N + 1, WIDTH), FeatureStore(tmp_path, IDENTITY, N, WIDTH + 1)]
    assert len({each.path for each in stores}) == len(stores)
    assert store(tmp_path).path == FeatureStore(tmp_path, dict(reversed(IDENTITY.items())), N, WIDTH).path
    assert store(tmp_path).path.name.startswith("toy-timm-some-net-")


def test_the_manifest_tells_what_and_how_fast(tmp_path):
    def slow(rows):
        time.sleep(0.05)
        return [features(rows)]

    store(tmp_path).fill(slow)
    manifest = json.loads((store(tmp_path).path / "manifest.json").read_text())
    assert manifest["complete"] is True
    assert manifest["identity"] == IDENTITY | {"n": N, "width": WIDTH, "dtype": "float32", "shard_rows": SHARD_ROWS}
    assert 0.2 <= manifest["seconds"] < 2
    assert manifest["images_per_second"] == pytest.approx(N / manifest["seconds"], rel=0.01)
    assert store(tmp_path).open().images_per_second == pytest.approx(manifest["images_per_second"], rel=0.01)


def test_progress_counts_what_was_there_already(full):
    (store(full).path / "shard-00001.npy").unlink()
    calls = []
    store(full).fill(Encode(), lambda done, total: calls.append((done, total)))
    assert calls[0] == (N - SHARD_ROWS + 100, N)
    assert calls[-1] == (N, N)
    assert len(calls) == 11


def truncate(path):
    os.truncate(path, path.stat().st_size - 1)


def empty(path):
    os.truncate(path, 0)


def alter_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, empty, alter_a_byte, Path.unlink])
@pytest.mark.parametrize("shard", [1, 3])
def test_a_damaged_shard_is_found_and_alone_recomputed(full, damage, shard):
    damage(store(full).path / f"shard-{shard:05d}.npy")
    with pytest.raises(FileNotFoundError, match="lacks 1 of 4 shards"):
        store(full).open()
    assert fill(full) == [shard]


def test_a_failure_while_encoding_is_passed_on_and_costs_one_shard(tmp_path):
    with pytest.raises(FileNotFoundError, match="an image is gone"):
        store(tmp_path).fill(Encode(fail_at=2 * SHARD_ROWS + 300))
    assert not (store(tmp_path).path / "manifest.json").exists()
    assert fill(tmp_path) == [2, 3]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda X: X[:, :-1], r"must be encoded to shape \(1024, 8\), got a batch of shape \(1024, 7\)"),
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


# A process of its own: `encode` notes each call in a file, and may be slow. Arguments: home, log, seconds a batch.
CHILD = f"""
import sys, time
from pathlib import Path
sys.path[:0] = [{str(Path(__file__).parent)!r}]
from test_store import SHARD_ROWS, features, store
home, log, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
def encode(rows):
    with log.open("a") as file:
        file.write(f"{{rows.start // SHARD_ROWS}}\\n")
    for start in range(rows.start, rows.stop, 100):
        time.sleep(seconds)
        yield features(slice(start, min(start + 100, rows.stop)))
store(home).fill(encode)
"""


def start_child(home, log, seconds):
    return subprocess.Popen([sys.executable, "-c", CHILD, str(home), str(log), str(seconds)], cwd=Path(__file__).parent.parent)


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def log_of(path):
    return sorted(int(line) for line in path.read_text().split()) if path.exists() else []


def test_a_killed_run_continues_at_its_last_shard(tmp_path):
    log = tmp_path / "log"
    child = start_child(tmp_path, log, 0.02)
    wait_until(lambda: log_of(log)[-1:] == [2])
    (store(tmp_path).path / "shard-00002.123.tmp").write_bytes(b"left by another that was killed while writing")
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert store(tmp_path).missing() == [2, 3]
    assert fill(tmp_path) == [2, 3]
    assert not list(store(tmp_path).path.glob("*.tmp"))


def test_two_processes_share_the_work(tmp_path):
    log = tmp_path / "log"
    children = [start_child(tmp_path, log, 0.02) for _ in range(2)]
    assert [child.wait(timeout=60) for child in children] == [0, 0]
    assert log_of(log) == [0, 1, 2, 3]  # each shard once
    assert fill(tmp_path) == []


def test_who_waits_for_a_process_that_dies_does_its_work(tmp_path):
    log = tmp_path / "log"
    child = start_child(tmp_path, log, 30)
    wait_until(lambda: log_of(log) == [0])
    asked = []
    thread = threading.Thread(target=lambda: asked.extend(fill(tmp_path)), daemon=True)
    thread.start()
    wait_until(lambda: store(tmp_path).missing() == [0])
    time.sleep(0.1)
    assert thread.is_alive()
    child.kill()
    child.wait()
    thread.join(20)
    assert asked == [1, 2, 3, 0]


def test_a_full_disk_says_so_before_the_first_image(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 10**9 - 5000, 5000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    encode = Encode()
    with pytest.raises(StoreError, match=r"only 5,000 bytes are free.*101,504 bytes are still.*--home or DN2_HOME"):
        store(tmp_path).fill(encode)
    assert encode.asked == []


def test_a_disk_that_fills_up_keeps_what_is_stored(tmp_path, monkeypatch):
    def fsync(descriptor):
        written = [path.name for path in store(tmp_path).path.iterdir()]
        if "shard-00001.npy" in written and any(name.endswith(".tmp") for name in written):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(shards.os, "fsync", fsync)
        with pytest.raises(StoreError) as raised:
            store(tmp_path).fill(Encode())
    message = str(raised.value)
    assert str(store(tmp_path).path) in message
    assert "No space left on device; 35,968 bytes are still to be written, 2 of 4 shards are kept" in message
    assert "\n" not in message
    assert not list(store(tmp_path).path.glob("*.tmp"))
    assert fill(tmp_path) == [2, 3]


@pytest.mark.parametrize("in_the_way", ["home", "locks"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path, in_the_way):
    home = tmp_path / "features"
    blocked = store(home).path / "locks" if in_the_way == "locks" else home
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("a file where a folder must be")
    with pytest.raises(StoreError, match=r"cannot store features in .*toy.*(File exists|Not a directory).*DN2_HOME"):
        store(home).fill(Encode())


def test_a_complete_store_is_not_written_to(full):
    before = {path: path.stat().st_mtime_ns for path in [store(full).path, *store(full).path.rglob("*")]}
    fill(full)
    assert {path: path.stat().st_mtime_ns for path in [store(full).path, *store(full).path.rglob("*")]} == before
