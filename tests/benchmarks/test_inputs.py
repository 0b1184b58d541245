"""Pixels as input: native and resized, grey and colour, from arrays and from files."""

import json
from dataclasses import replace

import numpy as np
import pytest
from miniature_files import picture, save
from PIL import Image
from torchvision import transforms

import dn2.images
from benchmarks.contracts import Dataset, UsageError, Workspace
from benchmarks.datasets.synthetic import load
from benchmarks.experiments import make_experiments
from benchmarks.inputs import (
    Pixels,
    describe_view,
    encoder_names,
    input_identity,
    load_input,
    load_pixels,
)
from dn2.features import PREPROCESSING, preprocessing
from dn2.files import seal
from dn2.images import ImageFiles
from dn2.squares import SQUARES, resize_whole


def dataset(images):
    n = len(images)
    return Dataset("toy", images, np.zeros(n, np.int64), np.ones(n, bool), ("a",), "f")


@pytest.fixture
def files(tmp_path):
    """Make six images of 12 x 9 pixels; the fourth is grey."""
    return ImageFiles(
        [
            save(tmp_path / f"{n}.png", picture(n, (12, 9) if n == 3 else (12, 9, 3)))
            for n in range(6)
        ]
    )


ROWS = np.array([4, 0, 3, 3])


def test_arrays_are_gathered_as_they_are():
    synthetic = load(None)
    X = load_input(synthetic, "pixels", Workspace(None))
    assert (X.shape, len(X)) == ((240, 32, 32, 3), 240)
    np.testing.assert_array_equal(X[ROWS], synthetic.images[ROWS])
    assert X[ROWS].dtype == np.uint8
    assert X[ROWS[:0]].shape == (0, 32, 32, 3)


@pytest.mark.parametrize("name", ["pixels", "pixels:16", "pixels:40"])
def test_grey_images_have_one_channel(name):
    images = np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)
    X = load_pixels(dataset(images), name)
    side = X.shape[1]
    assert X[ROWS].shape == (4, side, side, 1)
    expected = [
        Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR) for image in images
    ]
    np.testing.assert_array_equal(X[ROWS][..., 0], np.stack(expected)[ROWS])


def test_files_of_mixed_channels_have_three(files):
    X = load_pixels(dataset(files), "pixels")
    assert X.shape == (6, 12, 9, 3)
    for found, row in zip(X[ROWS], ROWS, strict=True):
        image = files[row]
        np.testing.assert_array_equal(
            found, image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
        )


def test_files_are_made_squares_and_only_those_asked_for_are_decoded(files, monkeypatch):
    decoded, original = [], dn2.images._decode
    monkeypatch.setattr(
        dn2.images,
        "_decode",
        lambda path, *rest: decoded.append(path.stem) or original(path, *rest),
    )
    X = load_pixels(dataset(files), "pixels:5")
    assert decoded == []
    found = X[np.array([5, 1])]
    assert sorted(decoded) == ["1", "5"]
    released = transforms.Compose([transforms.Resize(5), transforms.CenterCrop(5)])
    expected = [np.asarray(released(Image.fromarray(files[row]))) for row in (5, 1)]
    np.testing.assert_array_equal(found, expected)


def test_several_sizes_need_one_and_the_error_says_how(files, tmp_path):
    more = ImageFiles([*files.paths, save(tmp_path / "large.png", picture(9, (40, 50, 3)))])
    with pytest.raises(
        UsageError, match=r"toy has images of 2 sizes, 12 x 9 to 40 x 50.* --size 64"
    ):
        load_pixels(dataset(more), "pixels")
    assert load_pixels(dataset(more), "pixels:8")[np.array([6, 3])].shape == (2, 8, 8, 3)


