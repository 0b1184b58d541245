"""The laws of every data set, how each is read, and what is noticed when the disk lies."""

import hashlib
import re
import subprocess
import sys
from importlib import import_module
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
    write_npm_package,
)
from miniature_files import write_named

from benchmarks.datasets import DATASETS, cifar10, fashion_mnist, load_dataset, synthetic
from benchmarks.datasets.arrays import Arrays, fingerprint, images_digest
from benchmarks.fetch.transfer import unpack_flat

ROOT = Path(__file__).parent.parent.parent.parent


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """Load any data set of the table.

    The generated one comes as it is, the others from miniatures in the store.
    """

    def load(name):
        arrays = {
            "cifar10": cifar_arrays,
            "fashion_mnist": fashion_arrays,
            "cifar100_coarse": cifar_arrays,
        }.get(name)
        if arrays is not None:
            pin(monkeypatch, name, arrays())
            store(tmp_path, name, arrays())
        elif DATASETS[name].in_files:
            write_named(name, tmp_path, monkeypatch)
        return load_dataset(name, home=tmp_path)

    return load


# Laws, for every entry of the table


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_keeps_its_contract(name, loaded):
    dataset, entry = loaded(name), DATASETS[name]
    n = len(dataset.images)
    assert dataset.name == name
    assert dataset.labels.shape == dataset.is_train.shape == (n,)
    assert (dataset.labels.dtype, dataset.is_train.dtype) == (np.int64, np.bool_)
    assert len(set(dataset.class_names)) == len(dataset.class_names) == entry.n_classes
    assert set(dataset.labels) <= set(range(entry.n_classes))
    assert all(re.fullmatch("[a-z0-9_]+", slug) for slug in dataset.class_names)
    assert dataset.skipped == ()
    assert dataset.images[0].dtype == np.uint8
    assert entry.shape in (None, dataset.images[n - 1].shape)
    for one, two in zip(dataset.images[1:3], [dataset.images[1], dataset.images[2]], strict=True):
        assert np.array_equal(one, two)
    n_train = dataset.is_train.sum()
    assert 0 < n_train < n
    assert dataset.is_train[:n_train].all(), "training rows come first"


@pytest.mark.parametrize("name", [name for name, entry in DATASETS.items() if not entry.in_files])
def test_a_fingerprint_is_of_images_labels_and_partition(name, loaded):
    dataset = loaded(name)
    assert dataset.fingerprint == DATASETS[name].digest
    images = np.asarray(dataset.images[:])
    assert dataset.fingerprint == fingerprint(
        images_digest(images), dataset.labels, dataset.is_train
    )
    other_image = images.copy()
    other_image[-1, 0, 0] ^= 1
    other_label = np.where(
        np.arange(len(images)) == 3, 1 - np.minimum(dataset.labels, 1), dataset.labels
    )
    changes = {
        fingerprint(images_digest(other_image), dataset.labels, dataset.is_train),
        fingerprint(images_digest(images), other_label, dataset.is_train),
        fingerprint(images_digest(images), dataset.labels, ~dataset.is_train),
        fingerprint(images_digest(images[:, ::-1]), dataset.labels, dataset.is_train),
        dataset.fingerprint,
    }
    assert len(changes) == 5


@pytest.mark.parametrize("name", DATASETS)
def test_an_entry_is_filled_in(name):
    entry = DATASETS[name]
    assert len(bytes.fromhex(entry.digest)) == (32 if entry.digest else 0)
    assert ("digest not pinned" in entry.summary) == (not entry.digest)
    assert entry.title in entry.summary
    assert entry.licence in entry.summary
    assert (
        len(getattr(import_module(entry.module), "CLASS_NAMES", range(entry.n_classes)))
        == entry.n_classes
    )


def test_the_laws_leave_no_entry_out():
    arrays = {"cifar10", "fashion_mnist", "cifar100_coarse", "synthetic"}
    files = {"flowers102", "cub200", "cats_vs_dogs", "dior", "wbc"}
    assert {name for name, entry in DATASETS.items() if not entry.in_files} == arrays, (
        "give a new one its miniature in `loaded`"
    )
    assert {name for name, entry in DATASETS.items() if entry.in_files} == files, (
        "give a new one its miniature in `loaded`"
    )


def test_generated_data_has_the_pinned_digest_and_size(tmp_path):
    dataset, entry = load_dataset("synthetic", home=tmp_path), DATASETS["synthetic"]
    assert dataset.fingerprint == entry.digest
    assert np.bincount(dataset.labels[dataset.is_train]).tolist() == [40] * 4
    assert np.bincount(dataset.labels[~dataset.is_train]).tolist() == [20] * 4
    assert (dataset.is_train.sum(), (~dataset.is_train).sum()) == (entry.n_train, entry.n_test)
    assert synthetic.generate(seed=1).fingerprint != entry.digest


