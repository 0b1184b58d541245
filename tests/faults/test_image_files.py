"""Damaged image files are read or refused in one line that names them, in bounded memory.

PNG has a checksum of every byte: its pixels must be the same. The other formats have none, so that
altered bytes may show as other pixels: there, what is read must be an image within the limit.
"""

import io
import os
import resource

import numpy as np
import pytest
from mutations import Refused, judge, try_damaged
from PIL import Image

from dn2.crops import read_crop
from dn2.images import CorruptImageError, ImageFiles, View, read_image

TRIES = int(os.environ.get("DN2_FAULT_TRIES", "2000"))
FAST_TRIES = 12
VIEW = View(most_pixels=1_000_000)
MOST_MEGABYTES = 400
"""By which the process may grow: a damaged header may claim a million pixels, and no more."""

ROWS, COLUMNS = np.mgrid[:40, :56]
COLOUR = np.stack([ROWS * 6, COLUMNS * 4, (ROWS * COLUMNS) % 256], axis=2).astype(np.uint8)
DEEP = (ROWS * COLUMNS * 20).astype(np.uint16)

FORMATS = {
    "png": (COLOUR, "PNG", {}),
    "png of 16 bits": (DEEP, "PNG", {}),
    "png with transparency": (np.dstack([COLOUR, COLOUR[..., :1]]), "PNG", {}),
    "jpeg": (COLOUR, "JPEG", {}),
    "jpeg, progressive": (COLOUR, "JPEG", {"progressive": True}),
    "gif": (COLOUR[..., 0], "GIF", {}),
    "bmp": (COLOUR, "BMP", {}),
    "ppm": (COLOUR, "PPM", {}),
    "tga": (COLOUR, "TGA", {"compression": "tga_rle"}),
    "tiff": (COLOUR, "TIFF", {}),
    "tiff, lzw": (COLOUR, "TIFF", {"compression": "tiff_lzw"}),
    "tiff, deflate": (COLOUR, "TIFF", {"compression": "tiff_adobe_deflate"}),
    "tiff, jpeg": (COLOUR, "TIFF", {"compression": "jpeg"}),
    "tiff of 16 bits": (DEEP, "TIFF", {}),
    "webp": (COLOUR, "WEBP", {}),
    "webp, lossless": (COLOUR, "WEBP", {"lossless": True}),
    "avif": (COLOUR, "AVIF", {"speed": 10}),
    "jpeg 2000": (COLOUR, "JPEG2000", {}),
}


def write(path, name):
    pixels, form, options = FORMATS[name]
    Image.fromarray(pixels).save(path, form, **options)
    return path


def try_format(name, tries, folder):
    path = write(folder / "a.img", name)
    whole = read_image(path)

    def read():
        ImageFiles([path], view=VIEW).shapes()  # the header alone names the file too
        assert read_crop(path, str(path), VIEW).shape == (224, 224, 3)
        return read_image(path, view=VIEW)

    def is_same(found):
        if name.startswith("png"):
            return np.array_equal(found, whole)
        return found.dtype == np.uint8 and 0 < found[..., :1].size <= VIEW.most_pixels * 3

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tally = try_damaged(
        f"image, {name}", path, read, is_same, (CorruptImageError,), tries=tries, names=str(path)
    )
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    assert grown < MOST_MEGABYTES, f"{grown:.0f} MB"
    return tally


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_some_damaged_images_are_read_or_refused(name, tmp_path):
    try_format(name, FAST_TRIES, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_every_damaged_image_is_read_or_refused(name, tmp_path):
    tally = try_format(name, TRIES, tmp_path)
    assert tally.refused > TRIES / 20


HALVES = {
    name: FORMATS[name]
    for name in ("png", "jpeg", "jpeg, progressive", "gif", "tiff, lzw", "tiff, deflate")
} | {"tiff, jpeg": FORMATS["tiff, jpeg"], "webp": FORMATS["webp"], "avif": FORMATS["avif"]}
"""Formats in which a tail of zeros is noticed; the others hold bare pixels: see `dn2.whole`."""


@pytest.mark.parametrize("name", HALVES)
def test_half_an_image_is_no_image(name, tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 30, (120, 160, 3)) + np.mgrid[:120, :160][0][..., None]
    pixels = noise.clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    _, form, options = HALVES[name]
    Image.fromarray(pixels if form != "GIF" else pixels[..., 0]).save(file, form, **options)
    content = file.getvalue()
    path = tmp_path / "a.img"
    for share in (0.1, 0.3, 0.5, 0.9):
        lost = int(len(content) * share)
        for damaged in (content[:-lost], content[:-lost] + bytes(lost)):
            path.write_bytes(damaged)
            outcome = judge(
                lambda: read_image(path), lambda _: False, (CorruptImageError, Refused), str(path)
            )
            assert outcome == "refused", (share, len(damaged) == len(content))
