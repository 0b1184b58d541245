"""Random crops, flips and shifts of large images, each under all four rotations, for the training of MHRot."""

from __future__ import annotations

import torch

from baselines._transforms import reflected_positions, scale_pixels


def rotated_crops(images: torch.Tensor, crop: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Crop, flip and shift each image at random, and return it under the four rotations.

    Parameters
    ----------
    images : tensor of shape (b, side, side, c), uint8
    crop : int
        Pixels a side. Shifts are by a quarter of it, or none, with reflection.
    generator : torch.Generator
        On the images' device.

    Returns
    -------
    views : tensor of shape (4 * b, c, crop, crop), float32
        In [-1, 1]; rotation by rotation.
    down, right : tensors of shape (b,), int64
        Which shift each image had: 0 none, 1 up or left, 2 down or right.
    """
    b, side, device = len(images), images.shape[1], images.device
    offsets = torch.randint(side - crop + 1, (2, b), generator=generator, device=device)
    flips = torch.randint(2, (b,), generator=generator, device=device).bool()
    down, right = torch.randint(3, (2, b), generator=generator, device=device)
    shifted = torch.stack([reflected_positions(crop, shift) for shift in (0, -(crop // 4), crop // 4)]).to(device)
    rows, columns = shifted[down], shifted[right]
    columns = torch.where(flips[:, None], crop - 1 - columns, columns)  # flipped before it is shifted
    rows, columns = rows + offsets[0][:, None], columns + offsets[1][:, None]
    cropped = images[torch.arange(b, device=device)[:, None, None], rows[:, :, None], columns[:, None, :]]
    turned = torch.cat([torch.rot90(cropped, turns, (1, 2)) for turns in range(4)])
    return scale_pixels(turned.contiguous()), down, right
