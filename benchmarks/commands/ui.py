"""``ui``: the MLflow page, on the right view."""

from __future__ import annotations

from contextlib import ExitStack, suppress

import click

from benchmarks.commands.options import tracking_option
from benchmarks.contracts import UsageError


@click.command()
@tracking_option
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
def ui(tracking_uri: str, host: str, port: int) -> None:
    """Start the MLflow page and print the link to the runs, as a table with charts.

    Ctrl-C stops the page, which is the way to end this command: the exit code is then 0. Before the
    page answers, it is 130.
    """
    from benchmarks.commands.page import find_page, forgetting_page, note_page
    from benchmarks.commands.progress import show_progress

    with ExitStack() as display:
        display.enter_context(show_progress("starting the MLflow page"))

        from benchmarks.tracking import find_store
        from benchmarks.tracking.server import serve

        store = find_store(tracking_uri or None)
        if (base := find_page(store)) is not None:
            raise UsageError(f"the page of this store is served already, at {base}: open it.")

        def ready(link: str) -> None:
            display.close()
            if not store.startswith(("http://", "https://")):
                with suppress(OSError):  # the page works without the note
                    note_page(store, link, host, port)
            click.echo(f"The runs are at {link} (Ctrl-C stops the page)")

        with forgetting_page(store):
            serve(tracking_uri or None, host, port, ready)
