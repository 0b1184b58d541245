"""Every file that the suite writes for itself and reads back, damaged by seed.

The fast ones try each format a few times, the slow ones 2,000 times. Users' files (images, arrays)
and studies have files of their own beside this one.
"""

import hashlib
import json
import warnings
from dataclasses import replace

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from handmade import EXPERIMENT, LABELS, assert_equal_results, make_cell, make_result
from mutations import Refused, try_damaged
from PIL import Image
from pyarrow import parquet

from baselines._checkpoint import read_checkpoint as read_training
from baselines._checkpoint import write_checkpoint as write_training
from benchmarks.datasets import load_dataset
from benchmarks.result_store import (
    ResultStore,
    read_finished,
    read_neighbours,
    read_scores,
    split_record,
)
from dn2 import ImageDetector
from dn2.encoders import ENCODERS, BadWeightsError, check_weights, read_checkpoint
from dn2.images import ALL_LEVELS
from dn2.networks import Network
from dn2.saving import BadDetectorError, load, read_manifest
from dn2.store import FeatureStore

FEW = 25
TRIES = [(FEW, 1), pytest.param((2000, 2), marks=pytest.mark.slow)]
"""Tries and seed."""


@pytest.fixture(params=TRIES, ids=["few", "many"])
def tries(request):
    """How often, and by which seed: the arguments of `try_damaged`."""
    number, seed = request.param
    return {"tries": number, "seed": seed}


def is_equal(compare, *arguments):
    try:
        compare(*arguments)
    except AssertionError:
        return False
    return True


def test_shards(tmp_path, tries):
    features = np.random.default_rng(0).random((300, 12), np.float32)

    def store():
        identity = {"dataset": "toy", "encoder": "net"}
        return FeatureStore(tmp_path, identity, *features.shape)

    store().fill(lambda rows: [features[rows]])
    path = store().path / "shard-00000.npy"
    path.chmod(0o644)  # they are written read-only
    try_damaged(
        "feature shards",
        path,
        lambda: store().open()[:],
        lambda read: np.array_equal(read, features),
        (FileNotFoundError,),
        names=store().path.name,
        **tries,
    )


def test_results(tmp_path, tries):
    store, result = ResultStore(tmp_path), make_result()
    path = store.save(result, LABELS)

    def read():
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = store.load(EXPERIMENT)
        if not found:
            raise Refused(str(said[-1].message))
        return found["cat"]

    try_damaged(
        "results of splits",
        path,
        read,
        lambda read: is_equal(assert_equal_results, read, result),
        (),
        names=path.name,
        **tries,
    )


@pytest.fixture
def finished(tmp_path):
    results = make_cell()
    record = {
        "key": EXPERIMENT.key,
        "splits": [split_record(result) for result in results],
        "provenance": [dict(results[0].provenance)],
    }
    return results, ResultStore(tmp_path).write_finished(results, record, LABELS)


@pytest.mark.parametrize("name", ["results.json", "scores.parquet"])
def test_files_of_finished_runs(finished, tries, name):
    results, folder = finished

    def read():
        read_scores(folder)
        return read_finished(folder, EXPERIMENT)

    record = read()[0]
    try_damaged(
        f"finished runs: {name}",
        folder / name,
        read,
        lambda read: (
            read[0] == record and is_equal(lambda: [*map(assert_equal_scores, read[1], results)])
        ),
        (OSError, ValueError, KeyError, TypeError),  # what their readers turn into one line
        lines=name == "results.json",
        **tries,
    )


@pytest.mark.parametrize("reader", [read_scores, read_neighbours])
def test_every_reader_of_a_finished_run_looks_at_its_checksum(finished, reader):
    path = finished[1] / "scores.parquet"
    reader(finished[1])
    table = parquet.read_table(path)
    scores = pc.add(table["score"], 1.0)
    parquet.write_table(table.set_column(table.column_names.index("score"), "score", scores), path)
    with pytest.raises(ValueError, match=r"its scores\.parquet was altered"):
        reader(finished[1])


def assert_equal_scores(found, result):
    """Compare what is read back of a finished run: its cost is not kept by split."""
    assert_equal_results(replace(found, cost={}), replace(result, cost={}))


