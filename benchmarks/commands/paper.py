"""``paper``: the published numbers as MLflow runs, so that the page shows them beside ours."""

from __future__ import annotations

import click

from benchmarks.commands.options import say, tracking_option


@click.command()
@tracking_option
def paper(tracking_uri: str) -> None:
    """Log the published numbers as MLflow runs, to compare with ours.

    Their tag `source` is paper.
    """
    from benchmarks.commands.page import how_to_look, main_views
    from benchmarks.commands.progress import show_progress

    with show_progress("logging the published numbers"):
        from benchmarks.report import published_rows
        from benchmarks.tracking import Tracker, find_store, result_views

        tracker, rows = Tracker(tracking_uri or None, say), published_rows()
        logged = tracker.log_published(rows)
        classes: dict[tuple[str, str], dict[str, None]] = {}
        for row in rows:
            named = classes.setdefault((row["dataset"], row["protocol"]), {})
            if row["class_name"] != "mean":
                named[row["class_name"]] = None
        views = [
            view
            for (dataset, protocol), named in classes.items()
            for view in result_views(dataset, protocol, list(named), curve=False)
        ]
        shown = main_views(tracker.save_views(views, replace=False))
    click.echo(f"{logged} published results logged.")
    store = find_store(tracking_uri or None)
    click.echo(how_to_look(store, tracker.experiment_id, tracking_uri, shown))
