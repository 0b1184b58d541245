"""An encoder that is quick to load and to convert, for tests of detectors of image files."""

from contextlib import contextmanager
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from dn2 import image_detector, networks
from dn2.encoders import ENCODERS, EncoderEntry


class Grid(torch.nn.Module):
    """The means of a 4 x 4 grid, by channel."""

    def forward(self, x):
        return torch.nn.functional.avg_pool2d(x, 56).flatten(1)


@cache
def convert_once(name, weights):
    """Convert for all tests of this process: it takes seconds."""
    return networks.convert(name, weights)


@contextmanager
def toy_encoders(home):
    """Know the encoders ``toy`` and ``toy2`` while this lasts; their weights are in ``home``."""
    (home / "weights").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("toy", "toy2"):
            (home / "weights" / f"{name}.pth").write_text(name)
            entry = EncoderEntry(
                name=name,
                library="",
                architecture="",
                filename=f"{name}.pth",
                sha256="",
                source=f"url:https://example.org/{name}.pth",
                size_bytes=0,
                width=48,
                mean=(0.4, 0.5, 0.6),
                std=(0.2, 0.25, 0.3) if name == "toy" else (1.0, 1.0, 1.0),
                licence="",
            )
            patch.setitem(ENCODERS, name, entry)
        patch.setattr(networks, "load_encoder", lambda name, path: Grid())
        patch.setattr(image_detector, "convert", convert_once)
        patch.setenv("DN2_HOME", str(home))
        patch.setenv("TORCH_HOME", str(home / "torch"))
        yield


def draw_picture(seed, odd=False):
    """Make a picture (40, 50, 3) of soft noise; an odd one has a bright corner."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(60, 120, (40, 50, 3)).astype(np.uint8)
    picture[:20] += rng.integers(0, 30, dtype=np.uint8)
    if odd:
        picture[:12, :20] = 255
    return picture


def write_pictures(folder, n, first=0, odd=False, suffix="png"):
    """Write n pictures, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03d}.{suffix}" for number in range(first, first + n)]
    for number, path in enumerate(paths, first):
        Image.fromarray(draw_picture(number, odd)).save(path)
    return [str(path) for path in paths]
