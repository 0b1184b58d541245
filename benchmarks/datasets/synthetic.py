"""A small generated data set: four shapes on noise.

It is for a first run without a download, and for tests.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.contracts import Dataset
from benchmarks.datasets.arrays import Arrays

CLASS_NAMES = ("disc", "square", "cross", "stripes")
N_TRAIN, N_TEST, SIZE = 40, 20, 32
NOISE = 120
"""The range of the noise, in grey levels.

It is so wide that no class can be separated from the others without an error.
"""


def load(home: Path, root: Path | None = None) -> Dataset:  # noqa: ARG001
    """Generate the data set; it has no files, so ``home`` and ``root`` are ignored."""
    return generate().as_dataset("synthetic", CLASS_NAMES)


def generate(seed: int = 0) -> Arrays:
    """Draw 40 training and 20 test images of 32 x 32 pixels per class.

    Each image is a shape of random place, size and colours on a noisy background. The arithmetic is
    on integers, from the raw bits of PCG64, which NumPy never changes, so that the digest is the
    same everywhere.
    """
    labels = np.arange((N_TRAIN + N_TEST) * len(CLASS_NAMES)) % len(CLASS_NAMES)
    bits = np.random.PCG64(seed)
    images = np.stack([_draw(int(label), bits) for label in labels])
    cut = N_TRAIN * len(CLASS_NAMES)
    return Arrays.from_partitions(
        images[:cut], labels[:cut].tolist(), images[cut:], labels[cut:].tolist()
    )


def _draw(label: int, bits: np.random.PCG64) -> np.ndarray:
    y, x, radius, period, phase = (
        _between(bits, low, high) for low, high in ((12, 20), (12, 20), (5, 10), (4, 8), (0, 8))
    )
    ground = np.array([_between(bits, 20, 110) for _ in range(3)])
    ink = np.array([_between(bits, 120, 220) for _ in range(3)])
    rows, columns = np.arange(SIZE)[:, None] - y, np.arange(SIZE)[None, :] - x
    mask = (
        rows**2 + columns**2 <= radius**2,
        np.maximum(abs(rows), abs(columns)) <= radius,
        (np.minimum(abs(rows), abs(columns)) <= 1)
        & (np.maximum(abs(rows), abs(columns)) <= radius),
        (rows + columns + phase) // (period // 2) % 2 == 0,
    )[label]
    image = np.where(mask[..., None], ink, ground)
    noise = bits.random_raw(SIZE * SIZE * 3).reshape(SIZE, SIZE, 3) % NOISE
    return np.clip(image + noise.astype(np.int64) - NOISE // 2, 0, 255).astype(np.uint8)


def _between(bits: np.random.PCG64, low: int, high: int) -> int:
    """Draw a whole number in [low, high)."""
    return low + int(bits.random_raw() % (high - low))
