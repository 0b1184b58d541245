"""Corrupt images are left out on request and listed; they are looked for once."""

import shutil
from pathlib import Path

import pytest
from miniature_files import (
    dior_objects,
    picture,
    save,
    set_counts,
    write_asirra,
    write_dior,
    write_tree,
)

from benchmarks.contracts import MissingDataError
from benchmarks.datasets import DATASETS, dior, load_dataset


@pytest.fixture
def asirra(tmp_path, monkeypatch):
    write_asirra(tmp_path)
    set_counts(monkeypatch, "cats_vs_dogs", 10, 6)
    return tmp_path


def test_looking_for_corrupt_images_is_done_once(asirra, monkeypatch):
    from benchmarks.datasets import image_files

    first = load_dataset("cats_vs_dogs", home=asirra, root=asirra, skip_corrupt=True)
    monkeypatch.setattr(image_files, "reduce_image", lambda *_, **__: pytest.fail("again"))
    again = load_dataset("cats_vs_dogs", home=asirra, root=asirra, skip_corrupt=True)
    assert (again.skipped, again.fingerprint) == (first.skipped, first.fingerprint)
    moved = asirra / "moved"
    shutil.copytree(asirra / "PetImages", moved / "PetImages")
    there = load_dataset("cats_vs_dogs", home=asirra, root=moved, skip_corrupt=True)
    assert there.skipped[0].startswith(f"{moved}/PetImages/Cat/666.jpg: ")
    assert there.fingerprint == first.fingerprint


def test_another_corrupt_image_is_found_although_earlier_ones_are_remembered(asirra):
    load_dataset("cats_vs_dogs", home=asirra, root=asirra, skip_corrupt=True)
    (asirra / "PetImages" / "Dog" / "0.jpg").write_text("not found")
    ours = load_dataset("cats_vs_dogs", home=asirra, root=asirra, skip_corrupt=True)
    assert [Path(text.split(":")[0]).name for text in ours.skipped] == [
        "666.jpg",
        "0.jpg",
        "11702.jpg",
    ]


@pytest.mark.parametrize("damage", ["not json", '{"decoder": "another"}', '{"corrupt": {}}'])
def test_a_damaged_memory_of_corrupt_images_is_not_believed(damage, asirra):
    load_dataset("cats_vs_dogs", home=asirra, root=asirra, skip_corrupt=True)
    (kept,) = (asirra / "data" / "corrupt").iterdir()
    kept.write_text(damage)
    assert (
        len(load_dataset("cats_vs_dogs", home=asirra, root=asirra, skip_corrupt=True).skipped) == 2
    )


def test_a_home_that_cannot_be_written_costs_only_time(asirra):
    home = asirra / "file"
    home.touch()
    told = []
    tell = lambda *message: told.append(message)  # noqa: E731
    ours = load_dataset("cats_vs_dogs", home=home, root=asirra, skip_corrupt=True, progress=tell)
    assert len(ours.skipped) == 2
    assert ("cats_vs_dogs: looking for corrupt images", 16, 16) in told


def test_every_object_of_a_corrupt_aerial_image_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(dior, "MORE_THAN", 2)
    write_dior(tmp_path, dior_objects(4))
    (tmp_path / "JPEGImages-trainval" / "00003.jpg").write_bytes(b"broken")
    ours = load_dataset("dior", home=tmp_path, root=tmp_path, skip_corrupt=True)
    assert len(ours.skipped) == 1
    assert [path.stem for path in ours.images.paths] == ["00001"] * 4 + ["00004"] * 4
    assert len(ours.images.boxes) == len(ours.labels) == 8
    assert len(ours.images[:]) == 8


def test_without_corrupt_images_nothing_changes(tmp_path):
    name = f"folder:{write_tree(tmp_path / 'mine', {'train/a': 3, 'test/a': 1})}"
    plain, checked = (
        load_dataset(name, home=tmp_path, skip_corrupt=skip) for skip in (False, True)
    )
    assert plain.fingerprint == checked.fingerprint
    assert checked.skipped == ()
    synthetic = load_dataset("synthetic", home=tmp_path, skip_corrupt=True)
    assert synthetic.fingerprint == DATASETS["synthetic"].digest


def test_a_file_that_vanishes_is_missing_and_not_corrupt(tmp_path, monkeypatch):
    from benchmarks.datasets import image_files

    path = save(tmp_path / "mine" / "a.png", picture(0))
    find = image_files._find_corrupt
    monkeypatch.setattr(image_files, "_find_corrupt", lambda *a: (path.unlink(), find(*a))[1])
    with pytest.raises(MissingDataError, match=r"No such file.*a\.png"):
        load_dataset(f"folder:{tmp_path / 'mine'}", home=tmp_path, skip_corrupt=True)
