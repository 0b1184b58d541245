"""Locks and atomic writes: two holders at once, killed holders, forks, failures while writing."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from waiting import wait_until

from dn2.files import hold, remove_leftovers, write_atomically

ROOT = Path(__file__).parent.parent.parent

HOLDER = """
import sys, time
from pathlib import Path
from dn2.files import hold
with hold(Path(sys.argv[1]), wait=True) as held:
    print(held, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "True\n"
        yield process
        process.kill()


def test_a_lock_is_held_once_and_its_file_stays(tmp_path):
    for _ in range(2):
        with hold(tmp_path / "lock", wait=False) as first:
            with hold(tmp_path / "lock", wait=False) as second:
                assert (first, second) == (True, False)
            with hold(tmp_path / "lock", wait=False) as third:
                assert not third  # a refused claim has released nothing
        assert (tmp_path / "lock").read_bytes() == b""


def test_another_process_excludes_us_until_it_is_killed(tmp_path, holder):
    with hold(tmp_path / "lock", wait=False) as held:
        assert not held
    inode = (tmp_path / "lock").stat().st_ino
    got = []

    def wait():
        with hold(tmp_path / "lock", wait=True) as held:
            got.append(held)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    time.sleep(0.1)
    assert got == []
    holder.send_signal(signal.SIGKILL)
    thread.join(20)
    assert got == [True]
    assert (tmp_path / "lock").stat().st_ino == inode


def test_threads_of_one_process_exclude_each_other(tmp_path):
    inside, most = 0, 0

    def work():
        nonlocal inside, most
        for _ in range(5):
            with hold(tmp_path / "lock", wait=True):
                inside += 1
                most = max(most, inside)
                time.sleep(0.002)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (inside, most) == (0, 1)


def test_a_thread_that_would_wait_for_itself_raises(tmp_path):
    with hold(tmp_path / "lock", wait=True):
        with pytest.raises(RuntimeError, match="already held"), hold(tmp_path / "lock", wait=True):
            pass
        with hold(tmp_path / "lock", wait=False) as held:
            assert not held


def test_another_thread_may_release(tmp_path):
    entered = hold(tmp_path / "lock", wait=True)
    entered.__enter__()
    thread = threading.Thread(target=entered.__exit__, args=(None, None, None))
    thread.start()
    thread.join(20)
    with hold(tmp_path / "lock", wait=False) as held:
        assert held


def test_an_error_inside_releases(tmp_path):
    with pytest.raises(KeyError), hold(tmp_path / "lock", wait=True):
        raise KeyError
    with hold(tmp_path / "lock", wait=False) as held:
        assert held


def test_a_forked_child_neither_holds_nor_releases(tmp_path):
    with hold(tmp_path / "lock", wait=True):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            with hold(tmp_path / "lock", wait=False) as held:
                os.write(writing, b"1" if held else b"0")
            time.sleep(60)
            os._exit(0)
        assert os.read(reading, 1) == b"0"
    try:
        with hold(tmp_path / "lock", wait=False) as held:
            assert held  # though the child lives
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)


def test_a_lock_that_cannot_be_made_raises(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), hold(tmp_path / "file" / "lock", wait=True):
        pass
    with pytest.raises(IsADirectoryError), hold(tmp_path, wait=False):
        pass


@pytest.mark.parametrize("lasting", [True, False])
@pytest.mark.parametrize("content", [b"new", memoryview(b"new"), lambda file: file.write(b"new")])
def test_content_replaces_what_was_there(tmp_path, content, lasting):
    path = tmp_path / "a.b.json"
    path.write_bytes(b"the old content")
    write_atomically(path, content, lasting=lasting)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o200
    assert list(tmp_path.iterdir()) == [path]


def test_a_read_only_file_can_be_replaced(tmp_path):
    for content in (b"1", b"2"):
        write_atomically(tmp_path / "file", content, read_only=True)
        assert (tmp_path / "file").read_bytes() == content
        assert (tmp_path / "file").stat().st_mode & 0o222 == 0


def test_lasting_content_is_on_disk_before_its_name_and_so_is_the_name(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        os,
        "fsync",
        lambda descriptor: seen.append(
            (os.fstat(descriptor).st_size, (tmp_path / "file").exists())
        ),
    )
    write_atomically(tmp_path / "file", b"content", lasting=False)
    assert seen == []
    (tmp_path / "file").unlink()
    write_atomically(tmp_path / "file", b"content")
    assert seen[0] == (7, False)
    assert seen[1][1]
    assert len(seen) == 2


@pytest.mark.parametrize("at", ["writer", "fsync", "replace"])
def test_a_failure_keeps_the_old_file_and_no_other(tmp_path, monkeypatch, at):
    def fail(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "file"
    path.write_bytes(b"old")
    if at == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    elif at == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, fail if at == "writer" else b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_the_old_file_and_one_that_can_be_removed(tmp_path):
    path = tmp_path / "some [1].npy"
    path.write_bytes(b"old")
    child = os.fork()
    if child == 0:
        write_atomically(path, lambda file: (file.write(b"ne"), file.flush(), time.sleep(60)))
        os._exit(0)
    wait_until(lambda: any(p.stat().st_size == 2 for p in tmp_path.glob("*.tmp")))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    (tmp_path / "some [1].json.1-1.tmp").touch()
    assert path.read_bytes() == b"old"
    remove_leftovers(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["some [1].json.1-1.tmp", path.name]
