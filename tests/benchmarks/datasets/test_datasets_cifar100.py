"""CIFAR-100 by coarse classes: the standard table, and reading as torchvision does.

No pickle is opened unchecked.
"""

import pickle
import shutil

import numpy as np
import pytest
from miniature_files import set_counts, write_cifar100

from benchmarks.contracts import MissingDataError
from benchmarks.datasets import cifar100_coarse, load_dataset

# The standard table as numbers, from the labels of the official pickles.
# It is a second source for the names in the loader.
COARSE_OF_FINE = """
 4  1 14  8  0  6  7  7 18  3  3 14  9 18  7 11  3  9  7 11
 6 11  5 10  7  6 13 15  3 15  0 11  1 10 12 14 16  9 11  5
 5 19  8  8 15 13 14 17 18 10 16  4 17  4  2  0 17  4 18 17
10  3  2 12 12 16 12  1  9 19  2 10  0  1 16 12  9 13 15 13
16 19  2  4  6 19  5  5  8 19 18  1  2 15  6  0 17  8 14 13
"""


@pytest.fixture
def cifar100(tmp_path, monkeypatch):
    def write(**options):
        monkeypatch.setattr(cifar100_coarse, "BATCHES", write_cifar100(tmp_path, **options))
        set_counts(monkeypatch, "cifar100_coarse", 200, 100)
        return tmp_path

    return write


def test_the_coarse_table_is_the_standard_one():
    assert cifar100_coarse.FINE_TO_COARSE.tolist() == [
        int(number) for number in COARSE_OF_FINE.split()
    ]
    assert len(cifar100_coarse.FINE_NAMES) == 100
    assert cifar100_coarse.FINE_NAMES[:4] == ("apple", "aquarium_fish", "baby", "bear")


def test_cifar100_is_read_as_torchvision_reads_it(cifar100, monkeypatch):
    from torchvision.datasets import CIFAR100

    official = dict(CIFAR100.train_list + CIFAR100.test_list)
    assert official == cifar100_coarse.BATCHES
    assert CIFAR100.tgz_md5 == cifar100_coarse.SOURCES["torchvision"].files[0].md5
    root = cifar100()
    monkeypatch.setattr(CIFAR100, "_check_integrity", lambda self: True)
    monkeypatch.setattr(CIFAR100, "_load_meta", lambda self: None)
    theirs = [CIFAR100(root, train=train) for train in (True, False)]
    ours = load_dataset("cifar100_coarse", home=root, root=root)
    assert np.array_equal(ours.images[:], np.concatenate([part.data for part in theirs]))
    fine = np.array(theirs[0].targets + theirs[1].targets)
    assert np.array_equal(ours.labels, cifar100_coarse.FINE_TO_COARSE[fine])
    assert ours.class_names[ours.labels[0]] == "fruit_and_vegetables"  # the first image is an apple
    assert ours.is_train.sum() == 200


def test_coarse_labels_that_differ_from_the_table_are_refused(cifar100):
    def one_wrong(fine):
        labels = cifar100_coarse.FINE_TO_COARSE[fine].tolist()
        labels[12] = (labels[12] + 1) % 20
        return labels

    root = cifar100(coarse=one_wrong)
    with pytest.raises(
        MissingDataError, match=r"cifar100_coarse .*1 coarse labels of train .* differ .* image 12"
    ):
        load_dataset("cifar100_coarse", home=root, root=root)


def test_no_cifar100_pickle_is_opened_before_its_md5_is_known(tmp_path, monkeypatch):
    write_cifar100(tmp_path)
    monkeypatch.setattr(pickle, "loads", lambda *a, **k: pytest.fail("unpickled"))
    with pytest.raises(
        MissingDataError,
        match=r"train below .* has the MD5 .* expected 16019d7e3df5f24257cddd939b257f8d",
    ):
        load_dataset("cifar100_coarse", home=tmp_path, root=tmp_path)


def test_cifar100_is_read_from_the_archive_too(cifar100):
    import tarfile

    root = cifar100()
    unpacked = cifar100_coarse.read_torchvision(root)
    with tarfile.open(root / cifar100_coarse.ARCHIVE, "w:gz") as archive:
        archive.add(root / cifar100_coarse.FOLDER, cifar100_coarse.FOLDER)
    shutil.rmtree(root / cifar100_coarse.FOLDER)
    assert cifar100_coarse.read_torchvision(root).fingerprint == unpacked.fingerprint
