"""What a method reached on a data set under a protocol, and the files that keep it.

`Measured` is what a report is made of. `write_rows` puts it into a small CSV file, one line for
each class, for the mean, and for each x of a curve; `read_rows` reads such files back.
"""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.contracts import UsageError
from benchmarks.detectors import detector_input, detector_params, entry_of
from benchmarks.protocols import PROTOCOLS

COLUMNS = (
    "dataset",
    "protocol",
    "detector",
    "variant",
    "preset",
    "class_name",
    "rocauc",
    "rocauc_low",
    "rocauc_high",
    "seeds",
    "cpu_minutes",
    "command",
    "date",
    "commit",
    "machine",
)
"""The first columns of a file of results. ``class_name`` is ``mean`` for a mean."""

MORE_COLUMNS = (
    "settings",
    "x",
    "draws",
    "standard_error",
    "average_precision",
    "selection",
    "images_per_second",
    "rate_of",
    "source",
)
"""The columns after them, which a file may lack."""

MEAN = "mean"

NOT_SETTINGS = ("dataset", "protocol", "detector", "variant", "preset", "input", "partition")
"""Parameters of a run that have columns of their own, or that say nothing new."""


@dataclass(frozen=True)
class Score:
    """Hold the ROCAUC of a class, of the mean over classes, or of the mean at an x.

    Fractions are in [0, 1].

    Attributes
    ----------
    class_name : str
        ``mean`` for a mean.
    x : float or None
        A curve's value.
    rocauc : float
    low, high : float or None
        The 95 % interval. A curve, and a mean over seeds, have a standard error in its place.
    standard_error : float or None
    draws : int
        Draws behind the value.
    average_precision : float or None
    """

    class_name: str
    rocauc: float
    low: float | None = None
    high: float | None = None
    x: float | None = None
    standard_error: float | None = None
    draws: int = 1
    average_precision: float | None = None


@dataclass(frozen=True)
class Measured:
    """Hold what one method, with its settings, reached on one data set under one protocol.

    Attributes
    ----------
    dataset, protocol, detector, variant, preset : str
        ``none`` for no variant or preset.
    settings : dict
        Encoder, normalisation, parameters of detector and protocol.
    scores : tuple of Score
        One for each class and the mean; of a curve, one for each x.
    seeds : int
        Runs that differ in the seed alone; the scores are then means over them.
    selection : str
        ``oracle`` if something was tuned on test labels, ``validation``, or ``none``.
    runs : tuple of str
        Ids of the runs in MLflow.
    cpu_minutes, images_per_second : float or None
        CPU time of the whole run; how many test images a second it scores.
    rate_of : str
        What that rate covers: ``scoring alone``, of features that are there already, or
        ``with network``.
    command, date, commit, machine, source : str
        How it was made. ``source`` is ``run``, or says where a number was taken over from.
    """

    dataset: str
    protocol: str
    detector: str
    variant: str
    preset: str
    settings: Mapping[str, Any]
    scores: tuple[Score, ...]
    seeds: int = 1
    selection: str = "none"
    runs: tuple[str, ...] = ()
    cpu_minutes: float | None = None
    images_per_second: float | None = None
    rate_of: str = ""
    command: str = ""
    date: str = ""
    commit: str = ""
    machine: str = ""
    source: str = "run"
    key: str = field(default="", compare=False)

    @property
    def subject(self) -> tuple[str, str]:
        """The data set and the protocol."""
        return self.dataset, self.protocol

    @property
    def method(self) -> str:
        """The detector with its variant."""
        return self.detector if self.variant == "none" else f"{self.detector} {self.variant}"

    @property
    def is_curve(self) -> bool:
        """Whether its scores are means at values of x."""
        return any(score.x is not None for score in self.scores)

    @property
    def mean(self) -> Score | None:
        """The mean over classes; None for a curve."""
        return self.score(MEAN)

    @property
    def classes(self) -> list[str]:
        """The classes that have a score."""
        return [one.class_name for one in self.scores if one.class_name != MEAN]

    def score(self, class_name: str) -> Score | None:
        """Return the score of a class, or of ``mean``; None if there is none."""
        found = (one for one in self.scores if one.class_name == class_name and one.x is None)
        return next(found, None)

    @property
    def unusual(self) -> dict[str, Any]:
        """The settings that are not what the method has unless others are asked for."""
        usual = usual_settings(self)
        return {
            name: value
            for name, value in self.settings.items()
            if setting_text(value) != setting_text(usual.get(name, "-"))
        }

    @property
    def label(self) -> str:
        """The method with what is unusual about it: ``dn2 normalize=l2 k=5``."""
        preset = "" if self.preset in ("none", "paper") else f"preset={self.preset}"
        words = [
            self.method,
            preset,
            *(f"{name}={setting_text(value)}" for name, value in self.unusual.items()),
        ]
        return " ".join(filter(None, words)).replace("efficientnet_", "")


