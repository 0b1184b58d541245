"""What of a folder is used, what is passed over, and which images are in both partitions."""

import os
import shutil

import numpy as np
import pytest
from miniature import fashion_arrays, pin, store
from miniature_files import picture, save, write_tree
from PIL import Image

from benchmarks.commands.options import DatasetList
from benchmarks.contracts import Dataset, MissingDataError, UsageError
from benchmarks.datasets import check_dataset, load_dataset
from benchmarks.datasets.inventory import KEPT, find_duplicates, take_inventory


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path / "mine", {"train/good": 4, "test/good": 2, "test/bad": 3})


def load(root, **options):
    return load_dataset(f"folder:{root}", home=root.parent / "home", **options)


def inventory(dataset):
    return take_inventory(dataset, find_duplicates(dataset))


def test_what_is_passed_over_is_counted_and_listed(tree):
    before = load(tree)
    good = tree / "train" / "good"
    save(good / ".ipynb_checkpoints" / "odd.png", picture(9))
    (good / "notes.txt").touch()
    (good / "Thumbs.db").touch()
    (good / "LICENCE").touch()
    os.mkfifo(good / "pipe.png")
    (tree / "train" / "empty").mkdir()
    save(tree / "train" / "loose.png", picture(10))
    save(tree / "validation" / "x.png", picture(11))
    (good / "gone.png").symlink_to(tree / "nowhere.png")
    (good / "again").symlink_to(tree / "test" / "bad")
    (good / "phone.HEIC").touch()
    ours = load(tree)
    assert list(ours.images.paths) == list(before.images.paths)
    assert ours.row_digests == before.row_digests
    said = {one.path: one.reason for one in ours.passed_over}
    assert said == {
        "train/good/.ipynb_checkpoints": "hidden (name begins with a dot)",
        "train/good/notes.txt": "ending in .txt",
        "train/good/Thumbs.db": "ending in .db",
        "train/good/LICENCE": "ending in no ending",
        "train/good/pipe.png": "FIFO, not opened",
        "train/empty": "class folder without an image",
        "train/loose.png": "image beside the class folders",
        "validation": "folder beside train and test",
        "train/good/gone.png": "link that leads nowhere",
        "train/good/again": "link to a folder, not followed",
        "train/good/phone.HEIC": "ending in .heic",
    }
    line, warning = inventory(ours).lines
    assert line.startswith("folder:mine: 4 training and 5 test images in 3 classes")
    assert "4 with other endings (.db 1, .heic 1, .txt 1, no ending 1)" in line
    assert warning.startswith("Beware: ")
    for reason in ("beside the class folders", "leads nowhere", "not followed", ".heic 1"):
        assert reason in warning
    assert "train/good/gone.png: link that leads nowhere" in inventory(ours).listing


def test_a_class_folder_without_images_changes_the_classes_alone(tree):
    (tree / "train" / "empty").mkdir()
    assert load(tree).class_names == ("bad", "empty", "good")


def test_an_unreadable_folder_is_named(tree, monkeypatch):
    scan, hidden = os.scandir, tree / "train" / "good" / "b"
    hidden.mkdir()

    def refuse(path):
        if path == hidden:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    (one,) = load(tree).passed_over
    assert (one.reason, one.is_loss) == ("folder that cannot be read (Permission denied)", True)


@pytest.mark.parametrize("ending", [".jfif", ".jpe", ".JPG", ".dib", ".tga", ".pnm", ".avif"])
def test_common_endings_are_read(ending, tree):
    kind = {".dib": "DIB", ".tga": "TGA", ".pnm": "PPM", ".avif": "AVIF"}.get(ending, "JPEG")
    pixels = picture(5, (16, 16, 3))
    Image.fromarray(pixels).save(tree / "train" / "good" / f"x{ending}", format=kind)
    ours = load(tree)
    assert int(ours.is_train.sum()) == 5
    assert [image.shape for image in ours.images[:]][-6] == (16, 16, 3)
    assert not ours.passed_over


def test_a_stack_of_pages_is_refused_and_an_animation_is_said(tree):
    pages = [Image.new("L", (8, 8), grey) for grey in (1, 90)]
    film = tree / "train" / "good" / "film.gif"
    pages[0].save(film, save_all=True, append_images=pages[1:])
    assert [one.reason for one in load(tree).passed_over] == [
        "animation, of which the first frame is used"
    ]
    stack = tree / "train" / "good" / "stack.tif"
    pages[0].save(stack, save_all=True, append_images=pages[1:])
    with pytest.raises(MissingDataError, match=r"stack\.tif cannot be one image: it holds 2 pages"):
        load(tree)


@pytest.mark.parametrize("name", ["x" * 200, "é" * 100])
def test_a_name_of_a_class_that_is_too_long_is_refused(name, tree):
    (tree / "train" / name).mkdir()
    with pytest.raises(MissingDataError, match="a class may have 120: rename it") as caught:
        load(tree)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["-v", "mean", "a\nb", 'it\'s "x"', "a∕b", "naïve"])
