"""``dn2 info``: what a detector is made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dn2.commands.own_images import count, detector_argument

if TYPE_CHECKING:
    from dn2.image_detector import ImageDetector


@click.command()
@detector_argument
@click.option("--images", "list_images", is_flag=True, help="List the normal images.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def info(detector: str, list_images: bool, as_json: bool) -> int:
    """Show what a detector is made of, and check that its files are whole."""
    from dn2.calibration import smallest_rate
    from dn2.commands.own_images import load_or_refuse
    from dn2.gathering import printable
    from dn2.saving import read_manifest

    loaded = load_or_refuse(detector)
    manifest = read_manifest(detector)
    if as_json:
        manifest["paths"] = list(loaded.paths_)
        click.echo(json.dumps(manifest, indent=1))
        return 0
    calibration = manifest["calibration"]
    size = sum(file["bytes"] for file in manifest["files"].values())
    networks = ", ".join(
        f"{entry['name']} (weights {entry['weights_sha256'][:12]}, {entry['width']:,} numbers)"
        for entry in manifest["encoders"]
    )
    n = calibration["n_images"]
    rows = {
        "detector": f"{Path(detector)} ({size / 1e6:.1f} MB, format {manifest['format']})",
        "written": f"{manifest['created']} by dn2 {manifest['dn2']}",
        "encoder": networks,
        "normalize": manifest["normalize"],
        "k": manifest["k"],
        "normal images": f"{manifest['n_images']:,}, {loaded.in_bank_.sum():,} in the bank",
        "search": _search(loaded),
        "calibration": f"{calibration['method']}, {count(n, 'image')}, "
        f"of which {calibration['n_copies']:,} equal another",
        "smallest p-value": smallest_rate(n),
        "scores": f"median {calibration['median_score']:#.4g}, "
        f"largest {calibration['largest_score']:#.4g} among normal images",
    }
    if "square" in manifest or "levels" in manifest:
        rows["images"] = seen(manifest)
    for name, value in rows.items():
        click.echo(f"{name:<17} {value}")
    if list_images:
        for path in loaded.paths_:
            click.echo(printable(path))
    return 0


def seen(manifest: Mapping[str, Any]) -> str:
    """Say how images become what the network sees."""
    how = {"pad": "padded", "squash": "squashed"}.get(manifest.get("square", ""), "cropped")
    if "levels" not in manifest:
        return how
    black, white = manifest["levels"]
    return f"{how}; of 16-bit grey, level {black:,} is black and {white:,} white"


def _search(detector: ImageDetector) -> str:
    """Say how the nearest images are found, and how many of them."""
    if detector.index == "exact":
        return "exact"
    from dn2.commands.fit import tell_index

    return tell_index(detector).removeprefix("note: ")
