"""A user's own data, `folder:PATH` and `npz:PATH`: what it becomes, and what is refused."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from miniature_files import picture, save, write_tree

from benchmarks.contracts import Experiment, MissingDataError, UsageError
from benchmarks.datasets import OWN_DATA, check_dataset, is_on_disk, load_dataset
from benchmarks.protocols import make_splits
from benchmarks.protocols.one_class import one_vs_rest


def load(name, tmp_path, **options):
    return load_dataset(str(name), home=tmp_path / "home", **options)


def splits(dataset, classes=()):
    return list(one_vs_rest(dataset.labels, dataset.is_train, dataset.class_names, classes=classes))


# Names


def test_a_name_has_one_spelling(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    spellings = {"folder:a/b", "folder:./a/../a/b/", f"folder:{tmp_path}/a/b", "folder:~/a/b"}
    assert {check_dataset(name) for name in spellings} == {f"folder:{tmp_path}/a/b"}
    assert check_dataset("npz:x.npz") == f"npz:{tmp_path}/x.npz"
    assert check_dataset("cifar10") == "cifar10"


@pytest.mark.parametrize("name", ["folder:", "npz:"])
def test_a_form_without_a_path_is_a_usage_error(name):
    with pytest.raises(UsageError, match=f"'{name}' has no path: write folder:PATH or npz:PATH"):
        check_dataset(name)


@pytest.mark.parametrize("name", ["folders:x", "folder", "zip:x", "timm:x"])
def test_other_forms_are_unknown(name):
    with pytest.raises(
        UsageError, match=rf"unknown data set '{name}'.*cifar10.*folder:PATH, npz:PATH"
    ):
        check_dataset(name)


@pytest.mark.parametrize("form", [form for form in OWN_DATA if form.endswith(":PATH")])
def test_a_path_that_is_not_there_is_missing_data(form, tmp_path):
    name = form.replace("PATH", str(tmp_path / "nowhere"))
    assert not is_on_disk(name, home=tmp_path)
    with pytest.raises(MissingDataError, match=rf"{name} cannot be read .*No such file") as caught:
        load(name, tmp_path)
    assert "\n" not in str(caught.value)


# Folders


def test_a_folder_of_two_partitions(tmp_path):
    root = write_tree(
        tmp_path / "My photos",
        {"train/Good ones": 3, "train/B": 2, "test/Good ones": 2, "test/B": 1, "test/odd": 4},
    )
    (root / "train" / "B" / "notes.txt").write_text("not an image")
    (root / "train" / "B" / ".hidden.png").write_text("not an image")
    (root / "train" / ".git").mkdir()
    assert is_on_disk(f"folder:{root}", home=tmp_path)
    ours = load(f"folder:{root}", tmp_path)
    assert ours.name == "folder:my_photos"
    assert ours.class_names == ("b", "good_ones", "odd")
    paths = [str(path.relative_to(root)) for path in ours.images.paths]
    assert paths == [
        *("train/B/0.png", "train/B/1.png"),
        *(f"train/Good ones/{n}.png" for n in range(3)),
        "test/B/0.png",
        *(f"test/Good ones/{n}.png" for n in range(2)),
        *(f"test/odd/{n}.png" for n in range(4)),
    ]
    assert ours.labels.tolist() == [0, 0, 1, 1, 1, 0, 1, 1, 2, 2, 2, 2]
    assert ours.is_train.tolist() == [True] * 5 + [False] * 7
    assert np.array_equal(ours.images[0], picture(100, (5, 6, 3)))
    (split,) = splits(ours, ["good_ones"])
    assert split.train.tolist() == [2, 3, 4]
    assert split.is_anomaly.tolist() == [True, False, False, True, True, True, True]


@pytest.mark.parametrize("inside", ["", "train/good"])
def test_normal_images_only_are_one_class_to_train_on(inside, tmp_path):
    root = write_tree(tmp_path / "mine", {inside or ".": 3})
    ours = load(f"folder:{root}", tmp_path)
    assert ours.class_names == (("good",) if inside else ("normal",))
    assert (ours.labels.tolist(), ours.is_train.tolist()) == ([0] * 3, [True] * 3)
    with pytest.raises(UsageError, match="has no test image"):
        splits(ours)
    cell = Experiment(f"folder:{root}", "one_vs_rest", "dn2", "pixels")
    with pytest.raises(UsageError) as caught:
        make_splits(cell, ours)
    assert f": dn2 fit {root / inside} --out detector, then: dn2 score" in str(caught.value)


def test_every_usual_ending_and_subfolders_count(tmp_path):
    for number, name in enumerate(["a.JPG", "deep/er/b.jpeg", "c.Png", "d.bmp", "e.tif", "f.webp"]):
        save(tmp_path / "m" / "train" / "x" / name, picture(number))
    assert len(load(f"folder:{tmp_path / 'm'}", tmp_path).images[:]) == 6


def test_classes_and_files_in_any_script(tmp_path):
    root = write_tree(
        tmp_path / "Фото", {"train/Pêche": 1, "train/猫": 2, "test/Pêche": 1, "test/猫": 1}
    )
    save(root / "train" / "猫" / "ñ 1.png", picture(5))
    ours = load(f"folder:{root}", tmp_path)
    assert ours.name == "folder:фото"
    assert ours.class_names == ("pêche", "猫")
    assert len(ours.images[:]) == 6
    assert [split.name for split in splits(ours)] == ["pêche", "猫"]


def test_mixed_sizes_and_channels_are_kept(tmp_path):
    for number, shape in enumerate([(1, 1, 3), (9, 4), (30, 20, 3)]):
        save(tmp_path / "m" / "train" / "a" / f"{number}.png", picture(number, shape))
    ours = load(f"folder:{tmp_path / 'm'}", tmp_path)
    assert [image.shape for image in ours.images[:]] == [(1, 1, 3), (9, 4), (30, 20, 3)]


@pytest.mark.parametrize(
    "tree", [{}, {"train": 0}, {"train/a": 0, "test/a": 1}, {"a": 2, "b": 2}, {"test/a": 1}]
)
def test_a_folder_without_a_training_image_is_refused(tree, tmp_path):
    root = write_tree(tmp_path / "m", tree)
    root.mkdir(exist_ok=True)
    (root / "readme.txt").touch()
    with pytest.raises(
        MissingDataError,
        match=rf"no training image in {root}: expected train/CLASS/ and test/CLASS/.*\.jpg",
    ):
        load(f"folder:{root}", tmp_path)


def test_class_names_that_clash_or_are_empty_are_refused(tmp_path):
    root = write_tree(tmp_path / "m", {"train/a b": 1, "train/A-B": 1})
    with pytest.raises(
        MissingDataError, match=r"A-B and a b in .* are both class 'a_b': rename one"
    ):
        load(f"folder:{root}", tmp_path)
    root = write_tree(tmp_path / "n", {"train/!!": 1})
    with pytest.raises(MissingDataError, match="!! has no letter or digit"):
        load(f"folder:{root}", tmp_path)


def test_a_class_without_test_image_is_said_by_the_protocol(tmp_path):
    tree = {"train/a": 2, "train/b": 2, "test/a": 1, "test/c": 1}
    ours = load(f"folder:{write_tree(tmp_path / 'm', tree)}", tmp_path)
    with pytest.raises(UsageError, match="class 'b' has no test image"):
        splits(ours)
    with pytest.raises(UsageError, match="class 'c' has no training image"):
        splits(ours, ["c"])
    assert len(splits(ours, ["a"])) == 1


def test_an_image_that_cannot_be_opened_is_missing_data(tmp_path):
    root = write_tree(tmp_path / "m", {"train/a": 1})
    (root / "train" / "a" / "0.png").unlink()
    (root / "train" / "a" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(MissingDataError, match=r"passed over: 1 link that leads nowhere"):
        load(f"folder:{root}", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(MissingDataError, match=r"Not a directory"):
        load(f"folder:{tmp_path / 'file'}", tmp_path)


def test_folders_are_told_apart_by_content_and_classes_not_by_place(tmp_path):
    root = write_tree(tmp_path / "m", {"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1})
    first = load(f"folder:{root}", tmp_path).fingerprint
    shutil.copytree(root, tmp_path / "copy" / "m")
    assert load(f"folder:{tmp_path / 'copy' / 'm'}", tmp_path).fingerprint == first
    (root / "train" / "b").rename(root / "train" / "c")
    (root / "test" / "b").rename(root / "test" / "c")
    renamed = load(f"folder:{root}", tmp_path)
    assert renamed.fingerprint != first, "results of class b are not those of class c"
    save(root / "test" / "c" / "0.png", picture(77))
    assert load(f"folder:{root}", tmp_path).fingerprint not in (first, renamed.fingerprint)


# Arrays


def arrays(n_train=6, n_test=4, shape=(8, 9, 3), labels=3):
    return {
        "train_images": picture(1, (n_train, *shape)),
        "train_labels": (np.arange(n_train) % labels)[:, None].astype(np.uint8),
        "test_images": picture(2, (n_test, *shape)),
        "test_labels": (np.arange(n_test) % labels)[:, None].astype(np.uint8),
    }


@pytest.fixture
def npz(tmp_path):
    def write(name="My set.npz", **changes):
        content = {
            key: value for key, value in {**arrays(), **changes}.items() if value is not None
        }
        np.savez_compressed(tmp_path / name, **content)
        return f"npz:{tmp_path / name}"

    return write


@pytest.mark.parametrize("shape", [(8, 9), (8, 9, 3), (8, 9, 1)])
def test_arrays_in_medmnists_layout(shape, npz, tmp_path):
    content = arrays(shape=shape)
    ours = load(npz(**content), tmp_path)
    assert ours.name == "npz:my_set"
    assert ours.class_names == ("class_0", "class_1", "class_2")
    expected = np.concatenate([content["train_images"], content["test_images"]])
    assert np.array_equal(ours.images, expected[..., 0] if shape[2:] == (1,) else expected)
    assert ours.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert ours.is_train.tolist() == [True] * 6 + [False] * 4
    assert ours.labels.dtype == np.int64


def test_labels_may_be_any_integers_from_0(npz, tmp_path):
    ours = load(
        npz(
            train_labels=np.array([7, 7, 2, 2, 10, 7]), test_labels=np.array([7, 2, 3, 3], np.int16)
        ),
        tmp_path,
    )
    assert ours.class_names == ("class_2", "class_3", "class_7", "class_10")
    assert ours.labels.tolist() == [2, 2, 0, 0, 3, 2, 2, 0, 1, 1]


def test_validation_arrays_are_not_used_and_that_is_said(npz, tmp_path):
    plain = load(npz(), tmp_path)
    name = npz(val_images=picture(3, (2, 8, 9, 3)), val_labels=np.zeros((2, 1), np.uint8))
    with pytest.warns(UserWarning, match="val_images, val_labels not used"):
        assert load(name, tmp_path).fingerprint == plain.fingerprint


def test_no_test_image_is_for_the_protocol_to_say(npz, tmp_path):
    ours = load(
        npz(test_images=picture(2, (0, 8, 9, 3)), test_labels=np.zeros((0, 1), int)), tmp_path
    )
    assert ours.is_train.all()
    with pytest.raises(UsageError, match="has no test image"):
        splits(ours)


class Trap:
    """An object whose pickle creates a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("key", list(arrays()))