def test_names_of_classes_that_are_awkward_elsewhere(name, tree):
    write_tree(tree, {f"train/{name}": 2, f"test/{name}": 1})
    assert "\n" not in "".join(load(tree).class_names)


# Duplicates


def test_test_images_that_train_are_counted_and_left_out(tree):
    plain = load(tree)
    shutil.copy(tree / "train" / "good" / "0.png", tree / "test" / "good" / "copy.png")
    shutil.copy(tree / "train" / "good" / "1.png", tree / "test" / "bad" / "copy.png")
    shutil.copy(tree / "train" / "good" / "1.png", tree / "train" / "good" / "twice.png")
    ours = load(tree)
    found = find_duplicates(ours)
    names = [str(path.relative_to(tree)) for path in ours.files]
    assert [names[row] for row in found.shared] == ["test/bad/copy.png", "test/good/copy.png"]
    assert [names[row] for row in found.twins] == ["train/good/1.png", "train/good/0.png"]
    assert (found.in_train, found.in_test) == (1, 0)
    line, warning = inventory(ours).lines
    assert line.endswith("copies: 1 within train, 0 within test, 2 of test in train")
    assert warning.startswith("Beware: 2 of the 7 test images of folder:mine are training images")
    assert "1 with the same label, 1 with another label" in warning
    less = load(tree, drop_duplicates=True)
    assert len(less.labels) == len(ours.labels) - 2
    assert less.fingerprint not in (ours.fingerprint, plain.fingerprint)
    assert not len(find_duplicates(less).shared)
    assert load(tree, drop_duplicates=True).fingerprint == less.fingerprint
    assert any("2 test images are left out" in line for line in inventory(less).lines)


def test_nothing_is_left_out_where_nothing_is_shared(tree):
    assert load(tree, drop_duplicates=True).fingerprint == load(tree).fingerprint


def test_a_test_set_that_only_repeats_the_training_set_is_refused(tmp_path):
    root = write_tree(tmp_path / "mine", {"train/good": 2})
    shutil.copytree(root / "train", root / "test")
    with pytest.raises(UsageError, match="leaves no test image"):
        load(root, drop_duplicates=True)


@pytest.mark.parametrize("kind", ["stored", "array", "list"])
def test_arrays_are_compared_row_for_row(kind, tmp_path, monkeypatch):
    arrays = fashion_arrays()
    arrays.images[25], arrays.images[28], arrays.images[3] = (arrays.images[i] for i in (7, 7, 2))
    pin(monkeypatch, "fashion_mnist", arrays)
    if kind == "stored":
        folder = store(tmp_path, "fashion_mnist", arrays)
        ours = load_dataset("fashion_mnist", home=tmp_path)
    else:
        images = arrays.images if kind == "array" else list(arrays.images)
        ours = Dataset("x", images, arrays.labels, arrays.is_train, ("a",) * 10, "f")
    found = find_duplicates(ours)
    assert (found.shared.tolist(), found.twins.tolist()) == ([25, 28], [7, 7])
    assert (found.in_train, found.in_test) == (1, 1)
    if kind != "stored":
        return
    less = load_dataset("fashion_mnist", home=tmp_path, drop_duplicates=True)
    kept = [row for row in range(30) if row not in (25, 28)]
    assert np.array_equal(less.images[:], arrays.images[kept])
    assert np.array_equal(less.images[24], arrays.images[24])
    content = (folder / KEPT).read_bytes()
    for damage in (content[:-9], content.replace(b"25", b"24"), b"", b"{}"):
        (folder / KEPT).write_bytes(damage)
        assert find_duplicates(ours).shared.tolist() == [25, 28]
        assert (folder / KEPT).read_bytes() == content


def test_other_sequences_are_not_read_for_it(tmp_path):

    ours = Dataset("x", range(3), np.zeros(3, int), np.array([True, False, False]), ("a",), "f")
    assert find_duplicates(ours) is None


# Names


def test_a_comma_belongs_to_a_path_that_exists(tmp_path):
    place = tmp_path / "line 3, shift b=1+2:é, x"
    place.mkdir()
    (tmp_path / "line 3").mkdir()
    split = lambda text: DatasetList().convert(text, None, None)  # noqa: E731
    assert split(f"folder:{place}") == (f"folder:{place}",)
    assert split(f"cifar10,folder:{place},wbc") == ("cifar10", f"folder:{place}", "wbc")
    assert split(f"folder:{tmp_path}/line 3,cifar10") == (f"folder:{tmp_path}/line 3", "cifar10")
    assert split("folder:/no/a, b,cifar10") == ("folder:/no/a, b", "cifar10")
    assert split("cifar10, wbc,") == ("cifar10", "wbc")
    assert check_dataset(f"folder:{place}") == f"folder:{place}"


def test_a_path_of_no_user_is_one_line():
    with pytest.raises(UsageError, match="is no path"):
        check_dataset("folder:~no-such-user/x")