def test_headers_tell_the_shapes_that_decoding_gives(tmp_path):
    colour, grey = picture(0, (12, 9, 3)), picture(1, (12, 9))
    paths = [save(tmp_path / "c.png", colour), save(tmp_path / "g.png", grey)]
    turned = Image.Exif()
    turned[0x0112] = 6
    variants = {
        "turned.jpg": (Image.fromarray(colour), {"exif": turned}),
        "palette.png": (Image.fromarray(colour).convert("P"), {}),
        "bilevel.png": (Image.fromarray(grey).convert("1"), {}),
        "transparent.png": (Image.fromarray(grey).convert("LA"), {}),
        "deep.png": (Image.fromarray(grey.astype(np.uint16) * 257), {}),
        "print.jpg": (Image.fromarray(colour).convert("CMYK"), {}),
    }
    for name, (image, options) in variants.items():
        image.save(tmp_path / name, **options)
        paths.append(tmp_path / name)
    files = ImageFiles(paths)
    assert files.shapes() == [image.shape for image in files]
    assert (9, 12, 3) in files.shapes()
    boxes = np.array([[2, 3, 8, 100]] * len(paths))
    for cropped in (ImageFiles(paths, boxes), ImageFiles(paths, boxes, 7)):
        assert cropped.shapes() == [image.shape for image in cropped]


@pytest.mark.parametrize(
    "name", ["pixels:0", "pixels:", "pixels:-3", "pixels:big", "pixel", "pixels32"]
)
def test_a_wrong_name_is_refused(name):
    with pytest.raises(UsageError, match="pixels"):
        input_identity(name, Workspace(None))


def test_the_identity_is_the_resizing_and_no_weights():
    native, resized, larger = (
        input_identity(name, Workspace(None)) for name in ("pixels", "pixels:32", "pixels:256")
    )
    assert len({str(identity) for identity in (native, resized, larger)}) == 3
    assert all(set(identity) == {"preprocessing"} for identity in (native, resized, larger))
    assert encoder_names("pixels:32") == []


def test_the_pixels_of_a_data_set_are_not_modified_by_who_gets_them():
    synthetic = load(None)
    X = load_pixels(replace(synthetic, images=synthetic.images.copy()), "pixels")
    assert isinstance(X, Pixels)
    X[ROWS][:] = 0
    np.testing.assert_array_equal(X[ROWS], synthetic.images[ROWS])


# How images become squares


def cell(detector="dn2", **options):
    (made,) = make_experiments(datasets=["synthetic"], detectors=[detector], **options)
    return made


def test_the_usual_fit_changes_no_key_and_another_one_does():
    assert cell(fits=["crop"]).key == cell().key
    assert cell(fits=["pad"]).key != cell().key
    assert cell(fits=["pad"]).params["fit"] == "pad"
    pixels = {"variant": "label_free", "detector": "ocsvm", "size": 16}
    pixels["variants"] = [pixels.pop("variant")]
    assert cell(**pixels, fits=["crop"]).key == cell(**pixels).key
    assert cell(**pixels, fits=["squash"]).key != cell(**pixels).key
    made = make_experiments(datasets=["synthetic"], fits=["crop", "pad", "squash"])
    assert [one.fit for one in made] == ["", "pad", "squash"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fits": ["stretch"]}, "unknown fit 'stretch'"),
        ({"detectors": ["geom"], "fits": ["pad"]}, "fit is for images that are resized"),
    ],
)
def test_a_fit_without_a_meaning_is_refused(options, said):
    with pytest.raises(UsageError, match=said):
        make_experiments(datasets=["synthetic"], **options)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_pixels_become_squares_as_asked_from_files_and_from_arrays(fit, files):
    arrays = np.stack([files[row] for row in (0, 1, 2)])
    for images in (files.take(np.arange(3)), arrays):
        X = load_pixels(dataset(images), "pixels:6", fit)
        for row in range(3):
            expected = resize_whole(Image.fromarray(arrays[row]), 6, fit)
            np.testing.assert_array_equal(X[np.array([row])][0], np.asarray(expected))


def test_an_identity_says_how_squares_are_made():
    workspace = Workspace(None)
    found = {
        input_identity("pixels:8", workspace, fit)["preprocessing"] for fit in ("squash", "pad")
    }
    assert len(found | {input_identity("pixels:8", workspace)["preprocessing"]}) == 3
    assert len({preprocessing(square) for square in SQUARES}) == 3
    assert preprocessing("crop") == PREPROCESSING


