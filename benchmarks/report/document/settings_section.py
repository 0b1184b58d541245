"""How ROCAUC depends on a setting: the neighbours k, cluster centres, the encoder; and on speed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.contracts import Interval
from benchmarks.report.class_table import safe_name
from benchmarks.report.document.measured import Measured
from benchmarks.report.document.paper_sections import choose
from benchmarks.report.document.parts import Entry, Grid, Lines, Section, TradeOff
from benchmarks.report.tables import AXIS_LABELS, FEWEST_VALUES, percent

SERIES_SHOWN = 12
POINTS_SHOWN = 40


def settings_section(measured: Sequence[Measured]) -> Section:
    """Make a curve and a table for each setting of which runs have three values or more."""
    parts: list[Grid | Lines] = []
    for subject in dict.fromkeys(one.subject for one in measured):
        here = [one for one in measured if one.subject == subject and one.mean is not None]
        for name in dict.fromkeys(name for one in here for name in one.settings):
            if name not in ("seed", "classes"):
                parts += list(_of_setting(name, here))
    text = ("Runs that differ in one setting alone, where there are three or more.",)
    missing = () if parts else ("No setting has three values or more.",)
    commands = () if parts else ("python -m benchmarks run --k 1,2,5,10 --normalize none,l2",)
    return Section("settings", "Settings", text, tuple(parts), missing, commands)


def _of_setting(name: str, here: Sequence[Measured]) -> Iterator[Grid | Lines]:
    groups: dict[tuple[str, ...], dict[object, Measured]] = {}
    for one in here:
        if name in one.settings and (name == "encoder" or _is_number(one.settings[name])):
            rest = sorted((n, str(v)) for n, v in one.settings.items() if n != name)
            same = (one.method, one.preset, one.selection, repr(rest))
            groups.setdefault(same, {})[one.settings[name]] = one
    lines = [group for group in groups.values() if len(group) >= FEWEST_VALUES]
    if not lines:
        return
    subject = ", ".join(here[0].subject)
    values = sorted({value for group in lines for value in group}, key=_place)
    places = {value: float(number) for number, value in enumerate(values)}
    if name != "encoder":
        places = {value: float(value) for value in values}  # type: ignore[arg-type]
    named: dict[str, dict[object, Measured]] = {}
    for group in lines[:SERIES_SHOWN]:
        first = next(iter(group.values()))
        label = " ".join(
            [first.method, *(f"{n}={v}" for n, v in first.unusual.items() if n != name)]
        )
        label = label.replace("efficientnet_", "")
        named.setdefault(label, group)
    title = f"{AXIS_LABELS.get(name, name)}, {subject}"
    slug = safe_name("-".join([*here[0].subject, name]))
    yield Lines(
        f"{slug}-setting",
        f"Mean ROCAUC against {title}",
        AXIS_LABELS.get(name, name),
        {
            label: {
                places[value]: Interval(
                    score.rocauc,
                    score.rocauc if score.low is None else score.low,
                    score.rocauc if score.high is None else score.high,
                )
                for value, one in group.items()
                if (score := one.mean) is not None
            }
            for label, group in named.items()
        },
        {places[value]: str(value).replace("efficientnet_", "") for value in values},
        "95 % interval",
    )
    yield Grid(
        f"{slug}-values",
        f"Mean ROCAUC by {title}",
        ("method", *(str(value).replace("efficientnet_", "") for value in values)),
        (False, *(True for _ in values)),
        tuple(
            (
                Entry(label),
                *(_mean_entry(group[value]) if value in group else Entry("-") for value in values),
            )
            for label, group in named.items()
        ),
    )


def _mean_entry(one: Measured) -> Entry:
    assert one.mean is not None  # runs without a mean are sorted out
    return Entry(percent(one.mean.rocauc), one.mean.rocauc, runs=one.runs)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _place(value: object) -> tuple[float, str]:
    return (float(value), "") if isinstance(value, int | float) else (0.0, str(value))


def speed_section(measured: Sequence[Measured]) -> Section:
    """Draw ROCAUC against how many test images a second a method scores."""
    parts = []
    for subject in dict.fromkeys(one.subject for one in measured):
        here = [
            one
            for one in measured
            if one.subject == subject and one.mean is not None and one.images_per_second
        ]
        if len(here) > 1:
            points = {
                one.label: (one.images_per_second or 0.0, one.mean.rocauc, one.rate_of)
                for one in choose(here, POINTS_SHOWN)
                if one.mean is not None
            }
            title = f"ROCAUC against speed, {', '.join(subject)}"
            parts.append(TradeOff(safe_name("-".join([*subject, "speed"])), title, points))
    text = (
        "Test images a second while a method scores. Detectors on features score what a network "
        "made before: where a run made the features itself, the network's time is counted "
        "(with network), otherwise it is not (scoring alone). Runs that share a search each "
        "show its full time. Machines and other work on them differ: compare within a machine.",
    )
    missing = () if parts else ("No data set has two runs with a rate.",)
    return Section("speed", "Accuracy and speed", text, tuple(parts), missing)
