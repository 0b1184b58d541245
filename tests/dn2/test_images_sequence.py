"""The lazy sequence of image files: rows, slices, boxes, threads, memory."""

import pickle
import sys
import threading
import tracemalloc

import numpy as np
import pytest
from miniature_files import picture, save
from PIL import Image

from dn2.images import CorruptImageError, ImageFiles, read_image


@pytest.fixture
def files(tmp_path):
    return ImageFiles([save(tmp_path / f"{n}.png", picture(n, (4 + n, 9, 3))) for n in range(7)])


def test_images_are_taken_by_number_and_by_slice(files):
    assert len(files) == 7
    for row in range(7):
        assert np.array_equal(files[row], picture(row, (4 + row, 9, 3)))
    assert np.array_equal(files[-1], files[6])
    assert np.array_equal(files[np.int64(2)], files[2])
    assert [image.shape[0] for image in files[2:5]] == [6, 7, 8]
    assert [image.shape[0] for image in files[::-3]] == [10, 7, 4]
    assert files[5:5] == []
    assert len(list(files)) == 7
    for row in (7, -8):
        with pytest.raises(IndexError):
            files[row]


def test_it_is_sent_as_paths(files):
    sent = pickle.dumps(files)
    assert len(sent) < 7 * 500
    assert np.array_equal(pickle.loads(sent)[3], files[3])


def test_rows_are_taken_with_their_boxes(files):
    boxes = np.array([[0, 0, row + 1, 2] for row in range(7)])
    taken = ImageFiles(files.paths, boxes, 5).take(np.array([6, 2]))
    assert len(taken) == 2
    assert taken.boxes.tolist() == [[0, 0, 7, 2], [0, 0, 3, 2]]
    assert taken.size == 5
    assert np.array_equal(files.take(np.array([6, 2]))[1], files[2])


def test_boxes_are_cropped_then_resized(tmp_path):
    path = save(tmp_path / "a.png", picture(3, (40, 50, 3)))
    boxes = np.array([[5, 10, 25, 40], [-3, -4, 10, 12], [40, 30, 90, 70]])
    plain = ImageFiles([path] * 3, boxes)
    whole = read_image(path)
    for found, expected in zip(
        plain[:], (whole[10:40, 5:25], whole[:12, :10], whole[30:, 40:]), strict=True
    ):
        assert np.array_equal(found, expected)
    resized = ImageFiles([path] * 3, boxes, 16)[0]
    expected = Image.fromarray(whole[10:40, 5:25]).resize((16, 16), Image.Resampling.BILINEAR)
    assert np.array_equal(resized, np.asarray(expected))


def test_boxes_that_cannot_be_are_refused(tmp_path):
    path = save(tmp_path / "a.png", picture(3, (40, 50, 3)))
    for box in ([50, 0, 60, 10], [0, 40, 10, 50], [5, 5, 5, 9], [9, 5, 7, 9]):
        with pytest.raises(ValueError, match=r"box \(.*\) of .*a.png .*\(50, 40\)"):
            ImageFiles([path], np.array([box]))[0]
    with pytest.raises(ValueError, match=r"shape \(1, 4\).*\(2, 4\)"):
        ImageFiles([path], np.zeros((2, 4), int))


def test_a_slice_is_decoded_by_several_threads_in_order(files, monkeypatch):
    """Each of two decodings waits until the other has begun: a single thread would wait in vain."""
    from dn2 import images

    both, decode = threading.Barrier(2, timeout=20), images._decode
    monkeypatch.setattr(images, "_decode", lambda *all_: (both.wait(), decode(*all_))[1])
    assert [image.shape[0] for image in files[:6]] == [4, 5, 6, 7, 8, 9]


def test_the_first_broken_file_of_a_slice_is_named(files):
    for row in (3, 5):
        files.paths[row].write_bytes(b"broken")
    with pytest.raises(CorruptImageError, match=r"/3\.png"):
        files[:]


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    path = save(tmp_path / "a.png", np.zeros((300, 400, 3), np.uint8))
    peaks = []
    for n in (10, 200):
        tracemalloc.start()
        for image in ImageFiles([path] * n):
            assert image.nbytes == 360_000
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.5 + 200_000


def test_reading_images_imports_no_network_library():
    import subprocess

    heavy = "{'torch', 'torchvision', 'scipy', 'openvino'}"
    code = f"import sys, dn2.images; print(*{heavy} & set(sys.modules), 'none')"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "none"
