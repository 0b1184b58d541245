"""A disk that fills under every writer, and a tracking store that is locked, read-only or gone.

The disks are small file systems in memory. Mounting them needs root: elsewhere these tests are
skipped.
"""

import gc
import shutil
import sqlite3
import subprocess
import threading
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import Process, after_call, run_benchmarks
from handmade import EXPERIMENT, LABELS, assert_equal_results, make_cell, make_result
from mutations import judge, tally_of
from test_kills import RUN, finish, result_of

from baselines._checkpoint import read_checkpoint, write_checkpoint
from benchmarks.result_store import ResultStore, ResultStoreError, read_scores, split_record
from dn2 import ImageDetector
from dn2.images import ALL_LEVELS
from dn2.networks import Network
from dn2.saving import load
from dn2.store import FeatureStore, StoreError

pytestmark = pytest.mark.slow


class Disk:
    """A small file system in memory."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self._mount("size=4m", "-t", "tmpfs", "tmpfs")

    def _mount(self, options, *what):
        made = subprocess.run(
            ["mount", "-o", options, *what, str(self.folder)], capture_output=True, text=True
        )
        if made.returncode and what:
            # Only root may mount, and not in every container; CI may.
            pytest.skip(f"mounting is not allowed here: {made.stderr.strip()}")

        assert not made.returncode, made.stderr

    def change(self, options):
        self._mount(f"remount,{options}")

    def fill(self, left):
        """Fill it with a file, but for so many bytes."""
        free = shutil.disk_usage(self.folder).free
        with (self.folder / "filler").open("wb") as file:
            file.write(bytes(max(0, free - left)))

    def make_room(self):
        (self.folder / "filler").unlink()

    def close(self):
        subprocess.run(["umount", "-l", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path):
    made = Disk(tmp_path / "disk")
    yield made
    made.close()


class Shards:
    refusal = StoreError
    features = np.random.default_rng(0).random((2500, 90), np.float32)

    def write(self, folder):
        self.store(folder).fill(lambda rows: [self.features[rows]])

    def store(self, folder):
        return FeatureStore(folder, {"dataset": "toy", "encoder": "net"}, *self.features.shape)

    def check(self, folder):
        np.testing.assert_array_equal(self.store(folder).open()[:], self.features)


class Results:
    refusal = ResultStoreError

    def write(self, folder):
        ResultStore(folder).save(make_result(), LABELS)

    def check(self, folder):
        assert_equal_results(ResultStore(folder).load(EXPERIMENT)["cat"], make_result())


class FinishedRuns:
    refusal = ResultStoreError

    def write(self, folder):
        results = make_cell()
        record = {"key": EXPERIMENT.key, "splits": [split_record(result) for result in results]}
        self.made = ResultStore(folder).write_finished(results, record, LABELS)

    def check(self, folder):
        assert len(read_scores(self.made)[1]) == 3


class Checkpoints:
    refusal = OSError
    weights = torch.arange(60_000.0)

    def write(self, folder):
        write_checkpoint(folder / "disc.checkpoint", "id", "loss", {"network": {"w": self.weights}})

    def check(self, folder):
        state = read_checkpoint(folder / "disc.checkpoint", "id", "loss")
        assert torch.equal(state["network"]["w"], self.weights)


class Detectors:
    refusal = OSError

    def __init__(self):
        self.fitted = ImageDetector("toy", k=2)
        self.fitted.levels_ = ALL_LEVELS
        self.fitted.networks_ = (Network("toy", "abc", 48, b"<net>", bytes(200_000)),)
        features = np.random.default_rng(0).random((80, 48), np.float32)
        paths = tuple(f"/photos/{number}.png" for number in range(80))
        self.fitted._keep(paths, features, np.ones(80, bool))

    def write(self, folder):
        self.fitted.save(folder / "detector", force=True)

    def check(self, folder):
        np.testing.assert_array_equal(load(folder / "detector").features_, self.fitted.features_)


@pytest.mark.parametrize("left", [0, 5_000, 100_000])
@pytest.mark.parametrize("kind", [Shards, Results, FinishedRuns, Checkpoints, Detectors])
def test_a_full_disk_is_one_line_and_with_room_again_the_same_call_succeeds(disk, kind, left):
    writer, tally = kind(), tally_of("full disks: writers")
    disk.fill(left)
    tally.tries += 1
    # Where there is room enough, it is simply written.
    outcome = judge(lambda: writer.write(disk.folder), lambda _: True, (writer.refusal,))
    assert outcome in ("same", "refused")
    tally.same += outcome == "same"
    tally.refused += outcome == "refused"
    assert not list(disk.folder.rglob("*.tmp")), "what was not finished is removed"
    disk.make_room()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        writer.write(disk.folder)
        writer.check(disk.folder)


@pytest.mark.parametrize("kind", [Results, Checkpoints, Detectors])
def test_what_was_there_survives_a_full_disk(disk, kind):
    writer = kind()
    writer.write(disk.folder)
    disk.fill(0)
    with suppress(writer.refusal):
        writer.write(disk.folder)
    writer.check(disk.folder)


# Whole commands


@pytest.fixture
def make_place(weights_home, make_store):
    """Return a function that puts the home and the store of a run into a folder."""

    def make(folder):
        (folder / "home").mkdir(parents=True)
        (folder / "home/weights").symlink_to(weights_home / "weights")
        make_store(folder)
        return folder

    return make


def start(place, output):
    """Start a run whose files are in `place`; what it prints goes elsewhere."""
    return Process(
        output,
        run_benchmarks,
        RUN,
        None,
        DN2_HOME=str(place / "home"),
        MLFLOW_TRACKING_URI=f"sqlite:///{place}/mlflow.db",
    )


def end_in_one_line(process):
    """Return the exit code, after checking that no error came as a traceback."""
    code, _, err = process.finish()
    assert "Traceback" not in err, err
    assert code in (0, 1, 3), err
    return code


@pytest.fixture
def undisturbed(make_place, tmp_path):
    place = make_place(tmp_path / "undisturbed")
    return result_of(place, finish(start(place, tmp_path)))


def count_run(name, code):
    tally = tally_of(name)
    tally.tries += 1
    tally.refused += code != 0
    tally.same += code == 0


@pytest.mark.parametrize("left", [0, 20_000, 200_000, 700_000, 1_500_000, 3_000_000])
def test_a_run_on_a_full_disk_ends_in_one_line_and_continues_with_room(
    disk, make_place, undisturbed, tmp_path, left
):
    disk.change("size=64m")
    place = make_place(disk.folder / "place")
    disk.fill(left)
    count_run("full disks: run", end_in_one_line(start(place, tmp_path)))
    disk.make_room()
    assert result_of(place, finish(start(place, tmp_path)))[0] == undisturbed[0]


def test_a_store_that_is_locked_for_a_while_is_waited_for(make_place, tmp_path, undisturbed):
    place = make_place(tmp_path / "place")
    database = sqlite3.connect(place / "mlflow.db", check_same_thread=False)
    database.execute("BEGIN EXCLUSIVE")
    threading.Timer(6, database.rollback).start()
    out = finish(start(place, tmp_path))
    count_run("stores: locked for 6 s", 0)
    assert result_of(place, out) == undisturbed


def test_a_store_on_a_read_only_disk_is_said_and_costs_no_result(
    disk, make_place, undisturbed, tmp_path
):
    disk.change("size=64m")
    place = make_place(disk.folder / "place")
    shutil.move(place / "home", tmp_path / "home")
    (place / "home").symlink_to(tmp_path / "home")
    gc.collect()  # a connection that is open for writing would keep the disk as it is
    disk.change("ro")
    code = end_in_one_line(start(place, tmp_path))
    count_run("stores: read-only", code)
    assert code == 1
    disk.change("rw")
    assert result_of(place, finish(start(place, tmp_path)))[0] == undisturbed[0]


def test_a_store_that_is_gone_is_said_and_costs_no_result(make_place, undisturbed, tmp_path):
    """Its folder is moved away while the run scores, and comes back."""
    place = make_place(tmp_path / "place")
    shutil.move(place / "home", tmp_path / "home")
    (place / "home").symlink_to(tmp_path / "home")
    process = Process(
        tmp_path,
        run_benchmarks,
        RUN,
        MoveAway(place, tmp_path / "away"),
        DN2_HOME=str(tmp_path / "home"),
        MLFLOW_TRACKING_URI=f"sqlite:///{place}/mlflow.db",
    )
    code = end_in_one_line(process)
    count_run("stores: gone", code)
    shutil.rmtree(place, ignore_errors=True)
    (tmp_path / "away").rename(place)
    assert result_of(place, finish(start(place, tmp_path)))[0] == undisturbed[0]


@dataclass(frozen=True)
class MoveAway:
    """Move a folder away when the second result is saved."""

    folder: Path
    to: Path

    def __call__(self):
        from benchmarks.result_store import ResultStore

        after_call(ResultStore, "save", partial(self.folder.rename, self.to), 2)


@pytest.mark.parametrize("seconds", [0.05, 0.3])
def test_a_slow_store_gives_the_same_result(make_place, undisturbed, tmp_path, seconds):
    """Each transaction of the store waits for so long."""
    place = make_place(tmp_path / "place")
    process = Process(
        tmp_path,
        run_benchmarks,
        RUN,
        partial(be_slow, seconds),
        DN2_HOME=str(place / "home"),
        MLFLOW_TRACKING_URI=f"sqlite:///{place}/mlflow.db",
    )
    out = finish(process)
    count_run("stores: slow", 0)
    assert result_of(place, out) == undisturbed


def be_slow(seconds):
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    event.listen(Engine, "commit", lambda _: time.sleep(seconds))
