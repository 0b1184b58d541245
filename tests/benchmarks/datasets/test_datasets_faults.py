"""What is noticed when the disk lies, and what is reported when a data set is missing."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from miniature import (
    cifar_arrays,
    fashion_arrays,
    pin,
    store,
    write_cifar_archive,
    write_cifar_pickles,
    write_idx_files,
)

from benchmarks.contracts import MissingDataError, UsageError
from benchmarks.datasets import DATASETS, cifar10, fashion_mnist, is_on_disk, load_dataset
from benchmarks.datasets.arrays import images_digest

ROOT = Path(__file__).parent.parent.parent.parent


def test_no_pickle_is_opened_before_its_md5_is_known(tmp_path, monkeypatch):
    md5 = write_cifar_pickles(tmp_path, cifar_arrays())
    monkeypatch.setattr(cifar10, "BATCHES", md5)
    victim = tmp_path / cifar10.FOLDER / "data_batch_1"
    victim.write_bytes(pickle.dumps({}))
    monkeypatch.setattr(pickle, "loads", lambda *a, **k: pytest.fail("unpickled"))
    with pytest.raises(ValueError, match=f"data_batch_1 .* expected {md5['data_batch_1']}"):
        cifar10.read_torchvision(tmp_path)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "other shape"])
def test_images_altered_on_disk_are_found_before_one_is_handed_out(damage, tmp_path, monkeypatch):
    arrays = fashion_arrays()
    pin(monkeypatch, "fashion_mnist", arrays)
    path = store(tmp_path, "fashion_mnist", arrays) / "images.npy"
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-1] ^= 1
        path.write_bytes(content)
    elif damage == "truncate":
        path.write_bytes(content[:-100])
    elif damage == "remove":
        path.unlink()
    else:
        np.save(path, arrays.images.reshape(30, 14, 56))
    with pytest.raises(MissingDataError, match="python -m benchmarks fetch fashion_mnist"):
        load_dataset("fashion_mnist", home=tmp_path).images[0]


@pytest.mark.parametrize("file", ["labels.npy", "is_train.npy", "images.sha256"])
def test_altered_labels_are_found_at_once(file, tmp_path, monkeypatch):
    arrays = fashion_arrays()
    pin(monkeypatch, "fashion_mnist", arrays)
    path = store(tmp_path, "fashion_mnist", arrays) / file
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        MissingDataError, match=f"expected {arrays.fingerprint}.*fetch fashion_mnist"
    ):
        load_dataset("fashion_mnist", home=tmp_path)
    assert not is_on_disk("fashion_mnist", home=tmp_path)
    path.write_bytes(content[: len(content) // 3])
    with pytest.raises(MissingDataError, match="fetch fashion_mnist"):
        load_dataset("fashion_mnist", home=tmp_path)


def test_other_data_than_pinned_is_refused_with_both_digests(tmp_path, monkeypatch):
    pin(monkeypatch, "fashion_mnist", fashion_arrays())
    other = fashion_arrays(seed=1)
    store(tmp_path, "fashion_mnist", other)
    with pytest.raises(
        MissingDataError, match=f"{other.fingerprint}, expected {fashion_arrays().fingerprint}"
    ):
        load_dataset("fashion_mnist", home=tmp_path)


def test_stored_images_are_mapped_and_verified_once(tmp_path, monkeypatch):
    from benchmarks.datasets import arrays as module

    arrays = fashion_arrays()
    pin(monkeypatch, "fashion_mnist", arrays)
    store(tmp_path, "fashion_mnist", arrays)
    calls = []
    monkeypatch.setattr(
        module, "images_digest", lambda images: calls.append(1) or images_digest(images)
    )
    dataset = load_dataset("fashion_mnist", home=tmp_path)
    assert not calls, "labels are there without reading an image"
    assert isinstance(dataset.images[0:2], np.memmap)
    assert np.array_equal(dataset.images[5], arrays.images[5])
    assert len(calls) == 1
    sent = pickle.dumps(dataset.images)
    assert len(sent) < 1000
    assert np.array_equal(pickle.loads(sent)[:], arrays.images)


def test_an_unknown_name_gets_the_nearest_and_the_list(tmp_path):
    with pytest.raises(
        UsageError,
        match=r"'cifar_10'.*cifar10.*There are: cats_vs_dogs, cifar10, .*synthetic.*folder:PATH",
    ):
        load_dataset("cifar_10", home=tmp_path)


def test_what_is_not_there_is_said_with_the_remedy(tmp_path):
    assert is_on_disk("synthetic", home=tmp_path)
    assert not is_on_disk("cifar10", home=tmp_path)
    with pytest.raises(
        MissingDataError, match=r"cifar10 .*data/cifar10.*`python -m benchmarks fetch cifar10`"
    ):
        load_dataset("cifar10", home=tmp_path)


# --root


def test_a_root_is_read_and_no_other_place(tmp_path, monkeypatch):
    arrays = fashion_arrays()
    pin(monkeypatch, "fashion_mnist", arrays)
    home, root, empty = tmp_path / "home", tmp_path / "root", tmp_path / "empty"
    write_idx_files(root / fashion_mnist.FOLDER, arrays)
    dataset = load_dataset("fashion_mnist", home=home, root=root)
    assert np.array_equal(dataset.images[:], arrays.images)
    assert not home.exists()
    store(home, "fashion_mnist", arrays)
    empty.mkdir()
    with pytest.raises(MissingDataError, match=rf"below --root {empty} .*put FashionMNIST/raw/"):
        load_dataset("fashion_mnist", home=home, root=empty)


@pytest.mark.parametrize("name", DATASETS)
def test_a_root_that_cannot_be_listed_is_one_clear_line(name, tmp_path):
    (tmp_path / "file").touch()
    for root, reason in (
        (tmp_path / "nowhere", "No such file"),
        (tmp_path / "file", "Not a directory"),
    ):
        with pytest.raises(
            MissingDataError, match=rf"--root {root} cannot be read \({reason}"
        ) as caught:
            load_dataset(name, home=tmp_path, root=root)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("truncated gzip", "Compressed file ended"),
        ("short idx", r"says \[10\], but it holds 9 bytes"),
        ("no idx", "is not an idx file of bytes"),
        ("signed bytes", "is not an idx file of bytes"),
        ("other data", "is not the official data"),
        ("missing file", "No such file"),
    ],
)
def test_damaged_files_below_a_root_are_one_clear_line(damage, reason, tmp_path, monkeypatch):
    arrays = fashion_arrays()
    pin(monkeypatch, "fashion_mnist", arrays if damage != "other data" else fashion_arrays(1))
    folder = tmp_path / fashion_mnist.FOLDER
    write_idx_files(folder, arrays)
    packed = folder / "train-images-idx3-ubyte.gz"
    plain = folder / "t10k-labels-idx1-ubyte"
    if damage == "truncated gzip":
        packed.write_bytes(packed.read_bytes()[:-2000])
    elif damage == "short idx":
        plain.write_bytes(b"\0\0\x08\x01\0\0\0\x0a" + b"1" * 9)
    elif damage == "no idx":
        plain.write_bytes(b"<html>not found</html>")
    elif damage == "signed bytes":
        plain.write_bytes(b"\0\0\x09\x01\0\0\0\x0a" + b"1" * 10)
    elif damage == "missing file":
        packed.unlink()
    with pytest.raises(MissingDataError, match=f"fashion_mnist .*{reason}") as caught:
        load_dataset("fashion_mnist", home=tmp_path, root=tmp_path)
    assert "\n" not in str(caught.value)


def test_an_archive_without_a_batch_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "BATCHES", write_cifar_pickles(tmp_path, cifar_arrays()))
    (tmp_path / cifar10.FOLDER / "test_batch").unlink()
    write_cifar_archive(tmp_path)
    with pytest.raises(
        MissingDataError, match=r"cifar10 cannot be read below --root .*test_batch.*not found"
    ):
        load_dataset("cifar10", home=tmp_path, root=tmp_path)