def test_pickled_objects_are_never_loaded(key, npz, tmp_path):
    trap = np.empty(6, object)
    trap[:] = [Trap(tmp_path / "sprung")] * 6
    with pytest.raises(
        MissingDataError,
        match=rf"npz:.* cannot be read \({key} of .* holds Python objects, which are never loaded",
    ) as caught:
        load(npz(**{key: trap}), tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"test_labels": None}, "has no test_labels: it has train_images"),
        ({"train_images": None, "train_labels": None}, "has no train_images, train_labels: it has"),
        (
            {"train_images": np.zeros((6, 8, 9, 3))},
            "train_images must be uint8 of shape .* got float64",
        ),
        (
            {"test_images": np.zeros((4, 8, 9, 3), np.uint16)},
            "test_images must be uint8 .* got uint16",
        ),
        ({"train_images": np.zeros((6, 8, 9, 4), np.uint8)}, r"got uint8 \(6, 8, 9, 4\)"),
        ({"train_images": np.zeros((6, 8, 8, 9, 3), np.uint8)}, r"got uint8 \(6, 8, 8, 9, 3\)"),
        ({"train_images": np.zeros((6, 0, 9), np.uint8)}, r"got uint8 \(6, 0, 9\)"),
        (
            {"train_images": np.zeros((5, 8, 9, 3), np.uint8)},
            "there are 5 training images and 6 labels",
        ),
        ({"test_labels": np.zeros(3, int)}, "there are 4 test images and 3 labels"),
        (
            {"test_images": np.zeros((4, 8, 8, 3), np.uint8)},
            r"differ in shape: \(8, 9, 3\) and \(8, 8, 3\)",
        ),
        (
            {"train_images": np.zeros((0, 8, 9, 3), np.uint8), "train_labels": np.zeros(0, int)},
            "train_images of .* is empty",
        ),
        (
            {"train_labels": np.zeros(6)},
            r"train_labels must be integers from 0 .* got float64 \(6,\)",
        ),
        (
            {"test_labels": np.zeros((4, 14), int)},
            r"test_labels must be integers from 0 .* got int64 \(4, 14\)",
        ),
        ({"train_labels": np.full(6, -1)}, "train_labels must be integers from 0"),
        ({"train_labels": np.array(list("abcdef"))}, "train_labels of .*integers from 0"),
    ],
)
def test_arrays_that_are_not_as_expected_are_refused(changes, reason, npz, tmp_path):
    with pytest.raises(MissingDataError, match=rf"npz:.* cannot be read \(.*{reason}") as caught:
        load(npz(**changes), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_npz_is_refused(npz, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("no")
    for name in ("a.npy", "text.npz"):
        with pytest.raises(MissingDataError, match=f"{name} is not an .npz file"):
            load(f"npz:{tmp_path / name}", tmp_path)
    with pytest.raises(MissingDataError, match="it is a folder, not a file"):
        load(f"npz:{tmp_path}", tmp_path)


def test_a_damaged_npz_is_refused(npz, tmp_path):
    path = Path(npz().removeprefix("npz:"))
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(MissingDataError, match=re.escape(f"npz:{path} cannot be read (")):
        load(f"npz:{path}", tmp_path)


def test_the_labels_values_are_part_of_the_fingerprint(npz, tmp_path):
    first = load(npz(), tmp_path).fingerprint
    shifted = {key: arrays()[key] + 1 for key in ("train_labels", "test_labels")}
    other = load(npz("other.npz", **shifted), tmp_path)
    assert other.class_names == ("class_1", "class_2", "class_3")
    assert other.fingerprint != first
