"""Flips, shifts and rotations of image batches, made on the fly.

Each pixel of a transformed image is a copy of one pixel of the original. So a transformation is a
row of source positions, a composition of transformations is a composition of rows, and a batch of
differently transformed images is a single gather. Its memory does not grow with the number of
transformations.

In reading order: the source positions of one transformation, the sets of transformations that the
papers use, the views of images under a set (`Views`), and MHRot's random crops (`rotated_crops`).
"""

from __future__ import annotations

import math
from itertools import product

import torch


def reflected_positions(side: int, shift: int, repeat_edge: bool = True) -> torch.Tensor:
    """Return the positions that a row of pixels is read from when it moves by ``shift``.

    The row is reflected at its ends.

    Parameters
    ----------
    side : int
        The length of the row.
    shift : int
        Pixels, less than the side either way.
    repeat_edge : bool
        Whether the edge pixel is repeated (``b a | a b c``), as in Keras' fill mode "reflect",
        which GEOM uses, and in NumPy's "symmetric". If not, it is ``c b | a b c``, as in OpenCV's
        BORDER_REFLECT_101, which MHRot uses at high resolution.

    Returns
    -------
    tensor of shape (side,), int64
    """
    repeated = int(repeat_edge)
    position = torch.arange(side) - shift
    position = torch.where(position < 0, -repeated - position, position)
    return torch.where(position >= side, 2 * side - 2 + repeated - position, position)


def source_positions(
    side: int,
    *,
    crop: int = 0,
    flip: bool = False,
    right: int = 0,
    down: int = 0,
    quarter_turns: int = 0,
    repeat_edge: bool = True,
) -> torch.Tensor:
    """Return the source of each pixel of a transformed image.

    The image is cropped, flipped left-right, shifted, and then rotated counter-clockwise.

    Parameters
    ----------
    side : int
        Pixels; images are square.
    crop : int
        The side of the central crop, in pixels; 0 keeps the whole image.
    flip : bool
        Whether to flip.
    right, down : int
        Pixels to move by, less than the new side either way.
    quarter_turns : int
        The number of rotations by 90 degrees.
    repeat_edge : bool
        See `reflected_positions`.

    Returns
    -------
    tensor of shape (new side * new side,), int64
    """
    source = torch.arange(side * side).reshape(side, side)
    if crop:
        start = (side - crop) // 2
        source = source[start : start + crop, start : start + crop]
    if flip:
        source = source.flip(1)
    source = source[reflected_positions(len(source), down, repeat_edge)][
        :, reflected_positions(len(source), right, repeat_edge)
    ]
    return torch.rot90(source, quarter_turns).reshape(-1)


def geometric_transformations(side: int) -> torch.Tensor:
    """Return GEOM's 72 transformations (1805.10917, section 4.1), shape (72, side * side).

    They are ordered by flip, horizontal shift, vertical shift and rotation; the last changes
    fastest. Shifts are by a quarter of the side: 8 px at 32 px, as in the paper. The authors' code
    has the same 72 in another order, because its horizontal shifts have the other sign.
    """
    shifts = shifts_of(side)
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


def turns_and_shifts(side: int, crop: int = 0) -> torch.Tensor:
    """Return MHRot's 36 transformations, shape (36, new side * new side).

    They are ordered by rotation, vertical shift and horizontal shift; the last changes fastest.
    They apply to the central ``crop`` x ``crop`` pixels, or to the whole image if that is 0. Shifts
    are by a quarter of the new side: 8 px at 32 px, 56 px at 224 px. A crop is reflected as
    released, without its edge pixel.
    """
    new_side = crop or side
    shifts = shifts_of(new_side)
    return torch.stack(
        [
            source_positions(
                side,
                crop=crop,
                right=right,
                down=down,
                quarter_turns=turns,
                repeat_edge=not crop,
            )
            for turns, down, right in product(range(4), shifts, shifts)
        ]
    )


def shifts_of(side: int) -> tuple[int, int, int]:
    """Return the shifts along an axis, in pixels: none, and a quarter of the side either way."""
    return 0, -(side // 4), side // 4


class Views:
    """Images under transformations, as numbered views.

    View ``v`` is image ``v // t`` under transformation ``v % t``.

    Parameters
    ----------
    images : tensor of shape (n, side, side, c), uint8
        On the device that makes the views.
    sources : tensor of shape (t, new side * new side), int64
        The transformations.
    """

    def __init__(self, images: torch.Tensor, sources: torch.Tensor) -> None:
        self.images = images
        self.sources = sources.to(images.device)
        self._pixels = images.reshape(-1, images.shape[3])
        self._side = math.isqrt(sources.shape[1])

    def __len__(self) -> int:
        return len(self.images) * len(self.sources)

    def labels(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the transformation of each view, shape (b,)."""
        return numbers % len(self.sources)

    def make(self, numbers: torch.Tensor) -> torch.Tensor:
        """Make views (b, c, new side, new side), float32 in [-1, 1], channels last in memory."""
        image = numbers.div(len(self.sources), rounding_mode="floor")
        rows = self.sources[self.labels(numbers)] + image[:, None] * (
            self.images.shape[1] * self.images.shape[2]
        )
        pixels = self._pixels.index_select(0, rows.reshape(-1))
        return scale_pixels(pixels.reshape(len(numbers), self._side, self._side, -1))


def scale_pixels(images: torch.Tensor) -> torch.Tensor:
    """Scale images (b, h, w, c) from 0 .. 255 to [-1, 1].

    Returns
    -------
    tensor of shape (b, c, h, w), float32
        Channels last in memory.
    """
    return images.permute(0, 3, 1, 2).to(torch.float32).mul_(1 / 127.5).sub_(1)


def rotated_crops(
    images: torch.Tensor,
    crop: int,
    down: torch.Tensor,
    right: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Crop and flip each image at random, shift it, and return it under all four rotations.

    Parameters
    ----------
    images : tensor of shape (b, side, side, c), uint8
    crop : int
        The side of the crop in pixels.
    down, right : tensors of shape (b,), int64
        The shift of each image, as a place in `shifts_of` the crop's side.
    generator : torch.Generator
        On the images' device.

    Returns
    -------
    tensor of shape (4 * b, c, crop, crop), float32
        In [-1, 1]; all images under one rotation, then all under the next.
    """
    b, side, device = len(images), images.shape[1], images.device
    offsets = torch.randint(side - crop + 1, (2, b), generator=generator, device=device)
    flips = torch.randint(2, (b,), generator=generator, device=device).bool()
    shifted = torch.stack(
        [reflected_positions(crop, shift, repeat_edge=False) for shift in shifts_of(crop)]
    ).to(device)
    rows, columns = shifted[down], shifted[right]
    # An image is flipped before it is shifted.
    columns = torch.where(flips[:, None], crop - 1 - columns, columns)
    rows, columns = rows + offsets[0][:, None], columns + offsets[1][:, None]
    cropped = images[
        torch.arange(b, device=device)[:, None, None], rows[:, :, None], columns[:, None, :]
    ]
    turned = torch.cat([torch.rot90(cropped, turns, (1, 2)) for turns in range(4)])
    return scale_pixels(turned.contiguous())
