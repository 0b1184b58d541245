"""What the MLflow page shows first: saved views, and descriptions.

MLflow keeps a saved view as a tag of the experiment, and lists it in the page's menu *Views*. The
tag's value is JSON text, and holds the page's state as JSON text again, which the page itself
writes compressed. `view_tags` makes these tags; everything here is a pure function of its
arguments. A version of MLflow that does not know such tags ignores them.

    result_views   of one data set and protocol: leaderboard, charts, parameters; or curves
    study_view     of one study of a sweep
    view_tags      views as tags, without those that are there already
    view_link      the address that opens a view
    describe       a text above the runs: the table that was printed, and links to views
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

TAG = "mlflow.sharedViewState."
"""The prefix of a view's tag; its key follows."""

LONGEST = 5000
"""MLflow's limit for the value of an experiment's tag."""

FEWER = (16, 8, 4, 2, 1)
"""How many charts a section keeps, from try to try, if the text is too long."""

NOW = 10**13 - 1
"""A date that is as long as any."""

MOST_CLASSES = 30
"""The most classes with a chart of their own; the table of a run has all of them."""

KINDS = ("charts", "leaderboard", "parameters", "curves")
"""Of the views of results. Their names begin with the subject."""

MOST_AXES = 5
"""The most parameters of one chart; more would leave no room for their values' names."""

LONGEST_NAME = 80
"""Of a view, in letters: the menu is narrow, and a data set may be a path."""

WIDTHS = {
    "rocauc": 90,
    "detector": 90,
    "encoder": 140,
    "normalize": 90,
    "k": 50,
    "clean": 60,
    "preset": 65,
    "rocauc_low": 95,
    "rocauc_high": 95,
    "selection": 85,
    "source": 85,
}
"""Of columns, in pixels. The page's own, 100 each, would leave half of them out of sight."""

LEADERBOARD = re.compile(r"(^|-)leaderboard-[0-9a-f]{8}$")
"""The key of a leaderboard."""

COMPRESSED = "deflate;"
"""What the page writes in front of a state that is compressed."""


@dataclass(frozen=True)
class Section:
    """Hold charts under a heading: ``columns`` side by side, ``height`` pixels high."""

    name: str
    cards: tuple[Mapping[str, Any], ...]
    columns: int = 3
    height: int = 360


@dataclass(frozen=True)
class View:
    """Say which runs the page shows, in which order, with which columns and charts.

    Attributes
    ----------
    subject : str
        What it shows, in a link's text: ``cifar10``, ``synthetic contamination``.
    kind : str
        One of `KINDS`, or ``study``.
    where, order_by : str
        A filter and a column, as MLflow spells them. The largest comes first.
    columns : tuple of str
        Of the table.
    sections : tuple of Section
        Of the charts.
    wide : bool
        Whether the charts take the place of the list of runs.
    """

    subject: str
    kind: str
    where: str
    order_by: str
    columns: tuple[str, ...]
    sections: tuple[Section, ...]
    wide: bool = False

    @property
    def name(self) -> str:
        """Its name in the menu; the end of a long subject tells more than its beginning."""
        room = LONGEST_NAME - len(self.kind) - 1
        subject = self.subject if len(self.subject) <= room else f"…{self.subject[1 - room :]}"
        return f"{self.kind} {subject}" if self.kind == "study" else f"{subject} {self.kind}"

    @property
    def key(self) -> str:
        """Its key in addresses: readable, and another one for each subject and kind."""
        words = re.sub(r"[^a-z0-9]+", "-", self.subject.lower()).strip("-")[-40:].strip("-")
        digest = hashlib.sha256(f"{self.subject}\n{self.kind}".encode()).hexdigest()[:8]
        return "-".join(filter(None, [words, self.kind, digest]))

    def cut(self, most: int) -> View:
        """Return the view with so many columns, and charts in a section, at most."""
        sections = (replace(one, cards=one.cards[:most]) for one in self.sections)
        return replace(self, columns=self.columns[:most], sections=tuple(sections))

    def state(self) -> dict[str, Any]:
        """Return the page's state."""
        sections = [
            {
                "uuid": f"s{place}",
                "name": section.name,
                "display": True,
                "isReordered": True,
                "deleted": False,
                "isGenerated": False,
                "columns": section.columns,
                "cardHeight": section.height,
            }
            for place, section in enumerate(self.sections)
        ]
        cards = [
            {
                "uuid": f"s{place}c{number}",
                "metricSectionId": f"s{place}",
                "deleted": False,
                "isGenerated": False,
                **card,
            }
            for place, section in enumerate(self.sections)
            for number, card in enumerate(section.cards)
        ]
        return {
            "searchFilter": self.where,
            "orderByKey": self.order_by,
            "orderByAsc": False,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "modelVersionFilter": "All Runs",
            "datasetsFilter": [],
            "selectedColumns": list(self.columns),
            "columnOrder": list(self.columns),
            "columnWidths": {
                name: WIDTHS[label]
                for name in self.columns
                if (label := name.split("`")[1]) in WIDTHS
            },
            "runsHiddenMode": "FIRST_10_RUNS",
            "compareRunCharts": cards,
            "compareRunSections": sections,
            # Otherwise the page sorts the sections by name, which begins with the memory.
            "isAccordionReordered": True,
            "hideEmptyCharts": True,
            "runListHidden": self.wide,
            "viewMaximized": False,
            "groupBy": None,
            "groupsExpanded": {},
            "useGroupedValuesInCharts": True,
            "chartsSearchFilter": "",
        }


