"""Pixels as input: native and resized, grey and colour, from arrays and from files."""

from dataclasses import replace

import numpy as np
import pytest
from miniature_files import picture, save
from PIL import Image

import dn2.images
from benchmarks.contracts import Dataset, UsageError, Workspace
from benchmarks.datasets.synthetic import load
from benchmarks.inputs import Pixels, encoder_names, input_identity, load_input, load_pixels
from dn2.images import ImageFiles


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
        dn2.images, "_decode", lambda path: decoded.append(path.stem) or original(path)
    )
    X = load_pixels(dataset(files), "pixels:5")
    assert decoded == []
    found = X[np.array([5, 1])]
    assert sorted(decoded) == ["1", "5"]
    # 12 x 9 pixels: the middle nine rows, then the resize.
    expected = [
        np.asarray(Image.fromarray(files[row][1:10]).resize((5, 5), Image.Resampling.BILINEAR))
        for row in (5, 1)
    ]
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