def usual_settings(measured: Measured) -> dict[str, Any]:
    """Return the settings that a method has on a data set unless others are asked for.

    A detector that this installation does not know has none.
    """
    variant = "" if measured.variant == "none" else measured.variant
    preset = "paper" if measured.preset == "none" else measured.preset
    protocol = PROTOCOLS.get(measured.protocol)
    usual: dict[str, Any] = {"classes": "all", "seed": 0, "size": "native"}
    try:
        entry = entry_of(measured.detector)
        taken = detector_input(measured.detector, variant, measured.dataset)
        own = detector_params(measured.detector, variant, {}, preset, measured.dataset)
    except UsageError:
        return usual
    usual |= {"encoder": "none", "normalize": "none"}
    if taken == "features":
        usual |= {"encoder": entry.encoder, "normalize": entry.normalize}
    elif ":" in taken:
        usual["size"] = taken.partition(":")[2]
    of_protocol = {} if protocol is None else protocol.defaults
    return {**usual, **of_protocol, **own}


# Commands

OPTIONS = {
    "encoder": "--encoder",
    "normalize": "--normalize",
    "classes": "--classes",
    "size": "--size",
    "seed": "--seed",
    "k": "--k",
    "clean": "--clean",
    "centres": "--centres",
    "index": "--index",
    "n_train": "--n-train",
    "contamination": "--contamination",
    "group_sizes": "--group-sizes",
    "n_groups": "--n-groups",
    "draws": "--draws",
}
"""Settings that are options of ``run``. Any other one is given with ``--set``."""


def command_of(measured: Measured) -> str:
    """Return the command that makes these numbers again."""
    words = ["python", "-m", "benchmarks", "run", "--dataset", measured.dataset]
    words += [] if measured.protocol == "one_vs_rest" else ["--protocol", measured.protocol]
    words += [] if measured.detector == "dn2" else ["--detector", measured.detector]
    words += [] if measured.variant == "none" else ["--variant", measured.variant]
    words += [] if measured.preset in ("none", "paper") else ["--preset", measured.preset]
    for name, value in measured.unusual.items():
        text = ",".join(map(_option, value)) if isinstance(value, list | tuple) else _option(value)
        words += [OPTIONS[name], text] if name in OPTIONS else ["--set", f"{name}={text}"]
    words += ["--seeds", str(measured.seeds)] if measured.seeds > 1 else []
    return shlex.join(words)


