"""A small feature store, its content, and an encoder that counts the requests."""

import numpy as np

from dn2.store import SHARD_ROWS, FeatureStore

N, WIDTH = 3 * SHARD_ROWS + 100, 8
IDENTITY = {"dataset": "toy", "encoder": "timm:some/net", "data": "f00", "weights": "abc"}


def features(rows):
    return (
        np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + np.arange(WIDTH) / 10
    ).astype(np.float32)


EXPECTED = features(slice(0, N))


class Encode:
    """An encoder that yields features in batches and records what it was asked for."""

    def __init__(self, fail_at=None):
        self.fail_at = fail_at
        self.asked = []

    def __call__(self, rows):
        self.asked.append(rows.start // SHARD_ROWS)
        for start in range(rows.start, rows.stop, 100):
            if self.fail_at is not None and start >= self.fail_at:
                raise FileNotFoundError("an image is gone")
            yield features(slice(start, min(start + 100, rows.stop)))


def store(home, **changes):
    return FeatureStore(home, IDENTITY | changes, N, WIDTH)


def fill(home):
    """Fill the store through a new store object; return the shards that were computed."""
    encode, again = Encode(), store(home)
    again.fill(encode)
    np.testing.assert_array_equal(again.open()[:], EXPECTED)
    return encode.asked