def test_what_is_not_seen_is_said_from_headers_alone(files, monkeypatch):
    monkeypatch.setattr(dn2.images, "_decode", lambda *_: pytest.fail("decoded"))
    (said,) = describe_view(dataset(files), "features:efficientnet_lite0")
    assert said.startswith("6 of 6 images are no squares; median 42.6 %, worst 42.6 % of the area")
    assert "of the area" in describe_view(dataset(files), "pixels:8")[0]
    assert "squashed" in describe_view(dataset(files), "pixels:8", "squash")[0]
    assert describe_view(dataset(files), "pixels") == []
    squares = np.zeros((4, 8, 8, 3), np.uint8)
    assert describe_view(dataset(squares), "features:efficientnet_lite0") == []


# 16-bit grey of a data set


def write_deep(folder, black, white):
    """Write a data set of files: 16-bit grey in the training part, and one 8-bit image."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for n in range(4):
            path = folder / part / "a" / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            low, high = (black, white) if part == "train" else (0, 65536)
            Image.fromarray(rng.integers(low, high, (20, 20)).astype(np.uint16)).save(path)
    save(folder / "train" / "a" / "8 bits.png", picture(1, (20, 20)))
    return f"folder:{folder}"


def test_the_training_part_says_what_is_black_and_white(tmp_path):
    from benchmarks.datasets import load_dataset

    name = write_deep(tmp_path / "some", 1000, 2000)
    found = load_dataset(name, home=tmp_path / "home")
    black, white = found.images.view.levels
    assert 450 < black < 550
    assert 2450 < white < 2550
    assert found.images[1].max() - found.images[1].min() > 100
    (said,) = describe_view(found, "pixels:8")
    assert said.startswith(f"of 16-bit grey, level {black} becomes black and {white:,} white")
    (kept,) = (tmp_path / "home/data/levels").iterdir()
    again = load_dataset(name, home=tmp_path / "home")
    assert again.fingerprint == found.fingerprint
    other = json.loads(kept.read_text())
    other["levels"][0] += 1  # it would be a range, too
    for damage in ("", '{"version": 1, "levels": [5, 2]}', seal({"version": 0}), json.dumps(other)):
        kept.write_text(damage)
        assert load_dataset(name, home=tmp_path / "home").fingerprint == found.fingerprint


def test_a_data_set_that_uses_all_levels_or_none_of_16_bits_keeps_its_fingerprint(tmp_path):
    from benchmarks.datasets import folder, load_dataset
    from benchmarks.datasets.sixteen_bits import with_levels

    write_deep(tmp_path / "all", 0, 65536)
    plain = folder.load(tmp_path / "all")
    assert with_levels(plain, tmp_path).fingerprint == plain.fingerprint
    write_deep(tmp_path / "some", 1000, 2000)
    some = folder.load(tmp_path / "some")
    assert with_levels(some, tmp_path).fingerprint != some.fingerprint
    limited = load_dataset(f"folder:{tmp_path / 'some'}", home=tmp_path / "h", max_pixels=10)
    assert limited.images.view.levels == (0, 65535)
    assert not (tmp_path / "h/data/levels").exists(), "what a limit hides is not remembered"


def test_a_raised_limit_looks_again_for_what_a_lower_one_left_out(tmp_path):
    from benchmarks.datasets import load_dataset

    for n in range(3):
        path = tmp_path / "some" / f"{n}.png"
        path.parent.mkdir(exist_ok=True)
        save(path, picture(n, (20, 20 + 10 * (n == 1))))
    options = {"home": tmp_path / "home", "skip_corrupt": True}
    name = f"folder:{tmp_path / 'some'}"
    (skipped,) = load_dataset(name, **options, max_pixels=500).skipped
    assert "1.png: it has 30 x 20 pixels, more than the 500 that are allowed: raise" in skipped
    assert load_dataset(name, **options).skipped == ()
