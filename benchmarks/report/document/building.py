"""Put a report together: from a tracking store, or from files of results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.comparison import Run, read_runs
from benchmarks.contracts import (
    MissingDataError,
    OutsideError,
    Progress,
    UsageError,
    Workspace,
)
from benchmarks.datasets import is_on_disk
from benchmarks.report.document.difference_section import difference_section
from benchmarks.report.document.measured import Measured
from benchmarks.report.document.neighbour_section import (
    Looked,
    copy_section,
    look,
    picture_section,
)
from benchmarks.report.document.overview import overview_section
from benchmarks.report.document.paper_sections import choose, paper_sections
from benchmarks.report.document.parts import Document, Section
from benchmarks.report.document.score_section import score_section
from benchmarks.report.document.settings_section import settings_section, speed_section
from benchmarks.report.document.stored_runs import Found
from benchmarks.tracking import Tracker, TrackingError

TITLE = "DN2 benchmark: results"

TESTED_OF_SUBJECT = 8
"""Runs of a data set and protocol whose scores are read: for tests, ROC curves, histograms."""

TESTED = 64
"""Runs of a whole report whose scores are read."""

LOOKED_AT = ("one_vs_rest", "leave_one_class_out")
"""Protocols whose worst errors are shown."""


def document_of_store(
    tracker: Tracker,
    found: Found,
    workspace: Workspace,
    server: str = "",
    progress: Progress | None = None,
) -> Document:
    """Make the report of a tracking store.

    Parameters
    ----------
    tracker : Tracker
    found : Found
        What the store has.
    workspace : Workspace
        Where data sets and features are looked for, for pictures.
    server : str
        The address of the store's page; empty if none is known.
    progress : callable, optional

    Raises
    ------
    TrackingError
        If the store does not answer.
    """
    problems: list[str] = []
    labelled, left = _scored(tracker, found, problems.append, progress)
    runs = [run for _, run in labelled]
    looked = list(_look(tracker, labelled, workspace, problems.append))
    sections = [
        overview_section(
            found.measured,
            found.unfinished,
            [*found.problems, *problems],
            lambda name: _is_here(name, workspace.home),
        ),
        *paper_sections(found.measured),
        settings_section(found.measured),
        speed_section(found.measured),
        _with(difference_section(runs, progress), left),
        _with(score_section(labelled), left),
        picture_section(looked),
        copy_section(looked, labelled),
    ]
    now = datetime.now(UTC)
    about = (
        f"Made from the tracking store on {now:%Y-%m-%d at %H:%M} UTC. Numbers are ROCAUC in "
        "percent; published ones are as the DN2 paper prints them.",
    )
    paths = {
        run_id: f"#/experiments/{run.experiment_id}/runs/{run_id}"
        for run_id, run in found.stored.items()
    }
    return Document(TITLE, about, tuple(sections), paths, server)


def document_of_files(measured: Sequence[Measured], named: Sequence[str]) -> Document:
    """Make the report of files of results, which have no scores.

    Parameters
    ----------
    measured : sequence of Measured
    named : sequence of str
        The files.
    """
    why = "Files of results hold no scores: make the report from the tracking store."
    sections = [
        overview_section(measured, {}, [], None),
        *paper_sections(measured),
        settings_section(measured),
        speed_section(measured),
        *(
            Section(name, title, missing=(why,))
            for name, title in (
                ("differences", "Which differences are real"),
                ("scores", "Scores"),
                ("pictures", "The worst errors"),
                ("copies", "Test images that training has seen"),
            )
        ),
    ]
    about = (
        f"Made from {', '.join(named)}. Numbers are ROCAUC in percent; published ones are as the "
        "DN2 paper prints them.",
    )
    return Document(TITLE, about, tuple(sections))


def _with(section: Section, left: Sequence[str]) -> Section:
    return Section(
        section.name,
        section.title,
        section.text,
        section.parts,
        (*section.missing, *left),
        section.commands,
    )


def _is_here(name: str, home: Path) -> bool:
    try:
        return is_on_disk(name, home=home)
    except (UsageError, MissingDataError, OutsideError, OSError, ValueError):
        return False


def _scored(
    tracker: Tracker, found: Found, say: Callable[[str], None], progress: Progress | None
) -> tuple[list[tuple[str, Run]], list[str]]:
    """Read the scores of some runs of each subject, with their labels; say what is left."""
    subjects: dict[tuple[str, str], list[Measured]] = {}
    for one in found.measured:
        subjects.setdefault(one.subject, []).append(one)
    each = min(TESTED_OF_SUBJECT, max(2, TESTED // max(len(subjects), 1)))
    chosen, left = [], []
    for subject, here in subjects.items():
        shown = choose(here, each)
        chosen += [(one.label, run_id) for one in shown for run_id in one.runs[:1]]
        if len(here) > len(shown):
            left.append(
                f"{', '.join(subject)}: {len(shown)} of {len(here)} results, those nearest to "
                "each method's usual settings. To compare all: python -m benchmarks compare "
                f"dataset={subject[0]},protocol={subject[1]}"
            )
    chosen = chosen[:TESTED]
    labels = {run_id: label for label, run_id in chosen}
    stored = [found.stored[run_id] for _, run_id in chosen]
    runs = read_runs(tracker, stored, lambda line: say(line[:1].upper() + line[1:]), progress)
    return [(labels[run.stored.run_id], run) for run in runs], left


def _look(
    tracker: Tracker,
    labelled: Sequence[tuple[str, Run]],
    workspace: Workspace,
    say: Callable[[str], None],
) -> list[Looked]:
    """Open the data of one run of each data set: the first that has neighbours."""
    looked: dict[str, Looked] = {}
    for label, run in labelled:
        name = str(run.params["dataset"])
        if run.params["protocol"] not in LOOKED_AT or run.is_curve:
            continue
        if name in looked and not looked[name].why_not:
            continue
        try:
            neighbours = tracker.read_neighbours(run.stored)
        except TrackingError as error:
            say(f"Left out: {error}.")
            continue
        opened = look(label, run, neighbours, workspace)
        if name not in looked or not opened.why_not:
            looked[name] = opened
    return list(looked.values())
