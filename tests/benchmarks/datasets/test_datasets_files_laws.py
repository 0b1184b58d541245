"""Laws of every data set in image files.

A missing file is reported, and an altered one changes the fingerprint.
"""

import hashlib
import shutil

import numpy as np
import pytest
from miniature_files import set_counts, write_named

from benchmarks.contracts import MissingDataError
from benchmarks.datasets import DATASETS, is_on_disk, load_dataset

IN_FILES = [name for name, entry in DATASETS.items() if entry.in_files]


@pytest.mark.parametrize("name", IN_FILES)
def test_what_is_not_there_says_what_to_put_where(name, tmp_path):
    assert not is_on_disk(name, home=tmp_path)
    place = tmp_path / "data" / name
    expected = (
        rf"{name} is missing or incomplete.*: put .* \(from https://.*\) into a folder DIR "
        rf".*--root DIR`, or put it into {place}"
    )
    with pytest.raises(MissingDataError, match=expected) as caught:
        load_dataset(name, home=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", IN_FILES)
def test_an_incomplete_copy_is_refused(name, tmp_path, monkeypatch):
    write_named(name, tmp_path, monkeypatch)
    assert is_on_disk(name, home=tmp_path)
    ours = load_dataset(name, home=tmp_path)
    ours.images.paths[-1].unlink()
    with pytest.raises(MissingDataError, match=name):
        load_dataset(name, home=tmp_path)


@pytest.mark.parametrize("name", [name for name in IN_FILES if DATASETS[name].n_train])
def test_another_number_of_images_than_published_is_refused(name, tmp_path, monkeypatch):
    write_named(name, tmp_path, monkeypatch)
    n_train, n_test = DATASETS[name].n_train, DATASETS[name].n_test
    set_counts(monkeypatch, name, n_train, n_test + 1)
    with pytest.raises(
        MissingDataError,
        match=f"it has {n_train:,} training and {n_test:,} test images, expected {n_train:,} and",
    ):
        load_dataset(name, home=tmp_path)


@pytest.mark.parametrize("name", IN_FILES)
def test_a_fingerprint_is_of_file_contents_labels_and_partition(name, tmp_path, monkeypatch):
    root = write_named(name, tmp_path, monkeypatch)
    ours = load_dataset(name, home=tmp_path)
    moved = tmp_path / "elsewhere"
    shutil.copytree(root, moved)
    assert load_dataset(name, home=tmp_path, root=moved).fingerprint == ours.fingerprint
    path = ours.images.paths[-1]
    set_counts(monkeypatch, name, None, None)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    altered = load_dataset(name, home=tmp_path)
    assert altered.fingerprint != ours.fingerprint
    from benchmarks.datasets.arrays import fingerprint
    from benchmarks.datasets.image_files import row_digests

    lines = row_digests(altered.images)
    digest = hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()
    assert altered.fingerprint == fingerprint(digest, altered.labels, altered.is_train)
    assert fingerprint(digest, np.roll(altered.labels, 1), altered.is_train) != altered.fingerprint
    assert fingerprint(digest, altered.labels, ~altered.is_train) != altered.fingerprint
    assert row_digests(altered.images.take(np.arange(len(altered.labels))[::-1])) != lines
