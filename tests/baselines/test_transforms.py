"""Transformations, compared with plain NumPy pixel by pixel."""

from itertools import product

import numpy as np
import pytest
import torch

from baselines._preparation import draw_subset, pad_digits
from baselines._transforms import (
    Views,
    geometric_transformations,
    identity,
    rotated_crops,
    rotations,
    turns_and_shifts,
)


def moved(image: np.ndarray, down: int, right: int, mode: str = "symmetric") -> np.ndarray:
    """Shift an image (h, w, c); its mirror image moves in.

    With "symmetric" the edge pixel is repeated, with "reflect" it is not.
    """
    room = len(image) - 1
    padded = np.pad(image, ((room, room), (room, room), (0, 0)), mode=mode)
    return padded[room - down :, room - right :][: len(image), : len(image)]


def geom_reference(image: np.ndarray) -> list[np.ndarray]:
    step = len(image) // 4
    views = []
    for flip, right, down, turns in product(
        (False, True), (0, -step, step), (0, -step, step), range(4)
    ):
        flipped = image[:, ::-1] if flip else image
        views.append(np.rot90(moved(flipped, down, right), turns))
    return views


def mhrot_reference(image: np.ndarray, crop: int) -> list[np.ndarray]:
    side = len(image)
    start, step = (side - crop) // 2, crop // 4
    image = image[start : start + crop, start : start + crop]
    mode = "symmetric" if crop == side else "reflect"
    return [
        np.rot90(moved(image, down, right, mode), turns)
        for turns, down, right in product(range(4), (0, -step, step), (0, -step, step))
    ]


def as_pixels(views: torch.Tensor) -> np.ndarray:
    """Turn views in [-1, 1] back into the uint8 images (b, h, w, c) that they came from."""
    return ((views.permute(0, 2, 3, 1).numpy() + 1) * 127.5).round().astype(np.uint8)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [16, 28, 32, 33])
def test_the_72_transformations_are_those_of_numpy(side, channels):
    images = np.random.default_rng(side).integers(0, 256, (2, side, side, channels), dtype=np.uint8)
    views = Views(torch.tensor(images), geometric_transformations(side))
    assert len(views) == 144
    expected = np.stack([view for image in images for view in geom_reference(image)])
    np.testing.assert_array_equal(as_pixels(views.make(torch.arange(144))), expected)


def test_no_two_of_the_72_are_the_same(images):
    views = Views(torch.tensor(images[:1]), geometric_transformations(32)).make(torch.arange(72))
    assert len(np.unique(views.reshape(72, -1).numpy(), axis=0)) == 72


def test_views_are_numbered_image_by_image_in_any_order(images):
    views = Views(torch.tensor(images), rotations(32))
    numbers = torch.tensor([11, 0, 6, 6])
    assert views.labels(numbers).tolist() == [3, 0, 2, 2]
    expected = [np.rot90(images[2], 3), images[0], np.rot90(images[1], 2), np.rot90(images[1], 2)]
    np.testing.assert_array_equal(as_pixels(views.make(numbers)), np.stack(expected))


@pytest.mark.parametrize(("side", "crop"), [(32, 0), (64, 56), (33, 28)])
def test_the_36_of_mhrot_are_those_of_numpy(side, crop):
    images = np.random.default_rng(1).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    views = Views(torch.tensor(images), turns_and_shifts(side, crop))
    expected = np.stack([view for image in images for view in mhrot_reference(image, crop or side)])
    np.testing.assert_array_equal(as_pixels(views.make(torch.arange(72))), expected)


def test_views_lie_between_minus_one_and_one_channels_last():
    ends = (
        torch.tensor([[0, 255], [51, 204]], dtype=torch.uint8)
        .reshape(1, 2, 2, 1)
        .expand(1, 2, 2, 3)
        .contiguous()
    )
    view = Views(ends, identity(2)).make(torch.tensor([0]))
    np.testing.assert_allclose(view[0, 1].numpy(), [[-1, 1], [-0.6, 0.6]], atol=1e-6)
    assert view.is_contiguous(memory_format=torch.channels_last)


def test_random_crops_are_crops_with_the_shifts_they_say():
    # Each pixel holds its own position, so that a crop's corner shows where it was cut.
    side, crop, n = 64, 56, 20
    place = np.stack(
        [*np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), np.full((side, side), 7)],
        -1,
    )
    images = torch.tensor(np.repeat(place[None], n, 0).astype(np.uint8))
    down, right = torch.arange(n) % 9 // 3, torch.arange(n) % 3
    views = rotated_crops(images, crop, down, right, torch.Generator().manual_seed(3))
    pixels, steps = as_pixels(views), (0, -(crop // 4), crop // 4)
    starts, flips = set(), set()
    for i in range(n):
        matches = [
            (top, left, flip)
            for top, left, flip in product(
                range(side - crop + 1), range(side - crop + 1), (False, True)
            )
            if np.array_equal(
                moved(
                    place[top : top + crop, left : left + crop][:, :: -1 if flip else 1],
                    steps[down[i]],
                    steps[right[i]],
                    "reflect",
                ),
                pixels[i],
            )
        ]
        assert len(matches) == 1
        starts.add(matches[0][:2])
        flips.add(matches[0][2])
        for turns in range(4):
            np.testing.assert_array_equal(pixels[turns * n + i], np.rot90(pixels[i], turns))
    assert flips == {False, True}
    assert len(starts) > 10


def test_digits_are_padded_with_zeros_and_others_are_left(images):
    digits = np.full((2, 28, 28, 1), 9, np.uint8)
    padded = pad_digits(digits)
    assert padded.shape == (2, 32, 32, 1)
    assert padded.sum() == digits.sum()
    np.testing.assert_array_equal(padded[:, 2:-2, 2:-2], digits)
    assert pad_digits(images) is images


def test_a_subset_is_drawn_without_replacement_and_by_its_seed():
    images = np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1)
    draws = [
        draw_subset(images, 20, torch.Generator().manual_seed(seed)).ravel().tolist()
        for seed in (0, 0, 1)
    ]
    assert draws[0] == draws[1] == sorted(set(draws[0]))
    assert draws[0] != draws[2]
    assert len(draws[0]) == 20
    assert (
        len(draw_subset(images, 0, torch.Generator()))
        == len(draw_subset(images, 99, torch.Generator()))
        == 50
    )
