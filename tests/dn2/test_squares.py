"""Squares are Pillow's, whatever the shape, and a strip is cut before it is blown up."""

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from dn2 import squares
from dn2.squares import (
    CROP,
    PADDING,
    crop_offset,
    describe_unseen,
    resize_whole,
    resize_with_pil,
    resized_size,
    unseen,
)

RNG = np.random.default_rng(0)


def by_pillow(pixels):
    """Resize all of an image, then crop: what networks were trained with."""
    height, width = resized_size(*pixels.shape[:2])
    top, left = crop_offset(height), crop_offset(width)
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    found = np.asarray(resized.crop((left, top, left + CROP, top + CROP)))
    return found if found.ndim == 3 else np.repeat(found[..., None], 3, axis=2)


def some_shapes(n):
    for i in range(n):
        short = int(RNG.integers(1, 50))
        long = int(short * RNG.uniform(1, 100 if short < 10 else 30))
        yield (short, long) if i % 2 else (long, short)


def check(shapes):
    for i, shape in enumerate(shapes):
        pixels = RNG.integers(0, 256, (*shape, 3) if i % 3 else shape, dtype=np.uint8)
        np.testing.assert_array_equal(resize_with_pil(pixels), by_pillow(pixels), str(shape))


def test_strips_that_are_cut_first_are_the_same_to_the_last_bit():
    check([(4, 800), (900, 3), (1, 17), (2, 1000), (17, 900), (40, 700)])


@pytest.mark.slow
def test_every_shape_may_be_cut_first(monkeypatch):
    monkeypatch.setattr(squares, "ELONGATED", 0)
    check(some_shapes(600))


def test_a_long_strip_takes_no_more_memory_than_itself():
    strip = RNG.integers(0, 256, (4, 200_000, 3), dtype=np.uint8)  # 2.4 MB; it became 9.8 GB
    tracemalloc.start()
    assert resize_with_pil(strip).shape == resize_with_pil(strip.transpose(1, 0, 2)).shape
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 20e6


def test_padding_shows_all_and_squashing_too():
    image = Image.fromarray(np.full((50, 100, 3), 200, np.uint8))
    padded = resize_with_pil(np.asarray(image), "pad")
    assert padded.shape == (224, 224, 3)
    assert (padded[:56] == PADDING).all()
    assert (padded[168:] == PADDING).all()
    assert (padded[56:168] == 200).all()
    assert (resize_with_pil(np.asarray(image), "squash") == 200).all()
    left_is_dark = np.full((50, 300), 200, np.uint8)
    left_is_dark[:, :50] = 0
    for how, seen in (("crop", False), ("pad", True), ("squash", True)):
        small = np.asarray(resize_whole(Image.fromarray(left_is_dark), 32, how))
        assert small.shape == (32, 32)
        assert (small == 0).any() == seen


def test_the_narrowest_strip_keeps_a_row_when_it_is_padded():
    assert resize_with_pil(np.full((1, 5000), 9, np.uint8), "pad")[111, 100, 0] == 9


def test_what_is_not_seen_is_said_of_images_that_are_no_squares():
    assert unseen(100, 100, "squash") == 0
    assert unseen(4, 8000, "crop") == pytest.approx(0.9996, abs=1e-4)
    assert describe_unseen("crop", [0.0, 0.0]) == ""
    said = describe_unseen("crop", [0.0, 0.5, 0.6, 0.9])
    assert said.startswith("3 of 4 images are no squares; median 60 %, worst 90 % of the area")