def result_views(
    dataset: str, protocol: str, classes: Sequence[str], *, curve: bool
) -> tuple[View, ...]:
    """Return the views of one data set and protocol; the first one is what a run links to.

    Parameters
    ----------
    dataset, protocol : str
    classes : sequence of str
        As metrics name them.
    curve : bool
        Whether the protocol's runs are curves.
    """
    subject = dataset if protocol == "one_vs_rest" else f"{dataset} {protocol}"
    shown = list(classes)[:MOST_CLASSES]
    runs = f"{equals('params.dataset', dataset)} and {equals('params.protocol', protocol)}"
    method = [_param(name) for name in ("detector", "encoder", "normalize", "k")]
    origin = [_tag("selection"), _tag("source")]
    if curve:
        columns = (*method, _param("clean"), _metric("rocauc_curve"), *origin)
        of_classes = [_line(f"rocauc_curve/{name}") for name in shown]
        return (
            View(
                subject,
                "curves",
                f"{runs} and metrics.rocauc_curve >= 0",
                _metric("rocauc_curve"),
                columns,
                (
                    Section("Mean ROCAUC", (_line("rocauc_curve"),), columns=1, height=420),
                    Section("ROCAUC of each class", tuple(of_classes), columns=2),
                    COST,
                ),
                wide=True,
            ),
        )
    tested, best = f"{runs} and metrics.rocauc >= 0", _metric("rocauc")
    interval = [_metric(name) for name in ("rocauc", "rocauc_low", "rocauc_high")]
    mean = Section("Mean ROCAUC", (_bar("rocauc"),), columns=1, height=420)
    of_classes = [_bar(f"rocauc/{name}") for name in shown]
    charts = (mean, Section("ROCAUC of each class", tuple(of_classes)), COST)
    by_class = [_metric("rocauc"), *(_metric(f"rocauc/{name}") for name in shown)]
    parameters = (_parallel(("encoder", "normalize", "k"), "rocauc"),)
    return (
        View(
            subject,
            "charts",
            tested,
            best,
            (*by_class, *(_metric(name) for name in COSTS)),
            charts,
        ),
        View(
            subject,
            "leaderboard",
            tested,
            best,
            (interval[0], *method, _param("preset"), *interval[1:], *origin),
            charts,
        ),
        View(
            subject,
            "parameters",
            tested,
            best,
            (*method, *interval),
            (Section("ROCAUC against parameters", parameters, columns=1, height=480),),
            wide=True,
        ),
    )


def study_view(study: str, metric: str, parameters: Sequence[str]) -> View:
    """Return the view of one study: its trials by the metric that it maximises.

    Parameters
    ----------
    study : str
    metric : str
        ``rocauc_validation``, or ``rocauc`` of an oracle.
    parameters : sequence of str
        Those that vary.
    """
    named = list(parameters)[:MOST_AXES] or ["k"]
    both = [_metric(name) for name in dict.fromkeys((metric, "rocauc"))]
    return View(
        study,
        "study",
        f"tags.`study/{study}` LIKE '%trial%' and metrics.{metric} >= 0",
        _metric(metric),
        (*(_param(name) for name in named), *both, _tag(f"study/{study}")),
        (
            Section("ROCAUC against parameters", (_parallel(named, metric),), 1, 480),
            Section("The best trials", (_bar(metric),), 1, 420),
            COST,
        ),
        wide=True,
    )


def view_tags(views: Sequence[View], tags: Mapping[str, str], now: int) -> dict[str, str]:
    """Return the tags of views that an experiment lacks, or has with another content.

    A view whose text is too long for a tag loses charts and columns from the end. One that is still
    too long is left out.

    Parameters
    ----------
    views : sequence of View
    tags : mapping
        Those of the experiment.
    now : int
        Milliseconds since 1970.
    """
    changed = {}
    for view in views:
        name, state, made = f"{TAG}{view.key}", _fitting(view), now
        try:
            stored = json.loads(tags[name])
            made = int(stored["createdAt"])
            if stored["name"] == view.name and unpack(stored["state"]) == state:
                continue
        except (KeyError, TypeError, ValueError, zlib.error):
            pass  # there is none, or a hand has changed it
        if state is not None:
            changed[name] = _saved(view, state, made, now)
    return changed


