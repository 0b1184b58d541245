"""Data sets in image files: each is read from the layout its authors publish, and follows the paper's split."""

import os
from pathlib import Path

import numpy as np
import pytest
from miniature_files import (
    CUB_NAMES,
    WBC_COUNTS,
    dior_objects,
    picture,
    set_counts,
    write_asirra,
    write_cub,
    write_dior,
    write_flowers,
    write_wbc,
)

from benchmarks.contracts import MissingDataError
from benchmarks.datasets import DATASETS, dior, flowers102, load_dataset, wbc
from dn2.images import CorruptImageError

# Flowers-102


def test_flowers_have_the_official_split_and_labels(tmp_path, monkeypatch):
    from torchvision.datasets import Flowers102

    labels, parts = write_flowers(tmp_path)
    set_counts(monkeypatch, "flowers102", 1020, 102)
    ours = load_dataset("flowers102", home=tmp_path, root=tmp_path)
    numbers = [int(path.stem.removeprefix("image_")) for path in ours.images.paths]
    assert numbers == [*parts["trnid"], *parts["tstid"]]
    assert np.array_equal(ours.labels + 1, labels[np.array(numbers) - 1])
    assert np.bincount(ours.labels[ours.is_train]).tolist() == [10] * 102
    monkeypatch.setattr(Flowers102, "_check_integrity", lambda self: True)
    rows = [row for split in ("train", "test") for row in Flowers102(tmp_path, split)]
    assert [label for _, label in rows] == ours.labels.tolist()
    for row in (0, 500, 1121):
        assert np.array_equal(ours.images[row], np.asarray(rows[row][0]))


def test_flowers_names_and_files_are_torchvisions():
    from torchvision.datasets import Flowers102

    from benchmarks.datasets.file_datasets import slug

    assert (
        tuple(slug(name.replace("'", "")) for name in Flowers102.classes) == flowers102.CLASS_NAMES
    )
    theirs = dict(Flowers102._file_dict.values())
    files = flowers102.SOURCES["torchvision"].files
    assert {
        file.url.removeprefix(Flowers102._download_url_prefix): file.md5 for file in files
    } == theirs


def test_flowers_are_found_without_torchvisions_folder(tmp_path):
    write_flowers(tmp_path, folder=".")
    assert len(flowers102.read(tmp_path).labels) == 1122


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [("imagelabels", "labels", 103), ("setid", "trnid", 0), ("setid", "tstid", 9999)],
)
def test_flowers_lists_that_cannot_be_are_refused(file, key, value, tmp_path):
    from scipy.io import loadmat, savemat

    write_flowers(tmp_path)
    path = tmp_path / "flowers-102" / f"{file}.mat"
    content = {name: array for name, array in loadmat(path).items() if not name.startswith("__")}
    content[key] = content[key].astype(int)
    content[key][0, 5] = value
    savemat(path, content)
    with pytest.raises(MissingDataError, match=rf"flowers102 .*{key} of .* must lie in 1 to"):
        load_dataset("flowers102", home=tmp_path, root=tmp_path)
    path.write_bytes(b"not a mat file" * 20)
    with pytest.raises(MissingDataError, match="flowers102 cannot be read below --root"):
        load_dataset("flowers102", home=tmp_path, root=tmp_path)


# CUB-200


def test_birds_have_the_official_split_and_numbers(tmp_path, monkeypatch):
    folder = write_cub(tmp_path)
    set_counts(monkeypatch, "cub200", 200, 200)
    for root in (tmp_path, folder):
        ours = load_dataset("cub200", home=tmp_path, root=root)
        assert len(ours.class_names) == 200
        assert ours.class_names[0] == "001_black_footed_bird_1"
        assert sorted(ours.class_names) == list(ours.class_names)
        for row, path in enumerate(ours.images.paths):
            number = int(path.name.split("_")[1])
            assert number == row + 1
            assert path.parent.name == CUB_NAMES[ours.labels[row]]
            assert ours.is_train[row] == (number <= 200)
        assert ours.images[3].shape == (6, 5, 3)


