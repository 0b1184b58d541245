"""Crops: those of the benchmark, of every kind of file; what cannot be read costs no other."""

import io
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dn2 import crops
from dn2.crops import DECODED_SIDE, are_the_same, read_crop, read_crops
from dn2.images import CorruptImageError, View, read_image
from dn2.squares import resize_with_pil

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (60, 80, 3)).astype(np.uint8)


def contents():
    """Make a picture in many formats: name -> (content, the pixels it should show)."""
    made = {}
    for name, mode, options in (
        ("rgb.png", "RGB", {}),
        ("grey.png", "L", {}),
        ("palette.png", "P", {}),
        ("bits.png", "1", {}),
        ("alpha.png", "RGBA", {}),
        ("cmyk.tif", "CMYK", {}),
        ("lzw.tif", "RGB", {"compression": "tiff_lzw"}),
        ("c.bmp", "RGB", {}),
        ("c.webp", "RGB", {"lossless": True}),
        ("c.jpg", "RGB", {"quality": 90}),
        ("cmyk.jpg", "CMYK", {"quality": 90}),
    ):
        file = io.BytesIO()
        image = Image.fromarray(COLOUR).convert(mode)
        image.save(file, Image.registered_extensions()[Path(name).suffix], **options)
        made[name] = file.getvalue()
    file = io.BytesIO()
    Image.fromarray(RNG.integers(0, 65536, (60, 80)).astype(np.uint16)).save(file, "PNG")
    made["16 bits.png"] = file.getvalue()
    file = io.BytesIO()
    turned = Image.Exif()
    turned[274] = 6
    Image.fromarray(COLOUR).save(file, "JPEG", exif=turned)
    made["turned.jpg"] = file.getvalue()
    return made


CONTENTS = contents()


@pytest.mark.parametrize("name", CONTENTS)
def test_a_crop_is_the_benchmarks_from_a_file_and_from_its_content(name, tmp_path):
    (tmp_path / name).write_bytes(CONTENTS[name])
    expected = resize_with_pil(read_image(tmp_path / name))
    assert expected.shape == (224, 224, 3)
    for source in (tmp_path / name, str(tmp_path / name), CONTENTS[name]):
        np.testing.assert_array_equal(read_crop(source), expected)


def test_what_cannot_be_read_is_named_and_costs_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(crops, "BATCH", 3)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "cut.png").write_bytes(CONTENTS["rgb.png"][:200])
    (tmp_path / "empty.png").touch()
    long = np.zeros((2, 4000), np.uint8)
    sources = [
        b"",
        COLOUR,
        tmp_path / "pipe",
        tmp_path / "cut.png",
        tmp_path,
        "/dev/zero",
        tmp_path / "no.png",
        tmp_path / "empty.png",
        "a\0b",
        COLOUR.astype(float),
        long,
        COLOUR[..., 0],
    ]
    batches = list(read_crops(sources, 2))
    assert [len(batch.rows) + len(batch.left_out) for batch in batches] == [3, 3, 3, 3]
    assert [row for batch in batches for row in batch.rows] == [1, 10, 11]
    assert [round(share, 3) for batch in batches for share in batch.unseen] == [0.426, 1.0, 0.426]
    np.testing.assert_array_equal(batches[0].crops[0], resize_with_pil(COLOUR))
    assert batches[1].crops.shape == (0, 224, 224, 3)
    told = {one.path: one.reason for batch in batches for one in batch.left_out}
    assert told == {
        "image 1": "it is empty",
        str(tmp_path / "pipe"): "it is a FIFO, not a file",
        str(tmp_path / "cut.png"): told[str(tmp_path / "cut.png")],
        str(tmp_path): "it is a folder, not a file",
        "/dev/zero": "it is a device, not a file",
        str(tmp_path / "no.png"): "No such file or directory",
        str(tmp_path / "empty.png"): "it is empty",
        "a\0b": "embedded null byte",
        "image 10": "an array must be uint8 (h, w) or (h, w, 3), got float64 (60, 80, 3)",
    }


def jpeg(width, height):
    """A photograph's content: smooth shapes with fine noise."""
    y, x = np.mgrid[:height, :width] / height
    shapes = 128 + 60 * np.sin(9 * x + 5 * y**2) + 40 * np.cos(23 * y * x)
    noise = RNG.normal(0, 12, (height, width, 3))
    file = io.BytesIO()
    pixels = np.clip(shapes[..., None] + noise, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", quality=92)
    return file.getvalue()


def test_a_large_jpeg_is_decoded_at_a_reduced_size(monkeypatch):
    content = jpeg(2100, 1500)
    decoded = []
    original = crops.to_square
    monkeypatch.setattr(
        crops, "to_square", lambda image, how: decoded.append(image.size) or original(image, how)
    )
    found = read_crop(content).astype(int)
    assert decoded == [(1050, 750)]  # a quarter would have less than 512 rows
    whole = resize_with_pil(np.asarray(Image.open(io.BytesIO(content)))).astype(int)
    other = np.asarray(
        Image.open(io.BytesIO(content)).resize((358, 256), Image.Resampling.BICUBIC)
    )[16:240, 67:291].astype(int)
    assert np.abs(found - whole).mean() < np.abs(other - whole).mean()
    assert DECODED_SIDE == 512


def test_memory_does_not_grow_with_the_number_of_images():
    content = jpeg(300, 260)
    tracemalloc.start()
    for _ in read_crops([content] * 320, 2):
        pass
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 30e6  # 320 crops are 48 MB, the three batches that are held at once 14


def test_a_corrupt_image_is_an_error_of_one_crop():
    with pytest.raises(CorruptImageError) as caught:
        read_crop(b"nothing", "a.png")
    assert caught.value.reason == "it is in no known image format"


def test_whether_images_are_the_same_is_asked_as_they_are_seen(tmp_path):
    strips = [np.zeros((20, 80), np.uint8) for _ in range(2)]
    strips[1][:, :5] = 255  # outside of the crop
    assert are_the_same(strips)
    assert not are_the_same(strips, View("squash"))
