"""``run``: cells in, a table beside the paper's numbers out."""

from __future__ import annotations

import json
from typing import Any

import click

from benchmarks.commands.options import (
    experiment_options,
    json_option,
    pop_experiments,
    pop_workspace,
    tracking_option,
    workspace_options,
)
from benchmarks.contracts import Experiment, MissingDataError, UsageError, Workspace


@click.command()
@experiment_options
@workspace_options
@tracking_option
@click.option("--force", is_flag=True, help="Compute again what is finished.")
@json_option
def run(tracking_uri: str, force: bool, as_json: bool, **options: Any) -> None:
    """Run cells, log them to MLflow, and print their ROCAUC beside the paper's.

    Lists make one cell for each combination: --k 1,2,5 --normalize none,l2 is six. What is finished is looked up; what was
    killed continues.
    """
    from benchmarks.commands.progress import show_progress
    from benchmarks.report import result_tables
    from benchmarks.session import run_session
    from benchmarks.tracking import Tracker, cell_record, find_store

    workspace = pop_workspace(options)
    find_store(tracking_uri or None)  # a wrong address costs nothing now, and a download if it is found out later
    suite, experiments = pop_experiments(options)
    with show_progress() as progress:
        skipped = fetch_what_is_missing(experiments, workspace, progress)
        outcome = run_session(
            [experiment for experiment in experiments if experiment.key not in skipped],
            workspace,
            Tracker(tracking_uri or None),
            suite=suite,
            force=force,
            progress=progress,
            say=lambda line: click.echo(line, err=True),
        )
    for reason in dict.fromkeys(skipped.values()):
        click.echo(f"skipped: {reason}", err=True)
    if as_json:
        records = [{"run_id": cell.run_id, **cell_record(cell.results, cell.mean, cell.selection)} for cell in outcome.cells]
        click.echo(json.dumps({"runs": records}, indent=2))
    else:
        for table in result_tables(outcome.cells).values():
            table.print()
            click.echo()
        _say_where(outcome, tracking_uri)
    if outcome.tracking_error:
        raise outcome.tracking_error
    errors = list(outcome.failures.values())
    if not outcome.cells and errors and isinstance(errors[0], UsageError | MissingDataError):
        raise errors[0]  # for its exit code
    if outcome.failures:
        raise click.ClickException(f"{len(outcome.failures)} of {len(experiments)} cells failed, see above")


def fetch_what_is_missing(experiments: list[Experiment], workspace: Workspace, progress: Any) -> dict[str, str]:
    """Fetch data and weights; of several data sets or encoders, those that cannot be had are skipped: returns key -> reason.

    Raises
    ------
    MissingDataError, MissingWeightsError
        If that leaves nothing to run.
    """
    from benchmarks.datasets import is_on_disk
    from benchmarks.fetch import fetch_dataset, fetch_weights
    from benchmarks.inputs import encoder_names
    from dn2.encoders import MissingWeightsError, find_weights, get_encoder

    missing: dict[str, MissingDataError | MissingWeightsError] = {}
    if workspace.root is None:
        for name in dict.fromkeys(experiment.dataset for experiment in experiments):
            if not is_on_disk(name, home=workspace.home):
                try:
                    fetch_dataset(name, home=workspace.home, progress=progress)
                except MissingDataError as error:
                    missing[name] = error
    for encoder in dict.fromkeys(name for experiment in experiments for name in encoder_names(experiment.input)):
        try:
            find_weights(get_encoder(encoder), workspace.home / "weights", workspace.weights)
        except MissingWeightsError as not_here:
            try:
                if workspace.weights is not None:
                    raise not_here
                fetch_weights(encoder, home=workspace.home, progress=progress)
            except MissingWeightsError as error:
                missing[encoder] = error
    skipped = {}
    for experiment in experiments:
        needs = [experiment.dataset, *encoder_names(experiment.input)]
        reasons = [missing[name] for name in needs if name in missing]
        if reasons:
            skipped[experiment.key] = str(reasons[0])
    if len(skipped) == len(experiments):
        raise next(iter(missing.values()))
    return skipped


def _say_where(outcome: Any, tracking_uri: str) -> None:
    """Where the runs are, and how to look at them."""
    from benchmarks.tracking import Tracker, ui_link

    address = Tracker(tracking_uri or None).address
    click.echo(f"{len(outcome.cells)} runs and their summary are in {address}")
    if address.startswith("http"):
        click.echo(f"Look at them:\n  {ui_link(outcome.experiment_id, address)}")
    else:
        option = f" --tracking-uri {tracking_uri}" if tracking_uri else ""
        click.echo(f"Look at them: python -m benchmarks ui{option}, then\n  {ui_link(outcome.experiment_id)}")
