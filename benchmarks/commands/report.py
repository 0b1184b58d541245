"""``report``: a page with all results, or tables and figures for a paper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.commands.options import home_option, say, tracking_option

if TYPE_CHECKING:
    from benchmarks.commands.progress import Display
    from benchmarks.report.document.measured import Measured
    from benchmarks.report.document.parts import Document

FORMATS = ("html", "markdown", "latex", "csv")
RESULTS = "results.csv"


@click.command()
@click.option(
    "--out",
    metavar="DIR",
    default="site",
    show_default=True,
    help="The folder to write to. Files of other names stay there.",
)
@click.option(
    "--format",
    "formats",
    default="html",
    show_default=True,
    help="html: one page, index.html. markdown, latex, csv: a file for each table. latex: also the "
    "figures, as SVG and PDF. csv: also results.csv, every number with its command. Commas "
    "separate several.",
)
@click.option(
    "--from",
    "source",
    metavar="DIR",
    default="",
    help="Make the report from the results.csv files of a folder, such as results/, in place of "
    "the tracking store. There are no scores in them.",
)
@click.option(
    "--filter",
    "asked",
    metavar="NAME=VALUE,...",
    default="",
    help="Only runs with these parameters: dataset=cifar10,detector=dn2.",
)
@click.option(
    "--update",
    metavar="FILE",
    multiple=True,
    help="Write the tables between the markers of a Markdown file again, from the files of --from.",
)
@home_option
@tracking_option
def report(
    out: str,
    formats: str,
    source: str,
    asked: str,
    update: tuple[str, ...],
    home: Path,
    tracking_uri: str,
) -> None:
    """Make a page of all results, or tables and figures for a paper.

    The page works from a file, without network. It shows every table and figure of the paper with
    our numbers, what is missing, which differences are real, and the worst errors as pictures,
    where the data are on this disk. Nothing is computed again.
    """
    chosen = _formats(formats)
    if update and not source:
        from benchmarks.contracts import UsageError

        raise UsageError("--update makes tables from files of results: name them, --from results.")
    from benchmarks.commands.progress import show_progress

    with show_progress("making the report") as progress:
        if source:
            document, results = _of_files(Path(source), asked, update)
        else:
            document, results = _of_store(tracking_uri, home, asked, progress)
        folder = Path(out)
        written = _write(document, results, chosen, folder)
    if not source:
        _attach(tracking_uri, written, folder)
    for path in written[:3]:
        click.echo(str(path))
    if len(written) > 3:
        click.echo(f"and {len(written) - 3} more files in {folder}")


def _formats(text: str) -> list[str]:
    from benchmarks.contracts import UsageError, check_name

    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(f"--format needs a name, got none: write --format {FORMATS[0]}.")
    return [check_name(name, FORMATS, "format") for name in dict.fromkeys(names)]


def _of_store(tracking_uri: str, home: Path, asked: str, progress: Display) -> tuple[Document, str]:
    """Make the report of a tracking store, and the text of its file of results."""
    from benchmarks.commands.page import find_page
    from benchmarks.contracts import Workspace
    from benchmarks.report.document.building import document_of_store
    from benchmarks.report.document.measured import write_rows
    from benchmarks.report.document.stored_runs import read_store
    from benchmarks.tracking import Tracker, find_store
    from benchmarks.tracking.connection import check_there_is_a_store

    store = find_store(tracking_uri or None)
    check_there_is_a_store(store)
    base = store if store.startswith(("http://", "https://")) else find_page(store)
    tracker = Tracker(tracking_uri or None, say)
    progress("reading runs", 0, 0)
    found = read_store(tracker, progress)
    found = replace(found, measured=_filtered(found.measured, asked))
    document = document_of_store(tracker, found, Workspace(home), base or "", progress)
    return document, write_rows(found.measured)


def _of_files(folder: Path, asked: str, update: tuple[str, ...]) -> tuple[Document, str]:
    """Make the report of files of results, and write tables of Markdown files again."""
    from benchmarks.contracts import MissingDataError, OutsideError
    from benchmarks.report.document.building import document_of_files
    from benchmarks.report.document.measured import read_rows, write_rows
    from benchmarks.report.document.printed import DEFINITIONS, printed_page, read_definitions
    from dn2.files import write_atomically

    files = sorted(folder.glob("*.csv"))
    if not files:
        raise MissingDataError(
            f"--from {folder} has no file of results: make one with `report --format csv`."
        )
    measured = _filtered(read_rows(files), asked)
    definitions = read_definitions(folder / DEFINITIONS) if update else {}
    for page in update:
        try:
            text = Path(page).read_text(encoding="utf-8")
            write_atomically(Path(page), printed_page(text, measured, definitions).encode())
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no UTF-8"
            raise OutsideError(f"cannot update {page} ({reason}): name a Markdown file") from error
    return document_of_files(measured, [file.name for file in files]), write_rows(measured)


def _filtered(measured: Sequence[Measured], asked: str) -> tuple[Measured, ...]:
    """Keep the results that have all values that are asked for."""
    from benchmarks.contracts import UsageError

    kept = list(measured)
    for condition in filter(None, asked.split(",")):
        name, equals, value = (part.strip() for part in condition.partition("="))
        if not (name and equals and value):
            raise UsageError(
                f"--filter takes NAME=VALUE, got '{condition}': write --filter detector=dn2."
            )
        kept = [one for one in kept if str(_value(one, name)) == value]
        if not kept:
            values = sorted({str(_value(one, name)) for one in measured} - {"None"})
            there = f"there are {', '.join(values[:10])}" if values else f"no run has '{name}'"
            raise UsageError(f"no result has {condition.strip()}: {there}.")
    return tuple(kept)


def _value(one: Measured, name: str) -> Any:
    names = ("dataset", "protocol", "detector", "variant", "preset", "selection")
    return getattr(one, name) if name in names else one.settings.get(name)


def _write(document: Document, results: str, formats: list[str], folder: Path) -> list[Path]:
    """Write a report in each format, and return the files."""
    from benchmarks.contracts import OutsideError
    from dn2.files import write_atomically

    written = []
    try:
        for name in formats:
            for place, content in _contents(document, results, name):
                path = folder / place
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, content)
                written.append(path)
    except OSError as error:
        raise OutsideError(
            f"cannot write the report to {folder} ({error.strerror}): name another with --out"
        ) from error
    return written


def _contents(document: Document, results: str, name: str) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a format: name and content."""
    if name == "html":
        from benchmarks.report.document.html_page import html_page

        yield "index.html", html_page(document).encode()
    elif name == "markdown":
        from benchmarks.report.document.markdown_text import markdown_page, markdown_table

        yield "report.md", markdown_page(document).encode()
        for grid in document.grids:
            yield f"tables/{grid.name}.md", markdown_table(grid).encode()
    elif name == "latex":
        from benchmarks.report.document.latex_text import latex_tables
        from benchmarks.report.document.plotted import as_files

        for table, text in latex_tables(document).items():
            yield f"tables/{table}.tex", text.encode()
        for chart in document.charts:
            for suffix, content in as_files(chart).items():
                yield f"figures/{chart.name}.{suffix}", content
    else:
        from benchmarks.report.document.table_files import csv_table

        yield RESULTS, results.encode()
        for grid in document.grids:
            yield f"tables/{grid.name}.csv", csv_table(grid).encode()


def _attach(tracking_uri: str, written: list[Path], folder: Path) -> None:
    """Log the report with the newest summary run, or with the run that `mlflow run` opened."""
    from benchmarks.tracking import Tracker, TrackingError

    files = {str(path.relative_to(folder)): path for path in written}
    try:
        run_id = Tracker(tracking_uri or None, say).attach_report(files)
    except TrackingError as error:
        click.echo(f"the report is written, but not logged: {error}", err=True)
    else:
        if run_id is None:
            click.echo("not logged: the store has no summary run to log the report with", err=True)
