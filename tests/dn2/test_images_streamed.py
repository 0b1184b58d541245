"""Image files give the features of their arrays, in bounded memory; errors name the file."""

import threading

import numpy as np
import pytest
from brightness import brightness_extractor
from miniature_files import picture, save

from dn2.features import encode, encode_batches
from dn2.images import CorruptImageError, ImageFiles

SHAPES = [(300, 200, 3), (150, 400), (1, 1, 3), (32, 32, 3), (256, 256, 3)]


@pytest.fixture
def files(tmp_path):
    return ImageFiles(
        [save(tmp_path / f"{n}.png", picture(n, SHAPES[n % len(SHAPES)])) for n in range(40)]
    )


def test_files_of_mixed_sizes_have_the_features_of_their_arrays(files):
    extractor = brightness_extractor(engine="torch")
    features = encode(files, extractor)
    assert features.shape == (40, 6)
    assert np.array_equal(features, encode(list(files), extractor))
    assert np.array_equal(features[31:34], encode(files, extractor, slice(31, 34)))
    assert np.array_equal(features[::-1], encode(files.take(np.arange(40)[::-1]), extractor))


def test_a_corrupt_file_stops_the_encoding_with_its_name(files):
    files.paths[35].write_bytes(files.paths[35].read_bytes()[:-30])
    batches = encode_batches(files, brightness_extractor(engine="torch"))
    assert len(next(batches)) == 32
    with pytest.raises(CorruptImageError, match=r"/35\.png is not a whole image"):
        list(batches)


def test_only_as_many_whole_images_are_held_as_there_are_threads(files, monkeypatch):
    alive, most, lock = [], [0], threading.RLock()
    read = ImageFiles.reduced

    def counted(self, row, reduce):
        def held(image):
            with lock:
                alive.append(row)
                most[0] = max(most[0], len(alive))
            try:
                return reduce(image)
            finally:
                alive.remove(row)

        return read(self, row, held)

    monkeypatch.setattr(ImageFiles, "reduced", counted)
    encode(files, brightness_extractor(engine="torch", threads=2))
    assert 1 <= most[0] <= 2, "two threads, each with one image"


def test_a_batch_is_decoded_while_the_network_has_the_one_before(files, monkeypatch):
    read, rows = ImageFiles.reduced, []
    monkeypatch.setattr(
        ImageFiles, "reduced", lambda self, row, how: (rows.append(row), read(self, row, how))[1]
    )
    ahead = threading.Event()
    extractor = brightness_extractor(engine="torch")
    engine = extractor.engine_for((224, 224, 3))

    def network(batches):
        for number, batch in enumerate(batches):
            if number == 0:
                for _ in range(2000):
                    if any(row >= 32 for row in rows):
                        ahead.set()
                        break
                    threading.Event().wait(0.005)
            yield from engine([batch])

    extractor._engines[224, 224, 3] = network
    assert len(encode(files, extractor)) == 40
    assert ahead.is_set()
