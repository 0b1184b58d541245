"""Flips, shifts and rotations of image batches, made on the fly.

Every one of them says for each pixel of the new image which pixel of the old one it is. So a transformation is a row of source
positions, a composition is a composition of rows, and a batch of differently transformed images is one gather, whose memory
does not grow with the number of transformations.
"""

from __future__ import annotations

from itertools import product

import torch


def reflected_positions(side: int, shift: int) -> torch.Tensor:
    """Positions that a row of ``side`` pixels is read from when it moves by ``shift``, reflected at the ends; shape (side,).

    The edge pixel is repeated (``b a | a b c``), as by Keras' fill mode "reflect", which GEOM uses, and NumPy's "symmetric".
    """
    position = torch.arange(side) - shift
    position = torch.where(position < 0, -1 - position, position)
    return torch.where(position >= side, 2 * side - 1 - position, position)


def source_positions(side: int, *, flip: bool = False, right: int = 0, down: int = 0, quarter_turns: int = 0) -> torch.Tensor:
    """Flip left-right, shift, then rotate counter-clockwise: the source of each pixel, shape (side * side,), int64.

    Parameters
    ----------
    side : int
        Pixels; images are square.
    right, down : int
        Pixels to move by, less than ``side`` either way.
    quarter_turns : int
        Rotations by 90 degrees.
    """
    source = torch.arange(side * side).reshape(side, side)
    if flip:
        source = source.flip(1)
    source = source[reflected_positions(side, down)][:, reflected_positions(side, right)]
    return torch.rot90(source, quarter_turns).reshape(-1)


def geometric_transformations(side: int) -> torch.Tensor:
    """GEOM's 72 (1805.10917, section 4.1), shape (72, side * side): flip, shift_x, shift_y, rotation, the last fastest.

    Shifts are by a quarter of the side: 8 px at 32 px, as in the paper.
    """
    shifts = (0, -(side // 4), side // 4)
    return torch.stack(
        [
            source_positions(side, flip=flip, right=right, down=down, quarter_turns=turns)
            for flip, right, down, turns in product((False, True), shifts, shifts, range(4))
        ]
    )


def identity(side: int) -> torch.Tensor:
    """Return the one transformation that changes nothing, shape (1, side * side)."""
    return source_positions(side)[None]


def rotations(side: int) -> torch.Tensor:
    """Return the four rotations by 0, 90, 180 and 270 degrees, shape (4, side * side)."""
    return torch.stack([source_positions(side, quarter_turns=turns) for turns in range(4)])


class Views:
    """Images under transformations, as numbers: view ``v`` is transformation ``v % t`` of image ``v // t``.

    Parameters
    ----------
    images : tensor of shape (n, side, side, c), uint8
        On the device that makes the views.
    sources : tensor of shape (t, side * side), int64
        The transformations.
    """

    def __init__(self, images: torch.Tensor, sources: torch.Tensor) -> None:
        self.images = images
        self.sources = sources.to(images.device)
        self._pixels = images.reshape(-1, images.shape[3])

    def __len__(self) -> int:
        return len(self.images) * len(self.sources)

    def labels(self, numbers: torch.Tensor) -> torch.Tensor:
        """Which transformation each view shows, shape (b,)."""
        return numbers % len(self.sources)

    def make(self, numbers: torch.Tensor) -> torch.Tensor:
        """Make views, shape (b, c, side, side), float32 in [-1, 1], channels last in memory."""
        image = numbers.div(len(self.sources), rounding_mode="floor")
        rows = self.sources[self.labels(numbers)] + image[:, None] * self.sources.shape[1]
        pixels = self._pixels.index_select(0, rows.reshape(-1)).reshape(len(numbers), *self.images.shape[1:])
        return scale_pixels(pixels)


def scale_pixels(images: torch.Tensor) -> torch.Tensor:
    """Scale images (b, h, w, c) of 0 to 255 to [-1, 1], as (b, c, h, w) float32, channels last in memory."""
    return images.permute(0, 3, 1, 2).to(torch.float32).mul_(1 / 127.5).sub_(1)
