"""``dn2 fit``: make a detector of a folder of normal images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dn2.commands.own_images import (
    LARGEST_K,
    LARGEST_SEED,
    Number,
    count,
    end,
    fit_option,
    gather_images,
    images_argument,
    pixels_option,
    tell_left_out,
    tell_seen,
)
from dn2.commands.time_left import show_progress

if TYPE_CHECKING:
    from dn2.image_detector import ImageDetector


@click.command()
@images_argument
@click.option(
    "--out",
    required=True,
    metavar="DETECTOR",
    type=click.Path(path_type=Path),
    help="The folder to write, with everything that scoring needs.",
)
@click.option("--force", is_flag=True, help="Replace the detector that is there.")
@click.option(
    "--encoder",
    metavar="NAME",
    default="efficientnet_lite0",
    show_default=True,
    help="efficientnet_lite0/1/2, resnet18/34/50/101/152, or timm:NAME; join several with +.",
)
@click.option("--weights", metavar="FILE", type=click.Path(path_type=Path), help="A checkpoint.")
@click.option(
    "--normalize",
    type=click.Choice(["none", "l2", "power"]),
    default="power",
    show_default=True,
    help="What to do to each feature.",
)
@click.option(
    "--k",
    type=click.IntRange(1, LARGEST_K),
    default=5,
    show_default=True,
    help="How many nearest images an image is compared with.",
)
@click.option(
    "--holdout",
    type=Number(0, 1, max_open=True),
    default=0.0,
    show_default=True,
    help="The fraction of the images that are only for the calibration; 0 compares each with all "
    "others.",
)
@click.option(
    "--index",
    type=click.Choice(["exact", "hnsw", "ivf"]),
    default="exact",
    show_default=True,
    help="How to find the nearest images. The last two are for hundreds of thousands: they miss a "
    "few, and the command says how many.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, LARGEST_SEED),
    default=0,
    help="Draws the images that are held out.",
)
@fit_option
@pixels_option
def fit(
    images: tuple[str, ...],
    out: Path,
    force: bool,
    encoder: str,
    weights: Path | None,
    normalize: str,
    k: int,
    holdout: float,
    index: str,
    seed: int,
    square: str,
    max_pixels: int,
) -> int:
    """Make a detector of normal images.

    IMAGES are folders of any depth, files, patterns, @FILE with a path a line, or - for such a list
    from standard input. Corrupt images are left out, named at the end, and make the exit code 1.
    """
    from dn2.encoders import find_weights, get_encoder, weights_folder
    from dn2.gathering import printable

    names = encoder.split("+")
    if len(set(names)) < len(names):
        once = "+".join(dict.fromkeys(names))
        raise click.UsageError(f"--encoder {encoder} names an encoder twice: write {once}")
    gathered = gather_images(images)
    try:
        for name in names:  # before the seconds that importing torch takes
            find_weights(get_encoder(name), weights_folder(), weights)
    except ValueError as error:
        raise click.UsageError(str(error)) from None

    from dn2.image_detector import ImageDetector
    from dn2.saving import check_target

    detector = ImageDetector(
        encoder, normalize, k, holdout, seed, weights, index, square, max_pixels
    )
    try:
        check_target(out, force=force)
        detector.check_count(len(gathered.paths), gathered.missing)
    except (OSError, ValueError) as error:
        tell_left_out(gathered.missing)
        raise click.UsageError(str(error).replace("force=True", "--force")) from None
    if not os.access(out if out.is_dir() else out.parent, os.W_OK | os.X_OK):
        raise click.UsageError(f"cannot write to the folder of {out}: change --out")
    click.echo(f"encoding {count(len(gathered.paths), 'image')} with {encoder}", err=True)
    try:
        detector.fit(gathered.paths, progress=show_progress())
    except ValueError:  # of weights too: nothing is left out then
        tell_left_out([*gathered.missing, *getattr(detector, "left_out_", ())])
        raise
    detector.save(out, force=force)
    click.echo(f"{out}: {count(len(detector.paths_), 'normal image')}, {summary(detector)}")
    tell_seen(square, detector.unseen_, detector.levels_)
    if index != "exact":
        click.echo(tell_index(detector), err=True)
    if copies := detector.copies():
        click.echo(
            f"note: {count(len(copies), 'image')} more than once, such as {printable(copies[0])}: "
            "copies make p-values too small, so leave one of each",
            err=True,
        )
    return end(
        [*gathered.missing, *detector.left_out_], len(gathered.paths) + len(gathered.missing)
    )


def tell_index(detector: ImageDetector) -> str:
    """Say what an approximate index does, and how much of the nearest images it finds."""
    from dn2.image_detector import RECALL_IMAGES
    from dn2.search import SMALLEST

    n = int(detector.in_bank_.sum())
    if n < max(SMALLEST, 10 * detector.k):
        return (
            f"note: of {n:,} images the search is exact: {detector.index} is used from "
            f"{max(SMALLEST, 10 * detector.k):,} on"
        )
    assert detector.recall_ is not None
    return (
        f"{detector.index} found {detector.recall_:.1%} of the {detector.k} nearest of "
        f"{count(min(len(detector.calibration_), RECALL_IMAGES), 'normal image')}"
    )


def summary(detector: ImageDetector) -> str:
    """Describe a detector's parameters in a line."""
    from dn2.calibration import smallest_rate

    n = len(detector.calibration_)
    how = f"{n:,} held-out images" if detector.holdout else "each image against the others"
    if not detector.holdout and n < len(detector.paths_):
        how = f"{n:,} images against all others"
    return (
        f"{detector.encoder}, {detector.normalize}, k = {detector.k}; calibrated with {how}; the "
        f"smallest p-value is {smallest_rate(n)}"
    )
