"""``plan``: what a run would do, before it does it."""

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


@click.command()
@experiment_options
@workspace_options
@tracking_option
@json_option
def plan(tracking_uri: str, as_json: bool, **options: Any) -> None:
    """Show what a run would compute, which of it is finished, and what it will cost.

    Time and memory are those of earlier runs of the same kind. Nothing is computed or fetched.
    """
    from benchmarks.commands.progress import LOADING, show_progress

    with show_progress(LOADING) as progress:
        from benchmarks.experiments import check_early
        from benchmarks.planning import plan_cells
        from benchmarks.tracking import Tracker

        workspace = pop_workspace(options)
        _, experiments = pop_experiments(options, workspace.device)
        check_early(experiments, workspace)  # as `run` does
        progress("looking up what is there", 0, 0)
        say = lambda line: click.echo(line, err=True)  # noqa: E731
        cells = plan_cells(experiments, workspace, Tracker(tracking_uri or None), say)
    if as_json:
        click.echo(json.dumps({"cells": [cell.record() for cell in cells]}, indent=2))
        return
    params_of = [
        {name: str(value) for name, value in cell.experiment.params.items() if name != "input"}
        for cell in cells
    ]
    shared = (
        dict(set.intersection(*(set(params.items()) for params in params_of)))
        if len(params_of) > 1
        else {}
    )
    if same := [
        f"{name}={value}"
        for name, value in params_of[0].items()
        if name in shared and value not in ("none", "all", "test")
    ]:
        click.echo(f"all runs: {' '.join(same)}")
    click.echo(f"{'status':<10} {'features':<18} {'seconds':>8} {'MB':>7}  run")
    for cell, params in zip(cells, params_of, strict=True):
        seconds = "unknown" if cell.seconds is None else f"{cell.seconds:.0f}"
        megabytes = "unknown" if cell.megabytes is None else f"{cell.megabytes:.0f}"
        own = " ".join(f"{name}={value}" for name, value in params.items() if name not in shared)
        click.echo(f"{cell.status:<10} {cell.features:<18} {seconds:>8} {megabytes:>7}  {own}")
    known = [cell.seconds for cell in cells if cell.status == "pending"]
    total = "unknown" if None in known else f"{sum(known):.0f} s"  # type: ignore[arg-type]
    click.echo(f"{len(cells)} runs, {len(known)} pending; time left: {total}")