def _fitting(view: View) -> dict[str, Any] | None:
    """Return the state of a view, with as many charts as fit into a tag; None if none do."""
    for one in (view, *map(view.cut, FEWER)):
        state = one.state()
        if len(_saved(view, state, NOW, NOW)) <= LONGEST:
            return state
    return None


def _saved(view: View, state: Mapping[str, Any], made: int, now: int) -> str:
    dates = {"createdAt": made, "updatedAt": now}
    return json.dumps({"name": view.name, **dates, "state": pack(state)})


def names_of_views(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the key and the name of each view among an experiment's tags."""
    found = {}
    for name, value in tags.items():
        if name.startswith(TAG):
            try:
                found[name.removeprefix(TAG)] = str(json.loads(value)["name"])
            except (KeyError, TypeError, ValueError):
                continue
    return found


def pack(state: Mapping[str, Any]) -> str:
    """Write a state as the page does: JSON, compressed, in letters."""
    content = json.dumps(state, separators=(",", ":")).encode()
    return COMPRESSED + base64.b64encode(zlib.compress(content, 9)).decode()


def unpack(text: str) -> dict[str, Any]:
    """Read a state, compressed or not.

    Raises
    ------
    ValueError, zlib.error
        If it is none.
    """
    if text.startswith(COMPRESSED):
        text = zlib.decompress(base64.b64decode(text.removeprefix(COMPRESSED))).decode()
    return dict(json.loads(text))


def view_link(experiment_id: str, key: str = "") -> str:
    """Return the part of an address after the server's: a view, or the charts of all runs.

    A leaderboard opens as a table, any other view as charts. Without the workflow in the address,
    the page would open in its GenAI view.
    """
    view = f"&viewStateShareKey={key}" if key else ""
    mode = "TABLE" if LEADERBOARD.search(key) else "CHART"
    words = f"workflowType=machine_learning{view}&compareRunsMode={mode}"
    return f"#/experiments/{experiment_id}/runs?{words}"


def equals(name: str, value: str) -> str:
    """Write a condition as MLflow's filter takes it, whatever the value.

    The filter has no way to escape a quote. Where the value has both kinds, any letter matches in
    the place of the double one.
    """
    if '"' not in value:
        return f'{name} = "{value}"'
    if "'" not in value:
        return f"{name} = '{value}'"
    return f'{name} LIKE "{value.replace(chr(34), "_")}"'


def _metric(name: str) -> str:
    return f"metrics.`{name}`"


def _param(name: str) -> str:
    return f"params.`{name}`"


def _tag(name: str) -> str:
    return f"tags.`{name}`"


def _bar(metric: str) -> dict[str, Any]:
    return {"type": "BAR", "metricKey": metric, "runsCountToCompare": 10}


def _line(metric: str) -> dict[str, Any]:
    """Return a chart of a curve: a line a run, and the step as x."""
    return {
        "type": "LINE",
        "metricKey": metric,
        "runsCountToCompare": 10,
        "xAxisKey": "step",
        "useGlobalXaxisKey": False,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "lineSmoothness": 0,
        "useGlobalLineSmoothing": False,
        "selectedXAxisMetricKey": "",
        "displayPoints": True,
        "ignoreOutliers": False,
        "range": {},
    }


def _parallel(parameters: Sequence[str], metric: str) -> dict[str, Any]:
    return {
        "type": "PARALLEL",
        "selectedParams": list(parameters),
        "selectedMetrics": [metric],
        "showAllRuns": True,
        "runsCountToCompare": 10,
    }


COSTS = ("time/fit_seconds", "time/score_seconds", "memory/peak_mb", "throughput/images_per_second")

COST = Section("Cost", tuple(_bar(name) for name in COSTS))


# Descriptions

NOTE = "mlflow.note.content"
"""The tag that holds a description."""

OURS = "DN2 benchmark"
"""The first words of a description that we wrote. Another one is the user's, and stays."""

LONGEST_OF_RUN = 8000
"""MLflow's limit for the value of a run's tag."""

LINKS = 0.5
"""The largest part of a description that may be links."""

LONGEST_TITLE = 200

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
        named = f"{_plain(subject)}: " if subject else ""
        line = f"- {named}{', '.join(of_subject)}\n"
        if sum(map(len, links)) + len(line) <= longest * LINKS:
            links.append(line)
    head = f"**{OURS}** {_plain(title[:LONGEST_TITLE])}\n\n{''.join(links)}\n"
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


def may_describe(note: str) -> bool:
    """Tell whether a description may be replaced: there is none, or we wrote it."""
    return not note.strip() or note.startswith(f"**{OURS}**")


def _plain(text: str) -> str:
    """Write text so that neither Markdown nor HTML finds anything in it."""
    for letter, name in {"&": "&amp;", "<": "&lt;", ">": "&gt;"}.items():
        text = text.replace(letter, name)
    marked = "".join(f"\\{letter}" if letter in "\\`*_{}[]()#+-.!|" else letter for letter in text)
    return " ".join(marked.split())