def test_class_names_are_those_of_the_published_table():
    cells = [
        line.split(",") for line in (ROOT / "benchmarks" / "published.csv").read_text().splitlines()
    ]
    for module, name in ((cifar10, "cifar10"), (fashion_mnist, "fashion_mnist")):
        published = {cell[4] for cell in cells if name in cell[2:3] and cell[3] == "one_vs_rest"}
        assert published - {"mean"} == set(module.CLASS_NAMES)


def test_the_table_is_imported_without_any_heavy_library():
    code = (
        "import sys, benchmarks.datasets; "
        "heavy = {'torch', 'torchvision', 'PIL', 'pandas', 'scipy'}; "
        "print(*heavy & set(sys.modules), 'none')"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert child.stdout.strip() == "none"


# Oracles: torchvision's own classes read the same files


def test_cifar_is_read_as_torchvision_reads_it(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    assert dict(CIFAR10.train_list + CIFAR10.test_list) == cifar10.BATCHES
    md5 = write_cifar_pickles(tmp_path, cifar_arrays())
    monkeypatch.setattr(cifar10, "BATCHES", md5)
    monkeypatch.setattr(CIFAR10, "train_list", list(md5.items())[:5])
    monkeypatch.setattr(CIFAR10, "test_list", list(md5.items())[5:])
    meta = hashlib.md5((tmp_path / cifar10.FOLDER / "batches.meta").read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": meta})
    theirs = [CIFAR10(tmp_path, train=train) for train in (True, False)]
    ours = cifar10.read_torchvision(tmp_path)
    assert np.array_equal(ours.images, np.concatenate([part.data for part in theirs]))
    assert ours.labels.tolist() == theirs[0].targets + theirs[1].targets
    assert ours.is_train.sum() == len(theirs[0])
    assert ours.fingerprint == cifar_arrays().fingerprint


def test_fashion_mnist_is_read_as_torchvision_reads_it(tmp_path):
    from torchvision.datasets import FashionMNIST

    assert {
        name.removesuffix(".gz"): md5 for name, md5 in FashionMNIST.resources
    } == fashion_mnist.FILES
    write_idx_files(tmp_path / fashion_mnist.FOLDER, fashion_arrays(), gzipped=False)
    theirs = [FashionMNIST(tmp_path, train=train) for train in (True, False)]
    ours = fashion_mnist.read_torchvision(tmp_path)
    assert np.array_equal(ours.images, np.concatenate([part.data.numpy() for part in theirs]))
    assert ours.labels.tolist() == [*theirs[0].targets.tolist(), *theirs[1].targets.tolist()]
    assert ours.fingerprint == fashion_arrays().fingerprint


def test_every_layout_gives_the_same_arrays(tmp_path, monkeypatch):
    arrays = cifar_arrays()
    monkeypatch.setattr(cifar10, "BATCHES", write_cifar_pickles(tmp_path, arrays))
    write_cifar_archive(tmp_path)
    assert cifar10.read_torchvision(tmp_path).fingerprint == arrays.fingerprint
    write_npm_package(tmp_path / "p.tgz", arrays)
    unpack_flat(tmp_path / "p.tgz", tmp_path)
    assert cifar10.read_npm(tmp_path).fingerprint == arrays.fingerprint
    write_idx_files(tmp_path / "gz", fashion_arrays())
    assert fashion_mnist.read_files(tmp_path / "gz").fingerprint == fashion_arrays().fingerprint


# Arrays


def test_partitions_that_do_not_fit_are_refused():
    images = np.zeros((3, 2, 2), np.uint8)
    with pytest.raises(ValueError, match="3 test images and 2 labels"):
        Arrays.from_partitions(images, [0, 1, 2], images, [0, 1])
    with pytest.raises(ValueError, match="float64, not uint8"):
        Arrays.from_partitions(images.astype(float), [0, 1, 2], images, [0, 1, 2])


def test_the_digest_of_images_knows_their_shapes_but_not_how_they_are_held():
    images = np.arange(48, dtype=np.uint8).reshape(2, 4, 6)
    assert (
        images_digest(images)
        == images_digest(list(images))
        == images_digest(np.asfortranarray(images))
    )
    assert images_digest(images) != images_digest(images.reshape(2, 6, 4))
    by_hand = b"".join(b"(4, 6)" + image.tobytes() for image in images)
    assert images_digest(images) == hashlib.sha256(by_hand).hexdigest()
