"""``dn2 add`` and ``dn2 remove``: change the normal images of a detector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dn2.commands.own_images import (
    check_change,
    count,
    detector_argument,
    end,
    gather_images,
    images_argument,
    pixels_option,
)
from dn2.commands.time_left import show_progress

if TYPE_CHECKING:
    from dn2.image_detector import ImageDetector


@click.command()
@detector_argument
@images_argument
@pixels_option
def add(detector: str, images: tuple[str, ...], max_pixels: int) -> int:
    """Add normal images to a detector, such as false alarms.

    IMAGES are as of `dn2 fit`. The images that are there are not encoded again; p-values are
    calibrated again.
    """
    from dn2.saving import change_detector

    check_change(detector)
    gathered = gather_images(images)

    def change(loaded: ImageDetector) -> tuple[int, list[object]]:
        loaded.most_pixels = max_pixels
        left_out = loaded.add(gathered.paths, progress=show_progress())
        return len(loaded.paths_), list(left_out)

    n, left_out = change_detector(detector, change)
    added = len(gathered.paths) - len(left_out)
    click.echo(f"{detector}: {count(added, 'image')} added, {n:,} in all")
    return end(
        [*gathered.missing, *left_out],  # type: ignore[list-item]
        len(gathered.paths) + len(gathered.missing),
    )


@click.command()
@detector_argument
@images_argument
def remove(detector: str, images: tuple[str, ...]) -> int:
    """Remove images from a detector, such as odd ones among the normal.

    IMAGES are paths, or the end of one, such as a file's name. The files need not exist any more.
    """
    from dn2.saving import change_detector

    check_change(detector)

    def change(loaded: ImageDetector) -> tuple[int, int]:
        return len(loaded.remove(images)), len(loaded.paths_)

    removed, n = change_detector(detector, change)
    click.echo(f"{detector}: {count(removed, 'image')} removed, {n:,} left")
    return 0
