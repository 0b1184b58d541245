"""The range of 16-bit grey is learnt from images, whatever the number of bits that are used."""

import io

import numpy as np
import pytest
from PIL import Image

from dn2.images import ALL_LEVELS, View, decode_image, read_levels
from dn2.levels import learn_levels, range_of

RNG = np.random.default_rng(0)


def content(pixels, form="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def deep(bits, form="PNG", share=0.1):
    """Make an image whose levels lie within a tenth of a range of so many bits."""
    top = 2**bits - 1
    return content(
        RNG.integers(int(0.3 * top), int((0.3 + share) * top), (40, 50)).astype(np.uint16), form
    )


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_an_image_of_few_bits_has_the_contrast_of_one_of_eight(bits, form):
    images = [deep(bits, form) for _ in range(4)]
    found = learn_levels([*images, content(np.zeros((5, 5), np.uint8)), np.zeros((3, 3))])
    assert (found.n_images, found.complete) == (4, True)
    seen = decode_image(images[0], "a", view=View(levels=found.levels)).astype(int)
    assert seen.max() - seen.min() > (100 if bits > 10 else 80)  # of 10 bits, 102 levels are used
    assert seen.min() > 50, "what is darker than normal keeps its contrast"
    assert seen.max() < 205
    plain = decode_image(images[0], "a").astype(int)
    assert plain.max() - plain.min() < 30


def test_where_all_levels_are_used_nothing_is_learnt():
    pixels = RNG.integers(0, 65536, (200, 200)).astype(np.uint16)
    assert learn_levels([content(pixels)]).levels == ALL_LEVELS
    assert learn_levels([content(pixels.astype(np.uint8))]).levels == ALL_LEVELS
    assert learn_levels([]).levels == ALL_LEVELS


def test_an_even_image_does_not_become_noise():
    counts = np.zeros(65536, int)
    for level in (0, 30000, 65535):
        counts[:] = 0
        counts[level] = 1000
        black, white = range_of(counts)
        assert white - black in (255, 256)
        assert black <= level <= white


def test_rare_levels_do_not_make_the_range():
    counts = np.zeros(65536, int)
    counts[1000:1400] = 1000
    counts[65535] = 100  # dead pixels
    assert range_of(counts)[1] < 1700


def test_levels_are_scaled_half_up():
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    black, white = 1000, 5000
    expected = np.floor((np.clip(levels.astype(float), black, white) - black) / 4000 * 255 + 0.5)
    found = decode_image(content(levels), "a", view=View(levels=(black, white)))
    np.testing.assert_array_equal(found, expected)


def test_what_cannot_be_read_makes_the_answer_incomplete(tmp_path):
    whole = deep(12)
    for bad in (whole[:-20], tmp_path / "none.png"):
        assert learn_levels([whole, bad])[1:] == (1, False)
    assert learn_levels([whole], view=View(most_pixels=10)).complete is False
    assert read_levels(content(np.zeros((4, 4, 3), np.uint8))) is None
