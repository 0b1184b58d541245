"""Image files of all kinds become 8-bit grey or RGB, upright; an error names a broken file."""

import errno
import io
import os
import pickle
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from miniature_files import picture, save
from PIL import Image, PngImagePlugin

from dn2 import images
from dn2.crops import read_crops
from dn2.files import NoFileError, open_regular
from dn2.images import (
    CorruptImageError,
    ImageFiles,
    ImageMemoryError,
    LargeImageError,
    View,
    read_image,
)

GREY = np.arange(0, 252, dtype=np.uint8).reshape(14, 18)
COLOUR = picture(1, (14, 18, 3))


def smooth(height=60, width=80):
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 3, columns * 3, rows + columns], axis=-1).astype(np.uint8)


# What comes out


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm"])
def test_rgb_and_grey_keep_their_pixels_and_channels(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    for pixels in (COLOUR, GREY):
        save(path, pixels)
        assert np.array_equal(read_image(path), pixels)
        assert read_image(path).dtype == np.uint8


def test_jpeg_is_decoded_as_pillow_does(tmp_path):
    for pixels in (smooth(), smooth()[..., 0]):
        path = save(tmp_path / "a.jpg", pixels)
        with Image.open(path) as expected:
            assert np.array_equal(read_image(path), np.asarray(expected))


def test_bits_become_black_and_white(tmp_path):
    bits = GREY > 100
    Image.fromarray(bits).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), bits * np.uint8(255))


