"""``compare``: whether one run is really better than another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from benchmarks.commands.options import FRACTION, Number, json_option, say, tracking_option
from benchmarks.contracts import OutsideError, UsageError

PICTURES = (".png", ".pdf", ".svg")


@click.command()
@click.argument("runs", nargs=-1, metavar="RUN RUN ...")
@tracking_option
@click.option(
    "--figure",
    metavar="FILE",
    default="",
    help="Save the critical-difference diagram of three or more methods on several data sets: "
    ".png, .pdf or .svg.",
)
@click.option(
    "--fail-if-worse",
    metavar="FRACTION",
    type=Number(FRACTION, "0.005"),
    default=None,
    help="Exit with 1 if a later run's mean ROCAUC is below that of the first by more than this "
    "and the difference is real, its corrected p below 0.05; also if one cannot be compared with "
    "the first run of its data set, or has lost its scores.",
)
@json_option
def compare(
    runs: tuple[str, ...],
    tracking_uri: str,
    figure: str,
    fail_if_worse: float | None,
    as_json: bool,
) -> None:
    """Test whether one finished run is really better than another.

    A RUN is an MLflow run's id, its name, or a filter on parameters and tags that stands for all
    runs that match: detector=dn2,normalize=l2. The newest finished run of each cell is taken, of
    the test partition unless the filter names another.

    All runs scored the same test images, so their differences are tested in pairs: DeLong's test
    for a class, a bootstrap over the test images for the mean. Runs on other data, splits or test
    rows are kept apart. Nothing is computed again.
    """
    if not runs:
        raise UsageError(
            "compare needs runs: name two by id or name, or give a filter such as detector=dn2."
        )
    if figure and Path(figure).suffix not in PICTURES:
        raise UsageError(
            f"--figure must end in {', '.join(PICTURES)}, got '{figure}': write --figure ranks.png."
        )
    from benchmarks.tracking import find_store
    from benchmarks.tracking.connection import check_there_is_a_store

    check_there_is_a_store(find_store(tracking_uri or None))
    click.echo("reading runs ...", err=True)
    from benchmarks.commands.progress import show_progress
    from benchmarks.comparison import compare as compare_runs
    from benchmarks.comparison import load_runs
    from benchmarks.report.differences import comparison_record, print_comparison
    from benchmarks.tracking import Tracker

    left_out: list[str] = []

    def say_left_out(line: str) -> None:
        left_out.append(line)
        click.echo(line, err=True)

    with show_progress() as progress:
        tracker = Tracker(tracking_uri or None, say)
        loaded = load_runs(tracker, runs, say_left_out, progress)
        comparison = compare_runs(loaded, progress)
    if figure:
        _draw(comparison, Path(figure))
    if as_json:
        click.echo(json.dumps(comparison_record(comparison), indent=2))
    else:
        print_comparison(comparison)
    if fail_if_worse is not None:
        _check(comparison, fail_if_worse)
        if left_out:
            raise click.ClickException(f"{len(left_out)} run(s) had no scores, see above")


def _draw(comparison: Any, file: Path) -> None:
    """Save the diagram of the first ranking."""
    from benchmarks.report.differences import draw_ranking

    if not comparison.rankings:
        raise UsageError(
            "--figure draws the ranks of at least 3 methods that were run on at least 2 data sets, "
            "and these runs have none: leave it out."
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        draw_ranking(comparison.rankings[0]).savefig(file, dpi=150, bbox_inches="tight")
    except OSError as error:
        raise OutsideError(f"cannot write {file} ({error.strerror}): name another file") from error


def _check(comparison: Any, least: float) -> None:
    """Fail if a run is really worse than the first of its data set, or not compared with it."""
    from benchmarks.report.tables import percent

    first: dict[str, str] = {}
    for group in comparison.groups:
        if group.subject in first:
            raise click.ClickException(
                f"run '{group.runs[0].stored.name}' was not compared with {first[group.subject]}, "
                "see above"
            )
        first[group.subject] = group.labels[0]
        for number in range(1, len(group.runs)):
            tested = group.pair(0, number)
            if tested.real and tested.difference.value > least:
                raise click.ClickException(
                    f"{group.labels[number]} is worse than {group.labels[0]} by "
                    f"{percent(tested.difference.value, decimals=2)} points on {group.subject}, "
                    f"more than {percent(least, decimals=2)}"
                )
    if comparison.alone:
        raise click.ClickException(
            f"run '{comparison.alone[0].stored.name}' was compared with no other, see above"
        )
