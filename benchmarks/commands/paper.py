"""``paper``: the published numbers as MLflow runs, so that the page shows them beside ours."""

from __future__ import annotations

import click

from benchmarks.commands.options import tracking_option


@click.command()
@tracking_option
def paper(tracking_uri: str) -> None:
    """Log the published numbers as MLflow runs, to compare with ours.

    Their tag `source` is paper.
    """
    from benchmarks.commands.progress import show_progress

    with show_progress("logging the published numbers"):
        from benchmarks.report import published_rows
        from benchmarks.tracking import Tracker

        logged = Tracker(tracking_uri or None).log_published(published_rows())
    click.echo(f"{logged} published results logged.")