@pytest.mark.parametrize(
    ("file", "line", "reason"),
    [
        ("train_test_split.txt", "", "not of the same images"),
        ("image_class_labels.txt", "7 201", "'201'"),
        ("images.txt", "7", "lines that are not a number and a text"),
        ("images.txt", "7 001.Nowhere/nothing.jpg", "No such file.*nothing.jpg"),
    ],
)
def test_lists_of_birds_that_do_not_fit_are_refused(file, line, reason, tmp_path):
    path = write_cub(tmp_path) / file
    lines = [line if old.startswith("7 ") else old for old in path.read_text().splitlines()]
    path.write_text("\n".join(lines))
    with pytest.raises(
        MissingDataError, match=f"cub200 cannot be read below --root .*{reason}"
    ) as caught:
        load_dataset("cub200", home=tmp_path, root=tmp_path)
    assert "\n" not in str(caught.value)


# Cats and dogs


@pytest.fixture
def asirra(tmp_path, monkeypatch):
    write_asirra(tmp_path)
    set_counts(monkeypatch, "cats_vs_dogs", 10, 6)
    return tmp_path


def test_cats_and_dogs_are_split_by_number(asirra):
    ours = load_dataset("cats_vs_dogs", home=asirra, root=asirra)
    rows = [(path.parent.name, int(path.stem)) for path in ours.images.paths]
    train, test = [0, 2, 10, 666, 9999], [10000, 11702, 12499]
    assert rows == [
        (kind, number) for part in (train, test) for kind in ("Cat", "Dog") for number in part
    ]
    assert ours.labels.tolist() == [0] * 5 + [1] * 5 + [0] * 3 + [1] * 3
    assert ours.is_train.tolist() == [True] * 10 + [False] * 6
    assert (DATASETS["cats_vs_dogs"].n_classes, ours.class_names) == (2, ("cat", "dog"))
    with pytest.raises(
        CorruptImageError, match=r"Cat/666.jpg is not a whole image \(it is empty\)"
    ):
        ours.images[3]


def test_corrupt_cats_and_dogs_are_left_out_and_no_other_moves(asirra):
    whole = load_dataset("cats_vs_dogs", home=asirra, root=asirra)
    ours = load_dataset("cats_vs_dogs", home=asirra, root=asirra, skip_corrupt=True)
    corrupt = [asirra / "PetImages" / "Cat" / "666.jpg", asirra / "PetImages" / "Dog" / "11702.jpg"]
    assert ours.skipped == tuple(f"{path}: it is empty" for path in corrupt)
    kept = [row for row, path in enumerate(whole.images.paths) if path not in corrupt]
    assert ours.images.paths == [whole.images.paths[row] for row in kept]
    assert ours.labels.tolist() == whole.labels[kept].tolist()
    assert ours.is_train.tolist() == whole.is_train[kept].tolist()
    assert (ours.is_train.sum(), (~ours.is_train).sum()) == (9, 5)
    assert ours.fingerprint != whole.fingerprint
    assert len(ours.images[:]) == 14


# DIOR


def test_dior_objects_are_large_boxes_resized(tmp_path, monkeypatch):
    monkeypatch.setattr(dior, "MORE_THAN", 2)
    write_dior(tmp_path, dior_objects())
    ours = load_dataset("dior", home=tmp_path, root=tmp_path)
    assert ours.class_names == tuple(f"class_{letter}" for letter in "abcdefghijklmnopqrst")
    assert [path.stem for path in ours.images.paths] == ["00001"] * 20 + ["00003"] * 20 + [
        "00004"
    ] * 20
    assert {path.parent.name for path in ours.images.paths[:40]} == {"JPEGImages-trainval"}
    assert {path.parent.name for path in ours.images.paths[40:]} == {"JPEGImages-test"}
    assert ours.labels.tolist() == list(range(20)) * 3
    assert ours.is_train.tolist() == [True] * 40 + [False] * 20
    from PIL import Image

    crop = Image.fromarray(picture(4, (280, 300, 3))[2:122, 1:126])
    expected = np.asarray(crop.resize((256, 256), Image.Resampling.BILINEAR))
    assert np.array_equal(ours.images[40 + 5], expected)


def test_dior_boxes_shorter_than_120_pixels_and_rare_classes_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(dior, "MORE_THAN", 1)
    write_dior(
        tmp_path,
        {
            "train": [
                [
                    ("Exact", (10, 10, 130, 130)),
                    ("Exact", (10, 10, 129, 280)),
                    ("rare", (0, 0, 200, 200)),
                ]
            ],
            "val": [[("Exact", (10, 10, 280, 129))]],
            "test": [[("Exact", ("10.0", "10.0", "140.0", "130.0"))]],
        },
    )
    ours = dior.read(tmp_path)
    assert ours.class_names == ("exact",)
    assert ours.images.boxes.tolist() == [[10, 10, 130, 130], [10, 10, 140, 130]]
    assert ours.is_train.tolist() == [True, False]
    monkeypatch.setattr(dior, "MORE_THAN", 2)
    with pytest.raises(
        MissingDataError, match="no class with more than 2 boxes of at least 120 pixels"
    ):
        load_dataset("dior", home=tmp_path, root=tmp_path)


