"""``dn2 encode``: compute the features of a folder's images once, for any tool that reads NumPy."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

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
def encode(
    folder: Path, out: Path, encoder: str, normalize: str, weights: Path | None, device: str | None
) -> int:
    """Encode all images in FOLDER and its subfolders.

    The .npz file holds `paths` (n,), relative to FOLDER and in sorted order, and `features`
    (n, width) float32; also `folder`, `encoder` and `normalize`. Corrupt images are left out, named
    at the end, and make the exit code 1.
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

    from dn2.engines import engine_name
    from dn2.features import Encoder
    from dn2.files import write_atomically
    from dn2.images import ImageFiles

    try:
        engine_name(None, device)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    images = _SkipCorrupt(ImageFiles([folder / path for path in paths]))
    transformer = Encoder(encoder, normalize=normalize, weights=weights, device=device)
    features = transformer.transform(images, show_progress())
    good = np.array([row not in images.reasons for row in range(len(paths))])
    arrays: dict[str, Any] = {
        "paths": np.array([path.as_posix() for path in paths])[good],
        "features": features[good],
        "folder": np.array(str(folder.resolve())),
        "encoder": np.array(encoder),
        "normalize": np.array(normalize),
    }
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


class _SkipCorrupt(Sequence[Any]):
    """Put a black image in place of each one that cannot be read, and remember why.

    Attributes
    ----------
    reasons : dict
        Row -> why it cannot be read.
    """

    def __init__(self, images: ImageFiles) -> None:
        self.images = images
        self.reasons: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, slice):  # a list, as sizes may differ
            return [self._read(row) for row in range(len(self))[rows]]
        return self._read(range(len(self))[rows])

    def _read(self, row: int) -> np.ndarray:
        import numpy as np

        from dn2.images import CorruptImageError

        try:
            return self.images[row]
        except CorruptImageError as error:
            self.reasons[row] = error.reason
        except OSError as error:
            self.reasons[row] = error.strerror or type(error).__name__
        return np.zeros((1, 1), np.uint8)
