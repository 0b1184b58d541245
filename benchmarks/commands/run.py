"""``run``: compute what is asked for, and print a table beside the paper's numbers."""

from __future__ import annotations

import json
from typing import Any

import click

from benchmarks.commands.options import (
    executor_options,
    experiment_options,
    json_option,
    pop_executor,
    pop_experiments,
    pop_workspace,
    say,
    tracking_option,
    workspace_options,
)
from benchmarks.contracts import MissingDataError, UsageError


@click.command()
@experiment_options
@workspace_options
@executor_options
@tracking_option
@click.option("--force", is_flag=True, help="Compute finished runs once more.")
@json_option
def run(tracking_uri: str, force: bool, as_json: bool, **options: Any) -> None:
    """Run detectors, log them to MLflow, and print their ROCAUC beside the paper's.

    Lists make one run of each combination: --k 1,2,5 --normalize none,l2 is six. Finished runs are
    looked up, and interrupted ones continue.
    """
    from benchmarks.commands.progress import LOADING, show_progress

    with show_progress(LOADING) as progress:
        from benchmarks.tracking.connection import check_writable, find_store

        check_writable(find_store(tracking_uri or None))
        from benchmarks.experiments import check_early
        from benchmarks.fetch import fetch_needed
        from benchmarks.session import Session
        from benchmarks.tracking import Tracker, cell_record

        workspace = pop_workspace(options)
        suite, experiments = pop_experiments(options, workspace.device)
        # A mistake that is found now costs nothing; later, it would cost a download.
        check_early(experiments, workspace)
        tracker = Tracker(tracking_uri or None, say)
        with pop_executor(options, workspace) as executor:
            session = Session(
                workspace,
                tracker,
                suite=suite,
                force=force,
                executor=executor,
                progress=progress,
                say=say,
            )
            skipped = fetch_needed(
                experiments, workspace, progress, lambda: session.check(experiments)
            )
            wanted = [one for one in experiments if one.key not in skipped]
            cells = session.resolve(wanted)
            batches = session.plan(cells)
            session.say_what_is_used(cells)
            session.say_what_is_seen(cells)
            with session:
                session.run(batches)
                outcome = session.close(cells)
    for reason in dict.fromkeys(skipped.values()):
        click.echo(f"skipped: {reason}", err=True)
    if as_json:
        records = [
            {"run_id": cell.run_id, **cell_record(cell.results, cell.mean, cell.selection)}
            for cell in outcome.cells
        ]
        click.echo(json.dumps({"runs": records}, indent=2))
    else:
        for table in outcome.tables.values():
            table.print()
            click.echo()
        if outcome.cells and not outcome.tracking_error:
            _say_where(outcome, tracker, tracking_uri)
    if outcome.tracking_error:
        raise outcome.tracking_error
    errors = list(outcome.failures.values())
    if not outcome.cells and errors and isinstance(errors[0], UsageError | MissingDataError):
        raise errors[0]  # for its exit code
    if outcome.failures:
        raise click.ClickException(
            f"{len(outcome.failures)} of {len(experiments)} runs failed, see above"
        )


def _say_where(outcome: Any, tracker: Any, tracking_uri: str) -> None:
    """Say where the runs are, and how to look at them."""
    from benchmarks.commands.page import how_to_look, main_views
    from benchmarks.tracking import find_store

    runs = f"{len(outcome.cells)} runs and their" if len(outcome.cells) > 1 else "1 run and its"
    click.echo(f"{runs} summary are in {tracker.address}")
    if outcome.looked_up:
        click.echo(f"{outcome.looked_up} of {len(outcome.cells)} had been computed before")
    store = find_store(tracking_uri or None)
    views = main_views(outcome.views)
    click.echo(how_to_look(store, outcome.experiment_id, tracking_uri, views))
