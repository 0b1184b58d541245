"""``ui``: the MLflow page, on the right view."""

from __future__ import annotations

from contextlib import suppress

import click

from benchmarks.commands.options import tracking_option


@click.command()
@tracking_option
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
def ui(tracking_uri: str, host: str, port: int) -> None:
    """Start the MLflow page and print the link to the runs, as a table with charts."""
    from benchmarks.commands.page import forgetting_page, note_page
    from benchmarks.tracking import find_store
    from benchmarks.tracking.server import serve

    store = find_store(tracking_uri or None)

    def ready(link: str) -> None:
        if not store.startswith(("http://", "https://")):
            with suppress(OSError):  # the page works without the note
                note_page(store, link, host, port)
        click.echo(f"The runs are at {link} (Ctrl-C stops the page)")

    with forgetting_page(store):
        serve(tracking_uri or None, host, port, ready)
