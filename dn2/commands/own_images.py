"""What the verbs for one's own images share: which files are meant, and what is said at the end."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from dn2.crops import LeftOut
    from dn2.gathering import Gathered

Command = TypeVar("Command", bound=Callable[..., Any])

detector_argument = click.argument("detector", metavar="DETECTOR", type=click.Path())
images_argument = click.argument("images", metavar="IMAGES...", nargs=-1, required=True)

fit_option = click.option(
    "--fit",
    "square",
    type=click.Choice(["crop", "pad", "squash"]),
    default="crop",
    show_default=True,
    help="How an image that is no square becomes one: its middle, all of it with a grey margin, or "
    "all of it squashed.",
)
pixels_option = click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    default=178_956_970,  # `dn2.images.MOST_PIXELS`, whose import would take long
    show_default=True,
    help="Images with more pixels are not decoded.",
)


class Number(click.FloatRange):
    """A number in a range; not-a-number is in none, although it compares as if it were."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read the number; click.BadParameter if it is not finite or not in the range."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number


LARGEST_SEED, LARGEST_K = 2**32 - 1, 1_000_000


def rate_options(command: Command) -> Command:
    """Give a verb the options ``--fpr`` and ``--fdr``: see `choose_rate`."""
    for option in (
        click.option(
            "--fdr",
            type=float,
            metavar="RATE",
            help="Flag so that at most this share of the flagged images is normal, on average.",
        ),
        click.option(
            "--fpr",
            type=float,
            metavar="RATE",
            help="Flag at most this share of the normal images, on average.  [default: 0.05]",
        ),
    ):
        command = option(command)
    return command


def gather_images(arguments: tuple[str, ...]) -> Gathered:
    """Find the image files that are meant, and say what is passed over."""
    from dn2.gathering import SUFFIXES, gather, printable

    try:
        gathered = gather(arguments, sys.stdin.buffer if "-" in arguments else None)
    except (OSError, ValueError) as error:
        reason = str(error)
        if isinstance(error, OSError):
            reason = f"cannot read the list {error.filename} ({error.strerror}): give @FILE"
        raise click.UsageError(printable(reason)) from None
    for note in gathered.notes:
        click.echo(f"note: {printable(note)}", err=True)
    missing = gathered.missing
    if not gathered.paths and len(missing) == 1:
        raise click.UsageError(
            f"cannot read {printable(missing[0].path)} ({printable(missing[0].reason)}): give "
            "other files"
        )
    if not gathered.paths and missing:
        tell_left_out(missing)
        raise click.UsageError(f"none of these {len(missing):,} can be read: give others")
    if not gathered.paths:
        raise click.UsageError(
            f"no images in {printable(', '.join(arguments))}: give files, or a folder with files "
            f"that end in {', '.join(sorted(SUFFIXES))}"
        )
    return gathered


def check_change(detector: str) -> None:
    """Refuse to change what is no detector, and say if an index is built again: it takes minutes.

    Changing a detector loads it, so that it is not loaded here.
    """
    manifest = _manifest_or_refuse(detector)
    if "graph" in manifest:
        click.echo(f"the index {manifest['index']} is built again", err=True)


def load_or_refuse(path: str) -> Any:
    """Load a detector; that there is none is wrong usage."""
    from dn2.saving import load

    _manifest_or_refuse(path)
    return load(path)


def _manifest_or_refuse(path: str) -> dict[str, Any]:
    from dn2.saving import read_manifest

    try:
        return read_manifest(path)
    except FileNotFoundError as error:
        raise click.UsageError(str(error)) from None


def choose_rate(fpr: float | None, fdr: float | None, n: int) -> tuple[str, float | None]:
    """Choose the rate: the one asked for, or the usual one where there are images enough."""
    from dn2.calibration import DEFAULT_FPR, default_rate, images_needed
    from dn2.image_detector import check_rate_and_images

    if fpr is not None and fdr is not None:
        raise click.UsageError("give --fpr or --fdr, not both")
    if fpr is None and fdr is None:
        if default_rate(n) is None:
            click.echo(
                f"note: nothing is flagged: --fpr {DEFAULT_FPR} needs {images_needed(DEFAULT_FPR)} "
                f"normal images, there are {n}",
                err=True,
            )
        return "fpr", default_rate(n)
    name, rate = ("fpr", fpr) if fdr is None else ("fdr", fdr)
    assert rate is not None
    try:
        check_rate_and_images(name, rate, n)
    except ValueError as error:
        raise click.UsageError(f"--{error}") from None
    return name, rate


def tell_seen(square: str, unseen: Sequence[float], levels: tuple[int, int]) -> None:
    """Say what the network does not see of images that are no squares, and of 16-bit grey."""
    from dn2.images import ALL_LEVELS
    from dn2.squares import describe_unseen

    if line := describe_unseen(square, unseen):
        click.echo(f"note: {line}", err=True)
    if levels != ALL_LEVELS:
        click.echo(
            f"note: of 16-bit grey, level {levels[0]:,} becomes black and {levels[1]:,} white",
            err=True,
        )


def tell_left_out(left_out: Iterable[LeftOut]) -> None:
    """Name the files that could not be read, a line each."""
    from dn2.gathering import printable

    for one in left_out:
        click.echo(f"left out: {printable(one.path)} ({printable(one.reason)})", err=True)


def end(left_out: Iterable[LeftOut], n: int) -> int:
    """Name the files that could not be read, and return the exit code.

    Raises
    ------
    click.ClickException
        If there are any: the exit code is 1.
    """
    left_out = list(left_out)
    tell_left_out(left_out)
    if left_out:
        raise click.ClickException(
            f"{len(left_out):,} of {count(n, 'image')} cannot be read: replace or remove them"
        )
    return 0


def count(n: int, what: str) -> str:
    """Write a number of things: ``1 image``, ``2 images``."""
    return f"{n:,} {what}" + ("" if n == 1 else "s")