def test_a_palette_becomes_its_colours(tmp_path):
    image = Image.fromarray(GREY // 64, mode="P")
    palette = [10, 20, 30, 40, 50, 60, 70, 80, 90, 255, 0, 128]
    image.putpalette(palette)
    image.save(tmp_path / "a.png")
    assert np.array_equal(
        read_image(tmp_path / "a.png"), np.array(palette, np.uint8).reshape(4, 3)[GREY // 64]
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(mode, tmp_path):
    alpha = np.where(GREY < 80, 0, np.where(GREY < 160, 128, 255)).astype(np.uint8)
    pixels = COLOUR if mode == "RGBA" else GREY[..., None]
    layers = np.concatenate([pixels, alpha[..., None]], axis=-1)
    Image.fromarray(layers, mode=mode).save(tmp_path / "a.png")
    share = alpha[..., None] / 255
    expected = (share * pixels + (1 - share) * 255).reshape(
        *pixels.shape[: 3 if mode == "RGBA" else 2]
    )
    found = read_image(tmp_path / "a.png")
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1
    assert np.array_equal(found[alpha == 255], expected[alpha == 255])
    assert (found[alpha == 0] == 255).all()


def test_a_transparent_colour_of_a_palette_or_of_rgb_is_white(tmp_path):
    palette = Image.fromarray(GREY // 64, mode="P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 255, 0, 128])
    palette.save(tmp_path / "p.png", transparency=1)
    assert (read_image(tmp_path / "p.png")[GREY // 64 == 1] == 255).all()
    assert (read_image(tmp_path / "p.png")[GREY // 64 == 2] == (70, 80, 90)).all()
    flat = np.zeros((3, 4, 3), np.uint8)
    flat[1] = 7
    Image.fromarray(flat).save(tmp_path / "c.png", transparency=(7, 7, 7))
    assert np.array_equal(read_image(tmp_path / "c.png")[:, 0, 0], [0, 255, 0])


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_grey_of_16_bits_is_scaled_by_257(suffix, tmp_path):
    values = np.array(
        [[0, 1, 128, 129], [255, 256, 257, 4095], [32767, 32768, 65406, 65535]], np.uint16
    )
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    found = read_image(tmp_path / f"a.{suffix}")
    assert found.dtype == np.uint8
    assert np.array_equal(found, np.floor(values / 257 + 0.5))
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / f"b.{suffix}")
    assert np.array_equal(read_image(tmp_path / f"b.{suffix}"), GREY)


def test_big_endian_16_bits_are_read_the_same(tmp_path):
    values = np.array([[0, 257, 4095, 65535]], np.uint16)
    header = b"MM\0*" + struct.pack(">I", 8)
    tags = [
        (256, 4),
        (257, 1),
        (258, 16),
        (259, 1),
        (262, 1),
        (273, 200),
        (277, 1),
        (278, 1),
        (279, 8),
    ]
    entries = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags)
    content = header + struct.pack(">H", len(tags)) + entries + bytes(4)
    (tmp_path / "a.tif").write_bytes(content.ljust(200, b"\0") + values.astype(">u2").tobytes())
    assert read_image(tmp_path / "a.tif").tolist() == [[0, 1, 16, 255]]


def test_levels_without_a_known_white_are_refused(tmp_path):
    Image.fromarray(np.ones((3, 3), np.float32)).save(tmp_path / "f.tif")
    Image.fromarray(np.full((3, 3), 70_000, np.int32)).save(tmp_path / "i.tif")
    with pytest.raises(CorruptImageError, match=r"f.tif .*floating-point.*convert"):
        read_image(tmp_path / "f.tif")
    with pytest.raises(CorruptImageError, match=r"i.tif .*70000.*convert"):
        read_image(tmp_path / "i.tif")


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (4, 3), (0, 255, 255, 0)).save(tmp_path / "a.tif")
    found = read_image(tmp_path / "a.tif")
    assert found.shape == (3, 4, 3)
    assert found[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(orientation, suffix, tmp_path):
    upright = np.zeros((32, 48), np.uint8)
    upright[:16, :16], upright[:16, 32:] = 250, 120  # the corners tell all eight apart
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],
        7: upright.T[::-1, ::-1],
        8: upright.T[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a.{suffix}", np.ascontiguousarray(stored), exif=exif)
    found = read_image(path)
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).max() < 12


def test_nonsense_in_exif_is_no_reason_to_refuse_an_image(tmp_path):
    path = save(tmp_path / "a.jpg", smooth(), exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert read_image(path).shape == (60, 80, 3)
    exif = Image.Exif()
    exif[0x0112] = 77
    assert read_image(save(tmp_path / "b.jpg", smooth(), exif=exif)).shape == (60, 80, 3)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_of_an_animation_the_first_frame_is_read(suffix, tmp_path):
    frames = [Image.new("RGB", (6, 5), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
    assert (read_image(tmp_path / f"a.{suffix}") == (255, 0, 0)).all()


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "tif", "webp"])
def test_one_pixel_is_an_image(suffix, tmp_path):
    path = save(tmp_path / f"a.{suffix}", np.full((1, 1, 3), 200, np.uint8))
    assert read_image(path).shape == (1, 1, 3)
    assert np.abs(read_image(path).astype(int) - 200).max() <= 2


def test_names_in_any_script_are_read_and_reported(tmp_path):
    path = save(tmp_path / "Ünïcode 猫.png", COLOUR)
    assert np.array_equal(read_image(path), COLOUR)
    path.write_bytes(b"no")
    with pytest.raises(CorruptImageError, match="猫"):
        read_image(path)


# What is refused


def encoded(suffix):
    buffer = io.BytesIO()
    image = Image.fromarray(smooth(120, 160))
    image.save(
        buffer,
        {"jpg": "JPEG", "progressive": "JPEG"}.get(suffix, suffix),
        progressive=suffix == "progressive",
    )
    return buffer.getvalue()


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.97])
@pytest.mark.parametrize(
    "suffix", ["jpg", "progressive", "png", "bmp", "gif", "tiff", "webp", "ppm"]
)
def test_a_truncated_file_is_never_half_an_image(suffix, kept, tmp_path):
    content = encoded(suffix)
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(content)
    assert read_image(path).shape == (120, 160, 3)
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(
        CorruptImageError, match=rf"{path} is not a whole image \(.+\): .*--skip-corrupt"
    ) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    assert caught.value.path == path


@pytest.mark.parametrize("zeros", [3, 8, 10, 12, 100, 1000])
@pytest.mark.parametrize("suffix", ["jpg", "progressive"])
def test_a_jpeg_whose_tail_was_never_written_is_found(suffix, zeros, tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(suffix)[:-zeros] + bytes(zeros))
    with pytest.raises(CorruptImageError, match="truncated"):
        read_image(tmp_path / "a.jpg")


def test_bytes_after_the_end_of_a_jpeg_do_no_harm(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded("jpg") + b"camera notes")
    assert read_image(tmp_path / "a.jpg").shape == (120, 160, 3)


def test_any_changed_byte_of_a_png_is_found(tmp_path):
    content, path = encoded("png"), tmp_path / "a.png"
    for position in range(8, len(content) - 12, len(content) // 60):
        altered = bytearray(content)
        altered[position] ^= 0x10
        path.write_bytes(altered)
        with pytest.raises(CorruptImageError):
            read_image(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"<html>not found</html>", "no known image format"),
        (b"\0" * 5000, "no known image format"),
    ],
)
def test_what_is_no_image_is_said(content, reason, tmp_path):
    (tmp_path / "text.jpg").write_bytes(content)
    with pytest.raises(CorruptImageError, match=rf"text.jpg is not a whole image \(.*{reason}"):
        read_image(tmp_path / "text.jpg")


def test_an_image_above_the_limit_is_refused_and_the_limit_can_be_raised(tmp_path, monkeypatch):
    path = save(tmp_path / "bomb.png", np.zeros((100, 100), np.uint8))
    assert read_image(path).shape == (100, 100)
    said = r"bomb.png is too large \(it has 100 x 100 pixels, more than the 9,999 that are allowed"
    for read in (read_image, images._header):
        with pytest.raises(LargeImageError, match=said + ": raise --max-pixels"):
            read(path, view=View(most_pixels=9_999))
    # Pillow's own limit, which lies above ours
    monkeypatch.setattr(images, "MOST_PIXELS", 4_999)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4_999)
    with pytest.raises(LargeImageError, match=r"it has 10,000 pixels, more than the 4,999"):
        read_image(path, view=View(most_pixels=4_999))
    assert read_image(path, view=View(most_pixels=10_000)).shape == (100, 100)


def test_a_file_that_cannot_be_read_is_not_called_corrupt(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    for name, kind in (("folder.jpg", NoFileError), ("nowhere.jpg", FileNotFoundError)):
        with pytest.raises(kind, match=name):
            read_image(tmp_path / name)


def test_the_error_can_be_sent_from_another_process(tmp_path):
    error = pickle.loads(pickle.dumps(CorruptImageError(tmp_path / "a.jpg", "why")))
    assert (error.path, error.reason) == (tmp_path / "a.jpg", "why")


# Short of memory, which says nothing about a file


def raising(error):
    def load(*_):
        raise error

    return load


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError("out of memory error when reading image file"),
        zlib.error("Error -4 while decompressing data: out of memory"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        OSError(errno.EMFILE, "Too many open files"),
        RuntimeError("std::bad_alloc"),
        ValueError("Failed to decode frame 0: Out of memory"),
    ],
)
def test_to_be_short_of_memory_is_not_to_be_corrupt(error, tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", COLOUR)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", raising(error))
    with pytest.raises(ImageMemoryError, match=r"^/.*a\.png could not be read .*whole; do less"):
        read_image(path)
    with pytest.raises(ImageMemoryError):
        list(read_crops([path], 1))


def test_files_that_cannot_be_opened_for_now_are_not_left_out(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", COLOUR)
    monkeypatch.setattr(images, "open_regular", raising(OSError(errno.EMFILE, "Too many files")))
    with pytest.raises(ImageMemoryError, match="Too many files"):
        list(read_crops([path], 1))


def test_a_decoder_that_does_not_say_why_is_believed_only_if_there_is_memory(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", COLOUR)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", raising(OSError("decoding error")))
    with pytest.raises(CorruptImageError, match="decoding error"):
        read_image(path)
    monkeypatch.setattr(images.np, "empty", raising(MemoryError()))
    with pytest.raises(ImageMemoryError, match="bytes of memory"):
        read_image(path)


@pytest.mark.parametrize("reader", [read_image, images._header])
def test_every_refusal_names_the_file_whatever_its_name(reader, tmp_path):
    broken = save(tmp_path / "whole.png", COLOUR).read_bytes()
    for content in (b"", b"nonsense", broken[:40], broken[:20] + b"\xff\xff" + broken[22:]):
        path = tmp_path / os.fsdecode(b"caf\xe9\n.png")
        path.write_bytes(content)
        if reader is images._header and content == broken[:40]:
            continue  # its header is whole
        with pytest.raises(CorruptImageError) as caught:
            reader(path)
        said = str(caught.value)
        assert r"caf\xe9\n.png is not a whole image" in said
        said.encode()  # for MLflow, JSON and any terminal


def test_headers_are_read_without_decoding(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", COLOUR)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", raising(AssertionError("decoded")))
    assert ImageFiles([path]).shapes() == [(14, 18, 3)]


@pytest.mark.parametrize("kind", ["fifo", "device", "link to a device", "socket"])
def test_what_is_no_regular_file_is_not_opened(kind, tmp_path):
    path = tmp_path / "a.png"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "socket":
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(os.path.relpath(path))
    else:
        path.symlink_to("/dev/zero")
    for read in (read_image, images._header, open_regular):
        with pytest.raises(NoFileError, match=f"{path.name} cannot be read: it is a"):
            read(path)
    copy = pickle.loads(pickle.dumps(NoFileError(path, "it is a FIFO")))
    assert (copy.reason, copy.path) == ("it is a FIFO, not a file", path)


@pytest.mark.parametrize("format_name", ["EPS", "ICO", "PCX"])
def test_a_format_that_is_not_in_the_table_is_not_opened_whatever_its_name(tmp_path, format_name):
    path = tmp_path / "a.png"
    Image.new("RGB", (32, 32), "red").save(path, format_name)
    for read in (read_image, images._header):
        with pytest.raises(CorruptImageError, match="it is in no known image format"):
            read(path)


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_a_stack_is_refused_whatever_it_is_called(tmp_path, name):
    pages = [Image.new("L", (9, 9), level) for level in (1, 2, 3)]
    pages[0].save(tmp_path / name, "TIFF", save_all=True, append_images=pages[1:])
    content = (tmp_path / name).read_bytes()
    for read in (read_image, images._header, lambda path: images.decode_image(content, str(path))):
        with pytest.raises(CorruptImageError, match="it holds 3 pages, and an image is one"):
            read(tmp_path / name)
    pages[0].save(tmp_path / name, "TIFF")
    assert (read_image(tmp_path / name) == 1).all()
