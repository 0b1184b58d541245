"""``dn2 export``: the network of a detector for other runtimes."""

from __future__ import annotations

import os
from pathlib import Path

import click

from dn2.commands.own_images import detector_argument, load_or_refuse


@click.command()
@detector_argument
@click.option(
    "--onnx",
    required=True,
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The ONNX file to write; replaced if it exists.",
)
@click.option(
    "--weights", metavar="FILE", type=click.Path(path_type=Path), help="The encoder's checkpoint."
)
def export(detector: str, onnx: Path, weights: Path | None) -> int:
    """Write the network of a detector as ONNX, for other runtimes.

    It maps `images`, crops (n, 224, 224, 3) uint8, to `features` (n, width) float32, normalised as
    in the detector's bank. It needs the weights that the detector was made of.
    """
    if not os.access(onnx.parent, os.W_OK):
        raise click.UsageError(
            f"cannot write to the folder {onnx.parent}: make it, or change --onnx"
        )
    loaded = load_or_refuse(detector)
    click.echo(f"exporting {loaded.encoder}", err=True)

    from dn2.exporting import export_onnx

    width = export_onnx(loaded, onnx, weights)
    click.echo(f"{onnx}: images (n, 224, 224, 3) uint8 -> features (n, {width}) float32")
    return 0
