"""``dn2 encode``: compute the features of a folder's images once, for any tool that reads NumPy."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dn2.commands.own_images import fit_option, pixels_option
from dn2.commands.time_left import show_progress

if TYPE_CHECKING:
    import numpy as np

    from dn2.images import ImageFiles


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--out",
    required=True,
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The .npz file to write; replaced if it exists.",
)
@click.option(
    "--encoder",
    metavar="NAME",
    default="efficientnet_lite0",
    show_default=True,
    help="efficientnet_lite0/1/2, resnet18/34/50/101/152, or timm:NAME.",
)
@click.option(
    "--normalize",
    type=click.Choice(["none", "l2", "power"]),
    default="none",
    show_default=True,
    help="What to do to each feature.",
)
@click.option("--weights", metavar="FILE", type=click.Path(path_type=Path), help="A checkpoint.")
@click.option("--device", metavar="NAME", help="cpu or cuda.  [default: cuda where there is one]")
@fit_option
@click.option(
    "--levels",
    metavar="BLACK,WHITE",
    callback=lambda _ctx, _param, text: _read_levels(text),
    help="The levels of 16-bit grey that become black and white: those that encoding the training "
    "images printed.  [default: learnt from FOLDER]",
)
@pixels_option
def encode(
    folder: Path,
    out: Path,
    encoder: str,
    normalize: str,
    weights: Path | None,
    device: str | None,
    square: str,
    levels: tuple[int, int] | None,
    max_pixels: int,
) -> int:
    """Encode all images in FOLDER and its subfolders.

    The .npz file holds `paths` (n,), relative to FOLDER and in sorted order, and `features`
    (n, width) float32; also `folder`, `encoder`, `normalize`, `fit` and `levels`. Corrupt
    images are left out, named at the end, and make the exit code 1.
    """
    from dn2.encoders import find_weights, get_encoder, weights_folder
    from dn2.gathering import SUFFIXES

    paths = sorted(_image_files(folder))
    if not paths:
        raise click.UsageError(
            f"no images in {folder}: give a folder with files that end in "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    if not os.access(out.parent, os.W_OK):
        raise click.UsageError(f"cannot write to the folder {out.parent}: make it, or change --out")
    try:
        entry = get_encoder(encoder)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    find_weights(entry, weights_folder(), weights)  # before the seconds that importing torch takes
    click.echo(f"encoding {len(paths):,} images with {encoder}", err=True)

    import numpy as np

    from dn2.engines import available_cores, engine_name
    from dn2.features import Encoder
    from dn2.files import write_atomically
    from dn2.images import ALL_LEVELS, ImageFiles, View
    from dn2.levels import learn_levels
    from dn2.squares import describe_unseen

    try:
        engine_name(None, device)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    view = View(most_pixels=max_pixels)
    files = ImageFiles([folder / path for path in paths], view=view)
    learnt = learn_levels(files.paths, available_cores(), view).levels if levels is None else levels
    if levels is None and learnt != ALL_LEVELS:
        click.echo(
            f"note: of 16-bit grey, level {learnt[0]:,} becomes black and {learnt[1]:,} white; "
            f"give --levels {learnt[0]},{learnt[1]} for images that are compared with these",
            err=True,
        )
    images = _SkipCorrupt(files.seen(levels=learnt), square)
    transformer = Encoder(
        encoder, normalize=normalize, weights=weights, device=device, square=square
    )
    features = transformer.transform(images, show_progress())
    good = np.array([row not in images.reasons for row in range(len(paths))])
    arrays: dict[str, Any] = {
        "paths": np.array([path.as_posix() for path in paths])[good],
        "features": features[good],
        "folder": np.array(str(folder.resolve())),
        "encoder": np.array(encoder),
        "normalize": np.array(normalize),
        "fit": np.array(square),
        "levels": np.array(learnt),
    }
    shares = [images.unseen[row] for row in sorted(images.unseen)]
    if line := describe_unseen(square, shares):
        click.echo(f"note: {line}", err=True)
    if good.any():
        write_atomically(out, lambda file: np.savez(file, **arrays))
        click.echo(f"{out}: {good.sum():,} features of {features.shape[1]:,} numbers")
    for row, reason in sorted(images.reasons.items()):
        click.echo(f"left out: {folder / paths[row]} ({reason})", err=True)
    if images.reasons:
        raise click.ClickException(
            f"{len(images.reasons):,} of {len(paths):,} images cannot be read: replace or remove "
            "them"
        )
    return 0


def _image_files(folder: Path) -> Iterator[Path]:
    """Find the image files that are not hidden, by suffix; paths are relative to the folder."""
    from dn2.gathering import SUFFIXES

    begun: float | None = time.monotonic()
    for path in folder.rglob("*"):
        if begun is not None and time.monotonic() - begun > 1:
            click.echo(f"looking for images in {folder}", err=True)
            begun = None
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            yield relative


def _read_levels(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) == 2 and all(part.isdecimal() and len(part) < 6 for part in parts):
        black, white = map(int, parts)
        if black < white <= 65535:
            return black, white
    raise click.UsageError(
        f"--levels must be two whole numbers, the first below the second and that up to 65535, got "
        f"{text}: write --levels 0,4095"
    )


class _SkipCorrupt(Sequence[Any]):
    """Put a black image in place of each one that cannot be read, and remember why.

    Attributes
    ----------
    reasons : dict
        Row -> why it cannot be read.
    unseen : dict
        Row -> what its square leaves out: see `dn2.squares.unseen`.
    """

    def __init__(self, images: ImageFiles, square: str) -> None:
        self.images, self.square = images, square
        self.reasons: dict[int, str] = {}
        self.unseen: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Any) -> Any:
        from dn2.images import as_array

        if isinstance(rows, slice):  # a list, as sizes may differ
            return [self.reduced(row, as_array) for row in range(len(self))[rows]]
        return self.reduced(range(len(self))[rows], as_array)

    def reduced(self, row: int, reduce: Callable[[Any], np.ndarray]) -> np.ndarray:
        """Return what a function makes of an image, or of a black one."""
        from PIL import Image

        from dn2.crops import reason_of
        from dn2.squares import unseen

        def seen(image: Any) -> np.ndarray:
            self.unseen[row] = unseen(image.height, image.width, self.square)
            return reduce(image)

        try:
            return self.images.reduced(row, seen)
        except (OSError, ValueError) as error:
            self.reasons[row] = reason_of(error)
        return reduce(Image.new("L", (1, 1)))
