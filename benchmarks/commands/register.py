"""``register``: a detector of `dn2 fit` as a model in MLflow's registry."""

from __future__ import annotations

import json
from pathlib import Path

import click

from benchmarks.commands.options import json_option, tracking_option
from benchmarks.contracts import UsageError


@click.command()
@click.argument("detector", metavar="DETECTOR", type=click.Path(path_type=Path))
@click.option("--name", required=True, metavar="NAME", help="Of the registered model.")
@click.option("--alias", default="", metavar="NAME", help="Given to the new version: champion.")
@tracking_option
@json_option
def register(detector: Path, name: str, alias: str, tracking_uri: str, as_json: bool) -> None:
    """Put a detector of `dn2 fit` into MLflow's model registry, as a new version.

    `mlflow models serve` then serves it: images in base64 come in, scores go out.
    """
    from benchmarks.tracking.registry import register as register_model
    from dn2.saving import BadDetectorError

    click.echo(f"registering {detector} as {name}", err=True)
    try:
        found = register_model(detector, name, alias, tracking_uri or None)
    except (FileNotFoundError, BadDetectorError) as error:
        raise UsageError(str(error)) from None
    if as_json:
        fields = {"name": found.name, "version": found.version, "alias": found.alias or None}
        click.echo(json.dumps({**fields, "uri": found.uri, "tracking_uri": found.store}))
        return
    click.echo(f"{found.uri} is version {found.version}; serve it with")
    click.echo(
        f"  MLFLOW_TRACKING_URI={found.store} mlflow models serve -m {found.uri} "
        "--env-manager local --port 5001"
    )