def test_training_checkpoints(tmp_path, tries):
    path = tmp_path / "disc.checkpoint"
    weights = {"weight": torch.arange(500.0), "bias": torch.zeros(3, dtype=torch.float64)}
    write_training(path, "identity", "loss", {"network": weights, "epoch": 3})

    def read():
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            state = read_training(path, "identity", "loss")
        if state is None:
            raise Refused(str(said[-1].message))
        return state

    try_damaged(
        "checkpoints of trainings",
        path,
        read,
        lambda state: state["epoch"] == 3 and equal_tensors(state["network"], weights),
        (),
        names=path.name,
        **tries,
    )


def equal_tensors(found, expected):
    return list(found) == list(expected) and all(
        found[name].dtype == expected[name].dtype and torch.equal(found[name], expected[name])
        for name in expected
    )


def test_weights_that_torch_wrote(tmp_path, tries):
    path = tmp_path / "mine.pth"
    weights = {"conv.weight": torch.randn(40, 9), "conv.bias": torch.zeros(40)}
    torch.save(weights, path)
    try_damaged(
        "weights of your own (.pth)",
        path,
        lambda: read_checkpoint("timm:mine", path),
        lambda state: equal_tensors(state, weights),
        (BadWeightsError,),
        names=path.name,
        **tries,
    )


def test_weights_with_a_known_digest(tmp_path, tries):
    path = tmp_path / "known.pth"
    torch.save({"conv.weight": torch.randn(40, 9)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = replace(ENCODERS["efficientnet_lite0"], sha256=digest)
    try_damaged(
        "weights with a known digest",
        path,
        lambda: check_weights(entry, path),
        lambda found: found == digest,
        (BadWeightsError,),
        names=path.name,
        **tries,
    )


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """Make a detector without encoding images: its network is read when it scores, not here."""
    folder = tmp_path_factory.mktemp("detectors") / "detector"
    fitted = ImageDetector("toy", k=2)
    fitted.levels_ = ALL_LEVELS
    fitted.networks_ = (Network("toy", "abc", 48, b"<net>" * 90, bytes(range(256)) * 9),)
    features = np.random.default_rng(0).random((8, 48), np.float32)
    paths = tuple(f"/photos/{number}.png" for number in range(8))
    fitted._keep(paths, features, np.ones(8, bool))
    fitted.save(folder)
    return fitted, folder


def test_manifests_of_detectors(detector, tries):
    _, folder = detector
    manifest = read_manifest(folder)

    def read():
        load(folder)
        return read_manifest(folder)

    try_damaged(
        "manifests of detectors",
        folder / "manifest.json",
        read,
        lambda read: read == manifest,
        (BadDetectorError,),
        lines=True,
        names=folder.name,
        **tries,
    )


@pytest.mark.parametrize("stem", ["features", "in_bank", "calibration", "paths", "network"])
def test_files_of_detectors(detector, tries, stem):
    fitted, folder = detector
    path = next(folder.glob(f"{stem}-*"))
    tries = {**tries, "tries": max(5, tries["tries"] // 5)}

    def is_same(read):
        return (
            np.array_equal(read.features_, fitted.features_)
            and np.array_equal(read.calibration_, fitted.calibration_)
            and np.array_equal(read.in_bank_, fitted.in_bank_)
            and read.paths_ == fitted.paths_
            and read.networks_ == fitted.networks_
        )

    try_damaged(
        "files of detectors",
        path,
        lambda: load(folder),
        is_same,
        (BadDetectorError,),
        names=path.name,
        **tries,
    )


def test_kept_answers_about_corrupt_images(tmp_path, tries):
    for name in ("train/good", "test/good", "test/odd"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.full((8, 8, 3), 20 * number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    (tmp_path / "photos/train/good/9.png").write_bytes(b"no image")

    def skipped():
        return load_dataset(
            f"folder:{tmp_path / 'photos'}", home=tmp_path / "home", skip_corrupt=True
        ).skipped

    expected = skipped()
    assert len(expected) == 1
    (kept,) = (tmp_path / "home/data/corrupt").iterdir()
    assert json.loads(kept.read_text())["corrupt"]
    try_damaged(  # a damaged one is written anew, without a word: nothing was lost but time
        "kept answers about corrupt images",
        kept,
        skipped,
        lambda found: found == expected,
        (),
        lines=True,
        **tries,
    )
