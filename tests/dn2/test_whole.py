"""A file whose end is lost is noticed, and a valid one that ends in zeros is not refused."""

import io

import numpy as np
import pytest
from PIL import Image

from dn2.images import CorruptImageError, decode_image

RNG = np.random.default_rng(0)


def webp(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", **options)
    return file.getvalue()


def some_webp(n):
    """Make WebP files that end in many zeros, among others: noise above, one colour below."""
    for i in range(n):
        height, width = RNG.integers(30, 200, 2)
        pixels = np.full((height, width, 3), RNG.integers(0, 256, 3), np.uint8)
        pixels[: height // (2 + i % 3)] = RNG.integers(0, 256, 3 if i % 2 else (width, 3))
        yield webp(pixels, lossless=bool(i % 2), quality=int(RNG.integers(101)), method=i % 7)


def check_valid(n):
    zeros = 0
    for content in some_webp(n):
        zeros += content.endswith(bytes(20))
        decode_image(content, "a")
    return zeros


def test_a_valid_webp_may_end_in_zeros():
    assert check_valid(60) > 0


@pytest.mark.slow
def test_no_valid_webp_of_many_is_refused():
    assert check_valid(1500) > 50


@pytest.mark.parametrize("lossless", [False, True])
def test_a_webp_without_its_end_is_refused(lossless):
    smooth = np.mgrid[:150, :200][0][..., None] + RNG.normal(0, 10, (150, 200, 3))
    content = webp(smooth.clip(0, 255).astype(np.uint8), lossless=lossless)
    for share in (0.05, 0.2, 0.5, 0.8):
        lost = int(len(content) * share)
        with pytest.raises(CorruptImageError):
            decode_image(content[:-lost] + bytes(lost), "a")


def test_the_parts_of_a_webp_must_be_whole_and_named():
    exif = Image.Exif()
    exif[271] = "maker"
    content = webp(RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8), exif=exif)
    at = content.rindex(b"EXIF")
    assert decode_image(content, "a").shape == (40, 40, 3)
    with pytest.raises(CorruptImageError, match="a part of it has no name"):
        decode_image(content[:at] + bytes(len(content) - at), "a")
    with pytest.raises(CorruptImageError):
        decode_image(content[: at + 4], "a")


def test_the_ends_of_avif_are_found_by_its_own_list_of_parts():
    exif = Image.Exif()
    exif[271] = "maker\0" + "\0" * 200  # what is no picture may end in zeros
    file = io.BytesIO()
    pixels = RNG.integers(0, 256, (60, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "AVIF", exif=exif, speed=10)
    content = file.getvalue()
    assert decode_image(content, "a").shape == (60, 60, 3)
    lost = len(content) // 3
    with pytest.raises(CorruptImageError):
        decode_image(content[:-lost] + bytes(lost), "a")
