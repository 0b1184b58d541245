"""``dn2 score``: which of these images are odd, and what they were compared with."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dn2.commands.own_images import (
    choose_rate,
    count,
    detector_argument,
    end,
    gather_images,
    images_argument,
    load_or_refuse,
    pixels_option,
    rate_options,
)
from dn2.commands.time_left import show_progress

if TYPE_CHECKING:
    from dn2.image_detector import ScoredImage, Scores


@click.command()
@detector_argument
@images_argument
@rate_options
@click.option(
    "--csv",
    "csv_file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write all scores to this file; replaced if it exists.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--top",
    type=click.IntRange(1, 1_000_000),
    default=20,
    show_default=True,
    help="How many images the table shows.",
)
@pixels_option
def score(
    detector: str,
    images: tuple[str, ...],
    fpr: float | None,
    fdr: float | None,
    csv_file: Path | None,
    as_json: bool,
    top: int,
    max_pixels: int,
) -> int:
    """Score images with a detector, the oddest first.

    IMAGES are folders of any depth, files, patterns, @FILE with a path a line, or - for such a list
    from standard input. A terminal gets a table, a pipe gets CSV. Corrupt images are left out,
    named at the end, and make the exit code 1.
    """
    if csv_file is not None and not os.access(csv_file.parent, os.W_OK):
        raise click.UsageError(
            f"cannot write to the folder {csv_file.parent}: make it, or change --csv"
        )
    loaded = load_or_refuse(detector)
    loaded.most_pixels = max_pixels
    name, rate = choose_rate(fpr, fdr, len(loaded.calibration_))
    gathered = gather_images(images)
    click.echo(f"scoring {count(len(gathered.paths), 'image')} with {loaded.encoder}", err=True)
    scores = loaded.score(gathered.paths, progress=show_progress())
    flags = [None] * len(scores.images) if rate is None else scores.flag(**{name: rate}).tolist()
    order = sorted(range(len(flags)), key=lambda i: -scores.images[i].score)
    worst = [scores.images[i] for i in order]
    flags = [flags[i] for i in order]
    left_out = [*gathered.missing, *scores.left_out]
    if csv_file is not None:
        from dn2.files import write_atomically

        write_atomically(csv_file, _csv(worst, flags))
    if as_json:
        _print(_json(worst, flags, left_out, name, rate, scores.n_calibration).encode())
    elif csv_file is None and not sys.stdout.isatty():
        _print(_csv(worst, flags))
    else:
        _print(_table(worst[:top], flags[:top]).encode(errors="replace"))
        if len(worst) > top:
            more = "--csv FILE has all" if csv_file is None else f"{csv_file} has all"
            click.echo(f"{len(worst) - top:,} more below these: {more}", err=True)
    _say(scores, flags, name, rate)
    return end(left_out, len(gathered.paths) + len(gathered.missing))


def _say(scores: Scores, flags: Sequence[bool | None], name: str, rate: float | None) -> None:
    """Say on stderr what the numbers do not."""
    from dn2.calibration import found_together

    n = len(scores.images)
    if rate is not None and n:
        what = "false-alarm" if name == "fpr" else "false-discovery"
        click.echo(f"{sum(map(bool, flags)):,} of {n:,} flagged, {what} rate {rate:g}", err=True)
    if name == "fdr" and rate is not None and n:
        together = found_together(scores.n_calibration, n, rate)
        if together > 1:
            click.echo(
                f"note: with {scores.n_calibration:,} calibration images, at least {together:,} of "
                f"{n:,} images must stand out together before any is flagged",
                err=True,
            )
    equal = sum(image.nearest[0].distance == 0 for image in scores.images)
    if equal:
        click.echo(
            f"note: {count(equal, 'image')} equal to a normal image of the detector", err=True
        )


def _csv(images: Sequence[ScoredImage], flags: Sequence[bool | None]) -> bytes:
    """Write scores as CSV; names that are no UTF-8 keep their bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    k = len(images[0].nearest) if images else 0
    writer.writerow(
        ["path", "score", "p_value", "flag"]
        + [f"{what}_{i}" for i in range(1, k + 1) for what in ("nearest", "distance")]
    )
    for image, flag in zip(images, flags, strict=True):
        nearest = [word for near in image.nearest for word in (near.path, _digits(near.distance))]
        told = "" if flag is None else str(flag).lower()
        writer.writerow([image.path, _digits(image.score), f"{image.p_value:.6g}", told, *nearest])
    return text.getvalue().encode("utf-8", "surrogateescape")


def _digits(number: float) -> str:
    """Write a float32 number with all its digits."""
    return f"{number:.9g}"


def _json(
    images: Sequence[ScoredImage],
    flags: Sequence[bool | None],
    left_out: Sequence[Any],
    name: str,
    rate: float | None,
    n_calibration: int,
) -> str:
    return (
        json.dumps(
            {
                "rate": None if rate is None else {name: rate},
                "n_calibration": n_calibration,
                "images": [
                    {
                        "path": image.path,
                        "score": image.score,
                        "p_value": image.p_value,
                        "flag": flag,
                        "nearest": [vars(near) for near in image.nearest],
                    }
                    for image, flag in zip(images, flags, strict=True)
                ],
                "left_out": [vars(one) for one in left_out],
            },
            indent=1,
        )
        + "\n"
    )


def _table(images: Sequence[ScoredImage], flags: Sequence[bool | None]) -> str:
    from dn2.gathering import printable

    names = [printable(image.path) for image in images]
    width = max([len("image"), *map(len, names)])
    lines = [f"{'score':>9}  {'p':>7}  flag  {'image':<{width}}  nearest normal image"]
    for name, image, flag in zip(names, images, flags, strict=True):
        lines.append(
            f"{image.score:#9.4g}  {image.p_value:7.4f}  {'odd' if flag else '':<4}  "
            f"{name:<{width}}  {printable(_from_here(image.nearest[0].path))}"
        )
    return "\n".join(lines) + "\n"


def _from_here(path: str) -> str:
    """Shorten a path that is below the working directory."""
    here = f"{Path.cwd()}/"
    return path.removeprefix(here)


def _print(content: bytes) -> None:
    """Write bytes to stdout."""
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()
