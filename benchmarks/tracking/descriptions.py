"""Descriptions of runs and of the experiment: the table that was printed, and links to views.

MLflow shows them as Markdown, above the runs or the run.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.tracking.views import KINDS, view_link

NOTE = "mlflow.note.content"
"""The tag that holds a description."""

OURS = "DN2 benchmark"
"""The first words of a description that we wrote. Another one is the user's, and stays."""

LONGEST_OF_EXPERIMENT, LONGEST_OF_RUN = 5000, 8000
"""MLflow's limits for the value of a tag, in letters."""

LINKS = 0.5
"""The largest part of a description that may be links."""

CUT = "…"


def describe(
    title: str,
    text: str,
    views: Mapping[str, str],
    experiment_id: str,
    longest: int,
) -> str:
    """Return a description: a title, links to views, and a text as it was printed.

    Whatever does not fit is left out: lines of the text from its end, and links to a subject's
    views.

    Parameters
    ----------
    title : str
        One line.
    text : str
        Shown letter by letter, whatever is in it.
    views : mapping
        Key -> name.
    experiment_id : str
    longest : int
        The most letters.
    """
    by_subject: dict[str, list[str]] = {}
    for key, name in views.items():
        subject, _, kind = name.rpartition(" ")
        if kind not in KINDS:
            subject, kind = "", name
        link = f"[{_plain(kind)}]({view_link(experiment_id, key)})"
        by_subject.setdefault(subject, []).append(link)
    links: list[str] = []
    for subject, of_subject in by_subject.items():
        shown = f"{_plain(subject)}: {', '.join(of_subject)}" if subject else ", ".join(of_subject)
        if sum(map(len, links)) + len(shown) > longest * LINKS:
            continue
        links.append(f"- {shown}\n")
    head = f"**{OURS}** {_plain(title)}\n\n{''.join(links)}\n"
    fence = "```"
    while fence in text:
        fence += "`"
    left = longest - len(head) - 2 * len(fence) - len(f"text\n\n{CUT}\n\n")
    lines, shown = text.rstrip("\n").split("\n"), []
    for line in lines:
        left -= len(line) + 1
        if left < 0:
            shown.append(CUT)
            break
        shown.append(line)
    body = "\n".join(shown)
    return f"{head}{fence}text\n{body}\n{fence}\n"[:longest]


def is_ours(note: str) -> bool:
    """Tell whether a description may be replaced: there is none, or we wrote it."""
    return not note.strip() or note.startswith(f"**{OURS}**")


def _plain(text: str) -> str:
    """Write text so that neither Markdown nor HTML finds anything in it."""
    for letter, name in {"&": "&amp;", "<": "&lt;", ">": "&gt;"}.items():
        text = text.replace(letter, name)
    marked = "".join(f"\\{letter}" if letter in "\\`*_{}[]()#+-.!|" else letter for letter in text)
    return " ".join(marked.split())
