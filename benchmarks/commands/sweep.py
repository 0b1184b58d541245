"""``sweep``: a study of parameters in, its best on the test partition out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import click

from benchmarks.commands.options import (
    CommaList,
    executor_options,
    json_option,
    pop_executor,
    pop_workspace,
    tracking_option,
    workspace_options,
)
from benchmarks.contracts import UsageError, Workspace

if TYPE_CHECKING:
    from benchmarks.sweep import Question, SweepOutcome

LITES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
ENCODERS = tuple("+".join(joined) for number in (1, 2, 3) for joined in combinations(LITES, number))
"""Those whose weights a package registry has, and all that can be joined of them."""

BEST_SHOWN, WIDE = 10, 120


@click.command()
@click.option("--dataset", metavar="NAME", default="cifar10", show_default=True)
@click.option("--protocol", metavar="NAME", default="one_vs_rest", show_default=True)
@click.option("--detector", metavar="NAME", default="dn2", show_default=True)
@click.option(
    "--variant", metavar="NAME", default="", help="A named variant of the detector. [none]"
)
@click.option(
    "--trials",
    type=int,
    default=None,
    help="So many the study has in the end. [the whole grid; without one, 60]",
)
@click.option(
    "--sampler",
    metavar="NAME",
    default="",
    help="brute, tpe, random or gp. [brute for a grid, else tpe]",
)
@click.option(
    "--objective",
    metavar="NAME",
    default="validation",
    show_default=True,
    help="validation: folds of the training partition choose, and the winner is tested once. oracle: the test labels choose.",
)
@click.option(
    "--encoders",
    type=CommaList(),
    default="",
    help="a+b joins them. [three EfficientNet-Lites and their joins]",
)
@click.option("--k-values", type=CommaList(int), default="", help="[1,2,3,5,10,20,50]")
@click.option("--normalize", type=CommaList(), default="none,l2,power", show_default=True)
@click.option(
    "--clean",
    type=CommaList(float),
    default="",
    help="Shares of the training rows that DN2 drops. [0]",
)
@click.option(
    "--sizes",
    type=CommaList(int),
    default="",
    help="Sides in pixels for detectors on pixels. [the images' own]",
)
@click.option(
    "--preset",
    metavar="NAME",
    default="paper",
    show_default=True,
    help="Of trained detectors: paper, cpu.",
)
@click.option("--classes", type=CommaList(), default="", help="Only these take their turn. [all]")
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of folds, sampler and detector."
)
@click.option(
    "--storage",
    metavar="URL",
    default="",
    help="sqlite:///FILE or postgresql://... [a journal in DN2_HOME/studies]",
)
@click.option(
    "--study", metavar="NAME", default="", help="[after data set, protocol, detector and objective]"
)
@workspace_options
@executor_options
@tracking_option
@json_option
def sweep(tracking_uri: str, as_json: bool, **options: Any) -> None:
    """Search a detector's parameters with Optuna, each trial an MLflow run, and test the winner.

    Tuned on the training partition alone; `--objective oracle` tunes on the test labels and says so. What is finished is looked
    up; the same command continues what was broken off, and several at once share a study.
    """
    from benchmarks.commands.progress import show_progress
    from benchmarks.session import Session
    from benchmarks.sweep import (
        StudyPlan,
        check_storage,
        check_study_name,
        choose_sampler,
        what_fits,
    )
    from benchmarks.sweep import sweep as run_study
    from benchmarks.tracking import Tracker, find_store

    workspace = pop_workspace(options)
    storage, study = options.pop("storage"), options.pop("study")
    sampler, trials = options.pop("sampler"), options.pop("trials")
    question = _question(options, workspace)
    find_store(tracking_uri or None)
    check_storage(storage)
    choose_sampler(sampler, question, trials)
    check_study_name(study or question.study_name())
    tracker = Tracker(tracking_uri or None)
    with pop_executor(options, workspace) as executor, show_progress() as progress:
        question, skipped = _made_ready(question, workspace, progress)
        for reason in skipped:
            click.echo(f"skipped: {reason}", err=True)
        name = study or question.study_name()
        say = lambda line: click.echo(line, err=True)  # noqa: E731
        session = Session(
            workspace, tracker, suite=name, executor=executor, progress=progress, say=say
        )
        question, left_out = what_fits(question, lambda cell: session.plan(session.resolve([cell])))
        for reason in left_out:
            click.echo(f"left out: {reason}", err=True)
        plan = StudyPlan(name, *choose_sampler(sampler, question, trials), storage)
        found = run_study(question, plan, session)
    if as_json:
        click.echo(json.dumps(found.record(), indent=2))
    else:
        _print(found, tracker)
    if found.outcome.tracking_error:
        raise found.outcome.tracking_error
    if found.outcome.failures:
        raise click.ClickException(f"{len(found.outcome.failures)} trials failed, see above")


def _question(options: dict[str, Any], workspace: Workspace) -> Question:
    """What is asked, all of it checked that needs neither data nor weights."""
    from benchmarks.contracts import check_name
    from benchmarks.datasets import check_dataset
    from benchmarks.detectors import DETECTORS, detector_input
    from benchmarks.experiments import check_early
    from benchmarks.protocols import PROTOCOLS
    from benchmarks.sweep import Question, make_space

    dataset, detector, variant = (options.pop(name) for name in ("dataset", "detector", "variant"))
    encoders, normalize = options.pop("encoders"), options.pop("normalize")
    check_dataset(dataset)
    check_name(detector, DETECTORS, "detector")
    if encoders and detector_input(detector, variant, dataset) != "features":
        raise UsageError(
            f"--encoders is for detectors on features, and '{detector}' looks at pixels: leave it out."
        )
    space = make_space(
        detector,
        variant,
        dataset,
        encoders=encoders or ENCODERS,
        normalize=normalize,
        **{name: options.pop(name) for name in ("sizes", "k_values", "clean")},
    )
    question = Question(
        dataset=dataset,
        protocol=check_name(options.pop("protocol"), PROTOCOLS, "protocol"),
        detector=detector,
        variant=variant,
        space=space,
        device=workspace.device,
        **{name: options.pop(name) for name in ("preset", "classes", "seed", "objective")},
    )
    question.check()
    check_early(question.probes(), workspace)
    return question


def _made_ready(
    question: Question, workspace: Workspace, progress: Any
) -> tuple[Question, Sequence[str]]:
    """Fetch data and weights; encoders without weights are left out of the space, with the reasons."""
    from dataclasses import replace

    from benchmarks.fetch import fetch_needed

    encoders = question.space.get("encoder", (None,))
    probes = {
        encoder: question.cell(
            {**question.first, **({} if encoder is None else {"encoder": encoder})}
        )
        for encoder in encoders  # type: ignore[union-attr]
    }
    reasons = fetch_needed(list(probes.values()), workspace, progress)
    if not reasons:
        return question, ()
    left = tuple(encoder for encoder, cell in probes.items() if cell.key not in reasons)
    return replace(question, space={**question.space, "encoder": left}), tuple(
        dict.fromkeys(reasons.values())
    )


def _print(found: SweepOutcome, tracker: Any) -> None:
    """The best ten trials, the winner's number, and where to look."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from benchmarks.report import percent
    from benchmarks.tracking import ui_link

    table = found.table
    best = sorted(table.done, key=lambda trial: (-(trial.value or 0.0), trial.number))[:BEST_SHOWN]
    grid = Table(box=box.SIMPLE, show_edge=False, pad_edge=False)
    varied = [
        name
        for name, values in found.question.space.items()
        if not isinstance(values, tuple) or len(values) > 1
    ]
    for name in ("trial", *varied, f"{found.question.metric} (%)"):
        grid.add_column(
            Text(name),
            justify="left" if name in ("encoder", "normalize") else "right",
            overflow="fold",
        )
    for trial in best:
        grid.add_row(
            str(trial.number),
            *(str(trial.params[name]) for name in varied),
            percent(trial.value, decimals=2),
        )
    console = Console()
    if not console.is_terminal:
        console.width = WIDE  # three joined encoders would be folded
    points = f" of a grid of {found.question.size}" if found.question.size else ""
    console.print(f"{found.study}: the best of {len(table.done)} trials{points}")
    console.print(grid)
    for table_of_winner in found.outcome.tables.values():
        click.echo()
        table_of_winner.print()
    if found.best is not None:
        _print_best(found)
    if not found.outcome.tracking_error:
        link = ui_link(
            found.outcome.experiment_id,
            *([tracker.address] if tracker.address.startswith("http") else []),
        )
        click.echo(
            f"Trials, figures and the table are in {tracker.address}: python -m benchmarks ui, then\n  {link}"
        )


def _print_best(found: SweepOutcome) -> None:
    from benchmarks.report import percent
    from benchmarks.sweep import best_record

    record = best_record(found.question, found.best, found.winner)  # type: ignore[arg-type]
    params = ", ".join(f"{name}={value}" for name, value in record["params"].items())
    if found.question.objective == "oracle":
        click.echo(
            f"Best: {params}: {percent(record['rocauc'], decimals=2)} %, chosen on the test labels (oracle)."
        )
    else:
        validation, tested = (
            percent(record[name], decimals=2) for name in ("rocauc_validation", "rocauc")
        )
        click.echo(
            f"Winner: {params}: {validation} % in validation, {tested} % on the test partition."
        )
