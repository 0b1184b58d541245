"""The sections of the paper's tables and figures: ours beside what was published."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.contracts import Cell, Experiment, Interval, UsageError
from benchmarks.detectors import entry_of, selection_of
from benchmarks.protocols import PROTOCOLS
from benchmarks.report import notes
from benchmarks.report.class_table import safe_name
from benchmarks.report.curves import PROTOCOL_AXES, Axis
from benchmarks.report.document.measured import MEAN, Measured, Score
from benchmarks.report.document.parts import ClassBars, Entry, Grid, Lines, Section
from benchmarks.report.published import PAPER, published, published_rows
from benchmarks.report.tables import percent

SIDE_BY_SIDE = 6
"""Methods that stand side by side in a table of classes, or as bars. The list has all."""

CURVES_SHOWN = 12

CLASSES_SHOWN = 30
"""Bars are drawn for at most this many classes."""

Subject = tuple[str, str]


@dataclass(frozen=True)
class Place:
    """A table or figure of the paper.

    Attributes
    ----------
    name, title : str
    suite : str
        The suite that makes DN2's numbers.
    subjects : tuple of (data set, protocol)
    """

    name: str
    title: str
    suite: str
    subjects: tuple[Subject, ...]


def _of(protocol: str, *datasets: str) -> tuple[Subject, ...]:
    return tuple((dataset, protocol) for dataset in datasets)


PLACES = (
    Place("table-1", "Table 1: CIFAR-10", "table1", _of("one_vs_rest", "cifar10")),
    Place(
        "table-2",
        "Table 2: FashionMNIST and CIFAR-100",
        "table2",
        _of("one_vs_rest", "fashion_mnist", "cifar100_coarse"),
    ),
    Place(
        "table-3",
        "Table 3: Flowers, Birds, CatsVsDogs",
        "table3",
        _of("one_vs_rest", "flowers102", "cub200", "cats_vs_dogs"),
    ),
    Place(
        "table-4",
        "Table 4: DIOR and WBC, far from ImageNet",
        "table4",
        _of("one_vs_rest", "dior", "wbc"),
    ),
    Place(
        "table-5",
        "Table 5: all classes but one are normal",
        "table5",
        _of("leave_one_class_out", "cifar10", "cifar100_coarse"),
    ),
    Place(
        "figure-4",
        "Fig. 4: sets of images",
        "fig4_groups",
        _of("groups", "cifar10", "fashion_mnist"),
    ),
    Place(
        "figure-5-images",
        "Fig. 5: few training images",
        "fig5_small_train",
        _of("small_train", "cifar10", "fashion_mnist"),
    ),
    Place(
        "figure-5-contamination",
        "Fig. 5: anomalies among the training images",
        "fig5_contamination",
        _of("contamination", "cifar10", "fashion_mnist"),
    ),
)
"""The tables and figures of the paper, in its order."""


def paper_sections(measured: Sequence[Measured]) -> Iterator[Section]:
    """Make a section for each table and figure of the paper, then one of everything else."""
    for place in PLACES:
        yield _section(place, measured)
    known = {subject for place in PLACES for subject in place.subjects}
    others = list(dict.fromkeys(one.subject for one in measured if one.subject not in known))
    if others:
        yield _section(
            Place("other", "Not in the paper: other data and protocols", "", tuple(others)),
            measured,
        )


def _section(place: Place, measured: Sequence[Measured]) -> Section:
    text, parts, missing = [], [], []
    for protocol in dict.fromkeys(protocol for _, protocol in place.subjects):
        if protocol in PROTOCOLS:
            text.append(f"{protocol}: {PROTOCOLS[protocol].definition}.")
    for subject in place.subjects:
        here = [one for one in measured if one.subject == subject]
        if not here:
            missing.append(f"{', '.join(subject)}: no finished run.")
            if not any(group[:2] == subject for group in _printed_groups(subject)):
                continue
        parts += list(_parts(subject, here))
    commands = (
        (f"python -m benchmarks run --suite {place.suite}",) if missing and place.suite else ()
    )
    return Section(place.name, place.title, tuple(text), tuple(parts), tuple(missing), commands)


def _parts(subject: Subject, here: Sequence[Measured]) -> Iterator[Grid | ClassBars | Lines]:
    name = safe_name("-".join(subject))
    title = ", ".join(subject)
    yield _list(name, subject, here)
    curves = [one for one in here if one.is_curve]
    rest = [one for one in here if not one.is_curve]
    if rest:
        shown = choose(rest, SIDE_BY_SIDE)
        yield _classes(name, title, shown, len(rest))
        yield _bars(name, title, shown)
    if curves:
        shown = choose(curves, CURVES_SHOWN)
        yield _curve_grid(name, title, shown)
        if any(len({score.x for score in one.scores}) > 1 for one in shown):
            yield _lines(name, title, shown)


def choose(measured: Sequence[Measured], most: int) -> list[Measured]:
    """Choose the runs to show side by side: those nearest to each method's usual settings.

    Scores play no part in it, as the best of many on the test images would look better than it is.
    A method with its encoder and normalisation takes turns with the others; of its equally usual
    runs, the newest comes first.
    """
    if len(measured) <= most:
        return list(measured)
    of_method: dict[tuple[str, ...], list[Measured]] = {}
    for one in reversed(measured):
        given = (str(one.settings.get(name)) for name in ("encoder", "normalize"))
        of_method.setdefault((one.method, one.preset, *given), []).append(one)
    ranked = [
        (rank, len(one.unusual), place, one)
        for place, group in enumerate(of_method.values())
        for rank, one in enumerate(sorted(group, key=lambda one: len(one.unusual)))
    ]
    chosen = [one for *_, one in sorted(ranked, key=lambda ranks: ranks[:3])[:most]]
    return [one for one in measured if any(one is other for other in chosen)]


def published_of(one: Measured) -> dict[str, float]:
    """Return what the paper prints for a method: class name or ``mean`` -> ROCAUC."""
    variant = "" if one.variant == "none" else one.variant
    printed = published(*one.subject, one.detector, variant)
    if printed or not variant:
        return printed
    try:
        is_default = variant == entry_of(one.detector).default_variant
    except UsageError:
        return {}
    return published(*one.subject, one.detector) if is_default else {}


def published_mean(one: Measured) -> float | None:
    """Return the published mean over the classes that were run; None if it is not printed."""
    printed, shown = published_of(one), set(one.classes)
    classes = printed.keys() - {MEAN}
    if shown == classes or (not classes and one.settings.get("classes", "all") == "all"):
        return printed.get(MEAN)
    if shown and shown <= classes:
        return sum(sorted(printed[name] for name in shown)) / len(shown)
    return None


# Tables


def score_text(score: Score | None, decimals: int = 1) -> str:
    """Write a score in percent, with its interval in brackets or its standard error."""
    if score is None:
        return "-"
    value = percent(score.rocauc, decimals=decimals)
    if score.low is not None and score.high is not None:
        low, high = (percent(bound, decimals=decimals) for bound in (score.low, score.high))
        return f"{value} [{low}, {high}]"
    if score.standard_error is not None:
        return f"{value} ({percent(score.standard_error, decimals=2)})"
    return value


def _score(score: Score | None, best: bool = False, runs: tuple[str, ...] = ()) -> Entry:
    return Entry(score_text(score), None if score is None else score.rocauc, best, runs)


def _number(value: float | None, *, sign: bool = False) -> Entry:
    return Entry(percent(value, sign=sign), value)


def _list(name: str, subject: Subject, here: Sequence[Measured]) -> Grid:
    """List every method: ours, what is published, and how it was made."""
    header = ("method", "ROCAUC", "published", "difference", "seeds", "selection", "AP", "CPU min")
    best = max((mean.rocauc for one in here if (mean := _competing(one))), default=None)
    rows: list[tuple[Entry, ...]] = []
    for one in here:
        mean, printed = one.mean, published_mean(one)
        is_best = (competing := _competing(one)) is not None and competing.rocauc == best
        difference = None if mean is None or printed is None else mean.rocauc - printed
        shown = Entry("a curve", runs=one.runs) if one.is_curve else _score(mean, is_best, one.runs)
        rows.append(
            (
                Entry(one.label),
                shown,
                _number(printed),
                _number(difference, sign=True),
                Entry(str(one.seeds), one.seeds),
                Entry(one.selection),
                _number(None if mean is None else mean.average_precision),
                Entry(
                    "-" if one.cpu_minutes is None else f"{one.cpu_minutes:.1f}", one.cpu_minutes
                ),
                Entry(one.date),
                Entry(one.commit),
                Entry(one.source),
                Entry(one.command, code=True),
            )
        )
    run = {(one.detector, "" if one.variant == "none" else one.variant) for one in here}
    run |= {
        (one.detector, "")
        for one in here
        if published_of(one) and not published(*one.subject, one.detector, one.variant)
    }
    for _, _, detector, variant in _printed_groups(subject):
        if (detector, variant) not in run:
            value = published(*subject, detector, variant).get(MEAN)
            row = (Entry(f"{detector} {variant}".rstrip()), Entry("not run"), _number(value))
            rows.append((*row, *(Entry("-") for _ in range(9))))
    numeric = (False, True, True, True, True, False, True, True, False, False, False, False)
    return Grid(
        f"{name}-runs",
        f"All runs, {', '.join(subject)}",
        (*header, "date", "commit", "source", "command"),
        numeric,
        tuple(rows),
        tuple(_notes(here)),
        lists_runs=True,
    )


def _competing(one: Measured) -> Score | None:
    """Return the mean of a run that may be called the best: of all classes, without hindsight."""
    return one.mean if _is_whole(one) and one.selection != "oracle" else None


def _is_whole(one: Measured) -> bool:
    return str(one.settings.get("classes", "all")) == "all"


def _printed_groups(subject: Subject) -> list[tuple[str, str, str, str]]:
    """List what the paper prints for a data set and protocol, by detector and variant."""
    return list(
        dict.fromkeys(
            (row["dataset"], row["protocol"], row["detector"], row["variant"])
            for row in published_rows()
            if row["source"] == PAPER and (row["dataset"], row["protocol"]) == subject
        )
    )


def _notes(here: Sequence[Measured]) -> Iterator[str]:
    """Say what a reader must know of these runs."""
    yield (
        "In percent. In brackets: the 95 % interval, DeLong's for a class and a bootstrap over "
        "the test images for the mean; in parentheses, the standard error over seeds or draws."
    )
    cells = [cell for one in here if (cell := _cell(one)) is not None]
    yield from dict.fromkeys(
        note
        for note in (*notes.budgets([cell.experiment for cell in cells]), *notes.hindsight(cells))
    )
    for row in published_rows():
        is_here = here and (row["dataset"], row["protocol"]) == here[0].subject
        if row["source"] == PAPER and row["note"] and is_here:
            method = f"{row['detector']} {row['variant']}".rstrip()
            yield f"published {method}: {row['note']} ({row['where']})."
    partial = [one for one in here if not _is_whole(one)]
    if partial:
        yield "Runs of some classes only have the published mean over these classes beside them."


def _cell(one: Measured) -> Cell | None:
    """Return the run as the notes of the other tables take it; None for an unknown detector."""
    try:
        entry_of(one.detector)
        of_protocol = PROTOCOLS[one.protocol].defaults if one.protocol in PROTOCOLS else {}
        skipped = {"encoder", "normalize", "classes", "seed", "size", *of_protocol}
        size = str(one.settings.get("size", "native"))
        encoder = str(one.settings.get("encoder", "none"))
        experiment = Experiment(
            one.dataset,
            one.protocol,
            one.detector,
            f"features:{encoder}"
            if encoder != "none"
            else f"pixels:{size}".removesuffix(":native"),
            variant="" if one.variant == "none" else one.variant,
            preset=one.preset,
            detector_params={n: v for n, v in one.settings.items() if n not in skipped},
        )
        selection_of(experiment)
    except UsageError:
        return None
    return Cell(experiment, "", one.selection, (), None)


def _classes(name: str, title: str, shown: Sequence[Measured], of: int) -> Grid:
    """Make a row for each class, then the mean; methods side by side, then published ones."""
    classes = list(dict.fromkeys(name for one in shown for name in one.classes))
    printed = {one.method: values for one in shown if (values := published_of(one))}
    rows = []
    for class_name in [*classes, MEAN]:
        scores = [one.score(class_name) for one in shown]
        fair = [
            score.rocauc
            for one, score in zip(shown, scores, strict=True)
            if score is not None and one.selection != "oracle"
        ]
        best = max(fair, default=None) if len(fair) > 1 else None
        ours = [
            _score(
                score,
                best is not None
                and score is not None
                and score.rocauc == best
                and one.selection != "oracle",
                one.runs,
            )
            for one, score in zip(shown, scores, strict=True)
        ]
        theirs = [_number(values.get(class_name)) for values in printed.values()]
        rows.append((Entry(class_name), *ours, *theirs))
    header = (
        "class",
        *(_with_oracle(one) for one in shown),
        *(f"published {method}" for method in printed),
    )
    notes_here = ["The best of our numbers in a row is bold; oracles do not compete."]
    if of > len(shown):
        notes_here.append(
            f"{len(shown)} of {of} runs, those nearest to each method's usual settings; the list "
            "of all runs has the others."
        )
    return Grid(
        f"{name}-classes",
        f"Class by class, {title}",
        header,
        (False, *(True for _ in header[1:])),
        tuple(rows),
        tuple(notes_here),
    )


def _with_oracle(one: Measured) -> str:
    return f"{one.label} (oracle)" if one.selection == "oracle" else one.label


def _unique(shown: Sequence[Measured]) -> dict[str, Measured]:
    """Name runs so that no two share a name."""
    named: dict[str, Measured] = {}
    for one in shown:
        label = _with_oracle(one)
        number = 2
        while label in named:
            label, number = f"{_with_oracle(one)} ({number})", number + 1
        named[label] = one
    return named


def _bars(name: str, title: str, shown: Sequence[Measured]) -> ClassBars:
    classes = list(dict.fromkeys(name for one in shown for name in one.classes))
    names = (*classes[:CLASSES_SHOWN], MEAN) if len(classes) > 1 else tuple(classes)
    series = {
        label: [_interval(one.score(class_name)) for class_name in names]
        for label, one in _unique(shown).items()
    }
    printed = {
        f"published {one.method}": [values.get(class_name) for class_name in names]
        for one in shown
        if (values := published_of(one))
    }
    return ClassBars(f"{name}-bars", f"ROCAUC of each class, {title}", names, series, printed)


def _interval(score: Score | None) -> Interval | None:
    if score is None:
        return None
    error = score.standard_error or 0.0
    low = score.rocauc - error if score.low is None else score.low
    high = score.rocauc + error if score.high is None else score.high
    return Interval(score.rocauc, low, high)


# Curves


def axis_of(protocol: str) -> Axis:
    """Return what x stands for under a protocol."""
    return PROTOCOL_AXES.get(protocol, Axis("x", "x", "{:g}".format))


def _curve_grid(name: str, title: str, shown: Sequence[Measured]) -> Grid:
    axis = axis_of(shown[0].protocol)
    xs = sorted({score.x for one in shown for score in one.scores}, key=lambda x: x or 0)
    rows = []
    for x in xs:
        scores = [next((score for score in one.scores if score.x == x), None) for one in shown]
        values = [score.rocauc for score in scores if score is not None]
        best = max(values) if len(values) > 1 else None
        rows.append(
            (
                Entry("all" if x is None else axis.text(x), x),
                *(
                    Entry(
                        score_text(score, decimals=2),
                        None if score is None else score.rocauc,
                        score is not None and score.rocauc == best,
                        one.runs,
                    )
                    for one, score in zip(shown, scores, strict=True)
                ),
            )
        )
    header = (axis.name, *(_unique(shown)))
    return Grid(
        f"{name}-curve",
        f"{axis.label}, {title}",
        header,
        tuple(True for _ in header),
        tuple(rows),
        (
            "Means over classes and draws in percent, with the standard error over draws in "
            f"parentheses. {PAPER} prints no numbers for its figures.",
        ),
    )


def _lines(name: str, title: str, shown: Sequence[Measured]) -> Lines:
    axis = axis_of(shown[0].protocol)
    series = {
        label: {
            score.x or 0.0: interval
            for score in one.scores
            if (interval := _interval(score)) is not None
        }
        for label, one in _unique(shown).items()
    }
    texts = {
        x or 0.0: "all" if x is None else axis.text(x)
        for x in {score.x for one in shown for score in one.scores}
    }
    return Lines(
        f"{name}-lines",
        f"ROCAUC against {axis.label}, {title}",
        axis.label,
        series,
        texts,
        "one standard error over draws",
    )
