"""What the verbs for one's own images share: which files are meant, and what is said at the end."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dn2.crops import LeftOut
    from dn2.gathering import Gathered

detector_argument = click.argument("detector", metavar="DETECTOR", type=click.Path())
images_argument = click.argument("images", metavar="IMAGES...", nargs=-1, required=True)


def gather_images(arguments: tuple[str, ...]) -> Gathered:
    """Find the image files that are meant, and say what is passed over."""
    from dn2.gathering import SUFFIXES, gather, printable

    try:
        gathered = gather(arguments, sys.stdin.buffer if "-" in arguments else None)
    except (OSError, ValueError) as error:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise click.UsageError(printable(reason)) from None
    for note in gathered.notes:
        click.echo(f"note: {printable(note)}", err=True)
    if not gathered.paths:
        tell_left_out(gathered.missing)
        raise click.UsageError(
            f"no images in {printable(', '.join(arguments))}: give files, or a folder with files "
            f"that end in {', '.join(sorted(SUFFIXES))}"
        )
    return gathered


def load_or_refuse(path: str) -> Any:
    """Load a detector; that there is none is wrong usage."""
    from dn2.saving import load

    try:
        return load(path)
    except FileNotFoundError as error:
        raise click.UsageError(str(error)) from None


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
            f"{len(left_out):,} of {n:,} images cannot be read: replace or remove them"
        )
    return 0


def count(n: int, what: str) -> str:
    """Write a number of things: ``1 image``, ``2 images``."""
    return f"{n:,} {what}" + ("" if n == 1 else "s")
