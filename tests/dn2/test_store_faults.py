"""The feature store when something goes wrong: kills, damage, full disks, two processes."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest
from handmade_store import Encode, fill, store
from waiting import wait_until

from dn2 import files as dn2_files
from dn2.store import SHARD_ROWS, StoreError


@pytest.fixture
def full(tmp_path):
    store(tmp_path).fill(Encode())
    return tmp_path


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


# A process of its own: `encode` notes each call in a file, and may be slow. Arguments: home, log,
# seconds a batch.
CHILD = f"""
import sys, time
from pathlib import Path
sys.path[:0] = [{str(Path(__file__).parent.parent / "support")!r}]
from handmade_store import SHARD_ROWS, features, store
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
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(home), str(log), str(seconds)],
        cwd=Path(__file__).parent.parent.parent,
    )


def log_of(path):
    return sorted(int(line) for line in path.read_text().split()) if path.exists() else []


def test_a_killed_run_continues_at_its_last_shard(tmp_path):
    log = tmp_path / "log"
    child = start_child(tmp_path, log, 0.02)
    wait_until(lambda: log_of(log)[-1:] == [2])
    (store(tmp_path).path / "shard-00002.npy.123.tmp").write_bytes(
        b"left by another that was killed while writing"
    )
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


def test_a_process_that_waits_for_one_that_dies_does_its_work(tmp_path):
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
    with pytest.raises(
        StoreError, match=r"only 5,000 bytes are free.*101,504 bytes are still.*--home or DN2_HOME"
    ):
        store(tmp_path).fill(encode)
    assert encode.asked == []


def test_a_disk_that_fills_up_keeps_what_is_stored(tmp_path, monkeypatch):
    def fsync(descriptor):
        written = [path.name for path in store(tmp_path).path.iterdir()]
        if "shard-00001.npy" in written and any(name.endswith(".tmp") for name in written):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(dn2_files.os, "fsync", fsync)
        with pytest.raises(StoreError) as raised:
            store(tmp_path).fill(Encode())
    message = str(raised.value)
    assert str(store(tmp_path).path) in message
    assert (
        "No space left on device; 35,968 bytes are still to be written, 2 of 4 shards are kept"
        in message
    )
    assert "\n" not in message
    assert not list(store(tmp_path).path.glob("*.tmp"))
    assert fill(tmp_path) == [2, 3]


@pytest.mark.parametrize("in_the_way", ["home", "locks"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path, in_the_way):
    home = tmp_path / "features"
    blocked = store(home).path / "locks" if in_the_way == "locks" else home
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("a file where a folder must be")
    with pytest.raises(
        StoreError, match=r"cannot store features in .*toy.*(File exists|Not a directory).*DN2_HOME"
    ):
        store(home).fill(Encode())
