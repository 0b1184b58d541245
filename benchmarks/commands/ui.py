"""``ui``: the MLflow page, on the right view."""

from __future__ import annotations

import click

from benchmarks.commands.options import tracking_option


@click.command()
@tracking_option
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
def ui(tracking_uri: str, host: str, port: int) -> None:
    """Start the MLflow page and print the link to the runs, as a table with charts."""
    from benchmarks.tracking.server import serve

    serve(
        tracking_uri or None,
        host,
        port,
        lambda link: click.echo(f"The runs are at {link} (Ctrl-C ends the page)"),
    )