def _option(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# Files


def to_rows(measured: Iterable[Measured]) -> list[dict[str, str]]:
    """Return one row of text for each score, in the order of `COLUMNS` and `MORE_COLUMNS`.

    Fractions have seven decimals, as in MLflow; None is empty.
    """
    rows = []
    for one in measured:
        about = {
            "dataset": one.dataset,
            "protocol": one.protocol,
            "detector": one.detector,
            "variant": one.variant,
            "preset": one.preset,
            "seeds": str(one.seeds),
            "cpu_minutes": _number(one.cpu_minutes, 2),
            "command": one.command,
            "date": one.date,
            "commit": one.commit,
            "machine": one.machine,
            "settings": shlex.join(f"{n}={setting_text(v)}" for n, v in one.settings.items()),
            "selection": one.selection,
            "images_per_second": _number(one.images_per_second, 2),
            "rate_of": one.rate_of,
            "source": one.source,
        }
        for score in one.scores:
            row = {
                **about,
                "class_name": score.class_name,
                "rocauc": _number(score.rocauc),
                "rocauc_low": _number(score.low),
                "rocauc_high": _number(score.high),
                "x": "" if score.x is None else f"{score.x:g}",
                "draws": str(score.draws),
                "standard_error": _number(score.standard_error),
                "average_precision": _number(score.average_precision),
            }
            rows.append({name: row[name] for name in (*COLUMNS, *MORE_COLUMNS)})
    return rows


def write_rows(measured: Iterable[Measured]) -> str:
    """Return the text of a CSV file of results, with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, (*COLUMNS, *MORE_COLUMNS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(to_rows(measured))
    return text.getvalue()


def read_rows(files: Sequence[Path]) -> list[Measured]:
    """Read files of results; rows that differ only in their score belong together.

    A second score of the same class and x begins another result.

    Raises
    ------
    UsageError
        If a file has no such columns, or a value is no number.
    """
    found: list[tuple[Mapping[str, str], list[Score]]] = []
    newest: dict[tuple[str, ...], list[Score]] = {}
    for file in files:
        with file.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise UsageError(
                    f"{file} is no file of results, it lacks the column {', '.join(missing)}: "
                    "make one with `report --format csv`."
                )
            for number, row in enumerate(reader, start=2):
                try:
                    score = _score(row)
                except ValueError as error:
                    raise UsageError(f"{file}, line {number}: {error}.") from None
                same = tuple(row.get(name) or "" for name in _SHARED)
                named = {(one.class_name, one.x) for one in newest.get(same, ())}
                if same not in newest or (score.class_name, score.x) in named:
                    newest[same] = []
                    found.append((row, newest[same]))
                newest[same].append(score)
    return [_measured(row, tuple(scores)) for row, scores in found]


_SCORES = ("class_name", "rocauc", "rocauc_low", "rocauc_high", "x", "draws", "standard_error")
_SHARED = tuple(
    name for name in (*COLUMNS, *MORE_COLUMNS) if name not in (*_SCORES, "average_precision")
)


def _score(row: Mapping[str, str]) -> Score:
    value = _read(row, "rocauc")
    if value is None or not 0 <= value <= 1:
        raise ValueError(f"rocauc must be a fraction in [0, 1], got '{row['rocauc']}'")
    return Score(
        class_name=row["class_name"],
        rocauc=value,
        low=_read(row, "rocauc_low"),
        high=_read(row, "rocauc_high"),
        x=_read(row, "x"),
        standard_error=_read(row, "standard_error"),
        draws=int(_read(row, "draws") or 1),
        average_precision=_read(row, "average_precision"),
    )


def _measured(row: Mapping[str, str], scores: tuple[Score, ...]) -> Measured:
    settings = dict(_setting(word) for word in shlex.split(row.get("settings") or ""))
    return Measured(
        dataset=row["dataset"],
        protocol=row["protocol"],
        detector=row["detector"],
        variant=row["variant"] or "none",
        preset=row["preset"] or "none",
        settings=settings,
        scores=scores,
        seeds=int(_read(row, "seeds") or 1),
        selection=row.get("selection") or "none",
        cpu_minutes=_read(row, "cpu_minutes"),
        images_per_second=_read(row, "images_per_second"),
        rate_of=row.get("rate_of") or "",
        command=row["command"],
        date=row["date"],
        commit=row["commit"],
        machine=row["machine"],
        source=row.get("source") or "run",
    )


def _setting(word: str) -> tuple[str, Any]:
    name, _, text = word.partition("=")
    if text in ("True", "False"):
        return name, text == "True"
    if "," in text and name != "classes":
        return name, tuple(_value(part) for part in text.split(","))
    return name, _value(text)


def _value(text: str) -> Any:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def setting_text(value: Any) -> str:
    """Write the value of a setting as a command takes it: lists with commas."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _number(value: float | None, decimals: int = 7) -> str:
    return "" if value is None else f"{value:.{decimals}f}".rstrip("0").rstrip(".")


def _read(row: Mapping[str, str], name: str) -> float | None:
    text = row.get(name) or ""
    try:
        return float(text) if text else None
    except ValueError:
        raise ValueError(f"{name} must be a number, got '{text}'") from None