def test_boxes_are_part_of_the_fingerprint(tmp_path, monkeypatch):
    monkeypatch.setattr(dior, "MORE_THAN", 0)
    prints = set()
    for number, box in enumerate([(0, 0, 120, 120), (1, 0, 121, 120), (0, 0, 120, 120)]):
        objects = {"train": [[("a", box)]], "val": [], "test": [[("a", box)]]}
        write_dior(tmp_path / str(number), objects)
        prints.add(dior.read(tmp_path / str(number)).fingerprint)
    assert len(prints) == 2
    monkeypatch.setattr(dior, "SIZE", 128)
    prints.add(dior.read(tmp_path / "0").fingerprint)
    assert len(prints) == 3


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("<xmax>121</xmax>", "", "without a name or a whole bndbox"),
        ("<name>Class-A</name>", "", "without a name or a whole bndbox"),
        ("<xmin>1</xmin>", "<xmin>left</xmin>", "left"),
        ("</annotation>", "", "no element found"),
    ],
)
def test_incomplete_annotations_are_refused(old, new, reason, tmp_path):
    write_dior(tmp_path, dior_objects(3))
    path = tmp_path / "Annotations" / "Horizontal Bounding Boxes" / "00003.xml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(MissingDataError, match=f"dior cannot be read below --root .*{reason}"):
        load_dataset("dior", home=tmp_path, root=tmp_path)


# WBC


def check_wbc(ours, labels):
    assert np.bincount(ours.labels[ours.is_train]).tolist() == [140, 42, 38, 17]
    assert np.bincount(ours.labels[~ours.is_train]).tolist() == [36, 11, 10, 5]
    numbers = np.array([int(path.stem) for path in ours.images.paths])
    assert [labels[number] for number in numbers] == (ours.labels + 1).tolist()
    for label in range(4):
        mine = numbers[ours.labels == label]
        assert (np.diff(mine) > 0).all(), "the last by number are the test"
    assert len(set(numbers)) == 299


def test_white_blood_cells_are_split_by_number_in_each_class(tmp_path, monkeypatch):
    labels = write_wbc(tmp_path)
    assert sum(WBC_COUNTS.values()) == 300
    set_counts(monkeypatch, "wbc", 237, 62, wbc.read(tmp_path).fingerprint)
    ours = load_dataset("wbc", home=tmp_path, root=tmp_path)
    check_wbc(ours, labels)
    header, *lines = (tmp_path / wbc.LABELS).read_text().splitlines()
    (tmp_path / wbc.LABELS).write_text("\n".join([header, *lines[::-1]]))
    assert wbc.read(tmp_path).fingerprint == ours.fingerprint, "the number counts, not the line"
    assert np.array_equal(
        ours.images[0], picture(int(ours.images.paths[0].stem), ours.images[0].shape)
    )


def test_other_white_blood_cells_than_the_pinned_are_refused(tmp_path):
    write_wbc(tmp_path)
    with pytest.raises(
        MissingDataError,
        match=rf"wbc .*is not the official data: .*expected {DATASETS['wbc'].digest}",
    ):
        load_dataset("wbc", home=tmp_path, root=tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(
    "DN2_WBC_ROOT" not in os.environ, reason="DN2_WBC_ROOT does not name a folder with WBC"
)
def test_the_real_white_blood_cells(tmp_path):
    root = Path(os.environ["DN2_WBC_ROOT"])
    ours = load_dataset("wbc", home=tmp_path, root=root, skip_corrupt=True)
    lines = (root / wbc.LABELS).read_text().splitlines()[1:]
    check_wbc(
        ours, {int(number): int(label) for number, label in (line.split(",") for line in lines)}
    )
    assert ours.fingerprint == DATASETS["wbc"].digest
    assert ours.skipped == ()
    shapes = {image.shape for image in ours.images[:]}
    assert max(shapes) == (120, 120, 3)
    assert len(shapes) > 10
