"""Compare finished runs: what may be compared, what differs, and whether the difference is real.

In this order: `load_runs` reads the runs that are asked for; `compare` sorts them into groups that
can be compared, tests all pairs within each group, and ranks methods over several data sets.
Nothing is computed again: the scores of every run are in the tracking store.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from benchmarks.contracts import Interval, Progress, UsageError
from benchmarks.metrics import Resampled, TestRows, resample_all
from benchmarks.paired import (
    LEVEL,
    Difference,
    Friedman,
    friedman,
    holm,
    nemenyi,
    paired_delong,
    paired_mean,
)
from benchmarks.protocols import PROTOCOLS
from benchmarks.result_store import SplitScores
from benchmarks.tracking import Tracker, TrackingError
from benchmarks.tracking.finding import ID_SHOWN, StoredRun

ROWS_AT_ONCE = 3_000_000
"""Scores that are prepared for the bootstrap at the same time: about 100 MB."""

HIDDEN = ("dataset", "protocol", "partition", "classes")
"""Parameters that the runs of a group share, or that its title names."""

Part = str | float
"""What a row of the comparison is: a class, or the value x of a curve."""


@dataclass(frozen=True)
class Run:
    """Hold a finished run with its scores.

    Attributes
    ----------
    stored : StoredRun
    record : mapping
        Its ``results.json``.
    splits : dict of str to SplitScores
        By name. The scores of each are in the order of its rows, which ascend; runs with the same
        test rows share their arrays.
    test_rows : dict of str to str
        Name of a split -> digest of its test rows and their labels.
    """

    stored: StoredRun
    record: Mapping[str, Any]
    splits: Mapping[str, SplitScores]
    test_rows: Mapping[str, str]

    @property
    def params(self) -> Mapping[str, Any]:
        """The parameters of its experiment."""
        return self.record["params"]

    @property
    def dirty(self) -> bool:
        """Whether some of its results come from code that was not committed."""
        return any(one.get("dirty") for one in self.record["provenance"])

    @property
    def is_curve(self) -> bool:
        """Whether its rows are values of x."""
        return any(split.x is not None for split in self.splits.values())

    @property
    def method(self) -> str:
        """The detector with its variant."""
        variant = self.params.get("variant", "none")
        return f"{self.params['detector']} {variant if variant != 'none' else ''}".rstrip()

    @property
    def weights(self) -> Mapping[str, str]:
        """The digest of each encoder's weights."""
        return self.record["resolved"].get("weights", {})

    def part_of(self, split: str) -> Part:
        """Return the row of the comparison that a split belongs to."""
        x = self.splits[split].x
        return self.splits[split].class_name if x is None else x

    @cached_property
    def parts(self) -> dict[Part, list[str]]:
        """Row of the comparison -> names of its splits."""
        found: dict[Part, list[str]] = {}
        for name in self.splits:
            found.setdefault(self.part_of(name), []).append(name)
        return found


@dataclass(frozen=True)
class Tested:
    """Hold the difference of two runs in a row, and its p corrected for the number of tests.

    The correction of a row is over the rows of the pair; that of the mean over the pairs of the
    group.
    """

    difference: Difference
    p_holm: float

    @property
    def real(self) -> bool:
        """Whether the difference is real: its corrected p is below 0.05."""
        return self.p_holm < LEVEL


@dataclass(frozen=True)
class Pair:
    """Hold the comparison of two runs of a group.

    Attributes
    ----------
    a, b : int
        Positions in the group's runs. A difference is a minus b.
    mean : Tested
    parts : dict of Part to Tested
        For a group of two runs; otherwise empty.
    """

    a: int
    b: int
    mean: Tested
    parts: Mapping[Part, Tested] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """Hold runs that can be compared with each other.

    Attributes
    ----------
    runs : tuple of Run
    labels : tuple of str
        What tells the runs apart, unique.
    parts : tuple of Part
        The rows that all runs have.
    means : tuple of Interval
        ROCAUC over the splits of these rows.
    values : tuple of dict
        For each run, row -> ROCAUC.
    pairs : tuple of Pair
        All pairs, in the order of the runs.
    differing : dict of str to list of str
        Name of a parameter -> its value in each run, for those that differ.
    """

    runs: tuple[Run, ...]
    labels: tuple[str, ...]
    parts: tuple[Part, ...]
    means: tuple[Interval, ...]
    values: tuple[Mapping[Part, float], ...]
    pairs: tuple[Pair, ...]
    differing: Mapping[str, Sequence[str]]

    @property
    def dataset(self) -> str:
        """The data set's name."""
        return str(self.runs[0].params["dataset"])

    @property
    def subject(self) -> str:
        """The data set, the protocol, and the partition and classes if they are not the usual."""
        return _subject(self.runs[0])

    @property
    def is_curve(self) -> bool:
        """Whether its rows are values of x."""
        return self.runs[0].is_curve

    def pair(self, a: int, b: int) -> Tested:
        """Return the difference of the means of runs a and b, in this direction."""
        if a < b:
            return next(one.mean for one in self.pairs if (one.a, one.b) == (a, b))
        found = self.pair(b, a)
        value, low, high, p = found.difference
        return Tested(Difference(-value, -high, -low, p), found.p_holm)


@dataclass(frozen=True)
class Ranking:
    """Hold the ranks of methods over several data sets.

    Attributes
    ----------
    subject : str
        The protocol.
    labels : tuple of str
        The methods that every data set has.
    datasets : tuple of str
    values : ndarray of shape (n_datasets, n_methods)
    test : Friedman
    critical : float
        Nemenyi's critical difference of mean ranks.
    """

    subject: str
    labels: tuple[str, ...]
    datasets: tuple[str, ...]
    values: np.ndarray
    test: Friedman
    critical: float

    @property
    def too_few(self) -> bool:
        """Whether no ranks at all on so few data sets could show a difference."""
        return self.critical >= len(self.labels) - 1


@dataclass(frozen=True)
class Comparison:
    """Hold all groups and rankings.

    Attributes
    ----------
    groups : tuple of Group
        Of two or more runs.
    alone : tuple of Run
        Runs that can be compared with no other.
    apart : tuple of str
        Why runs are not in one group, a line each.
    rankings : tuple of Ranking
    """

    groups: tuple[Group, ...]
    alone: tuple[Run, ...]
    apart: tuple[str, ...]
    rankings: tuple[Ranking, ...]


# Reading


def load_runs(
    tracker: Tracker,
    asked: Sequence[str],
    say: Callable[[str], None] = lambda _: None,
    progress: Progress | None = None,
) -> list[Run]:
    """Read the runs that are asked for, each once, in this order.

    A run whose files are missing is an error if it is asked for alone, and left out with a line if
    a filter or a name stands for several.

    Raises
    ------
    UsageError
        If there are fewer than two.
    TrackingError
    """
    found: dict[str, StoredRun] = {}
    alone = set()
    for text in asked:
        of_text = tracker.find_runs(text.strip())
        if len(of_text) == 1:
            alone.add(of_text[0].run_id)
        found |= {run.run_id: run for run in of_text}
    if len(found) < 2:
        (run,) = found.values()
        raise UsageError(
            f"compare needs two runs or more, got one, '{run.name}' ({run.run_id}): "
            "name another, or a filter that several runs match."
        )
    runs = read_runs(tracker, list(found.values()), say, progress, alone)
    if len(runs) < 2:
        raise UsageError(f"compare needs the scores of two runs or more, got {len(runs)}.")
    return runs


def read_runs(
    tracker: Tracker,
    found: Sequence[StoredRun],
    say: Callable[[str], None] = lambda _: None,
    progress: Progress | None = None,
    needed: Collection[str] = (),
) -> list[Run]:
    """Read the scores of runs; one whose files are missing is left out with a line.

    Raises
    ------
    TrackingError
        If the files of a run whose id is in ``needed`` are missing.
    """
    shared: dict[str, SplitScores] = {}
    runs = []
    for number, stored in enumerate(found, start=1):
        if progress:
            progress("reading scores", number, len(found))
        try:
            record, splits = tracker.read_scores(stored)
        except TrackingError as error:
            if stored.run_id in needed:
                raise
            say(f"left out: {error}")
        else:
            runs.append(_run(stored, record, splits, shared))
    return runs


def _run(
    stored: StoredRun,
    record: Mapping[str, Any],
    splits: Sequence[SplitScores],
    shared: dict[str, SplitScores],
) -> Run:
    """Put the scores of a run in the order of the rows, and let runs share equal rows.

    A sweep's worth of runs then holds little besides its scores.
    """
    test_rows, ordered = {}, {}
    for split in splits:
        by_row = np.lexsort((split.is_anomaly, *np.atleast_2d(split.rows.T)[::-1]))
        rows, is_anomaly = split.rows[by_row], split.is_anomaly[by_row]
        digest = hashlib.sha256(repr(rows.shape).encode() + rows.astype(np.int64).tobytes())
        digest.update(is_anomaly.tobytes())
        test_rows[split.name] = digest.hexdigest()
        same = shared.setdefault(
            digest.hexdigest(),
            SplitScores("", "", None, 0, rows, is_anomaly, np.empty(0)),
        )
        ordered[split.name] = SplitScores(
            split.name,
            split.class_name,
            split.x,
            split.draw,
            same.rows,
            same.is_anomaly,
            split.scores[by_row],
        )
    return Run(stored, record, ordered, test_rows)


# What may be compared


def why_not(a: Run, b: Run) -> list[str]:
    """List the reasons why two runs cannot be compared; none if they can."""
    one, two = a.record, b.record
    reasons = []
    data = [run.record["resolved"].get("data", "") for run in (a, b)]
    if data[0] != data[1]:
        names = one["dataset"], two["dataset"]
        reasons.append(
            f"other data sets, {names[0]} and {names[1]}"
            if names[0] != names[1]
            else f"other data under the name {names[0]}, {data[0][:8]} and {data[1][:8]}"
        )
    for name in ("protocol", "partition"):
        reasons += _unequal(f"another {name}", a.params[name], b.params[name])
    if one["protocol"] == two["protocol"]:
        versions = [run.record["resolved"].get("versions", {}) for run in (a, b)]
        for name in ("protocol", "validation"):
            reasons += _unequal(f"another version of the {name}", *(v.get(name) for v in versions))
        for name in PROTOCOLS[one["protocol"]].defaults if one["protocol"] in PROTOCOLS else ():
            values = a.params.get(name), b.params.get(name)
            if not isinstance(values[0], list):  # a list is the axis of a curve
                reasons += _unequal(f"another {name}", *values)
    if reasons:
        return reasons
    common = [part for part in a.parts if part in b.parts]
    if not a.is_curve and len(common) < max(len(a.parts), len(b.parts)):
        reasons += _unequal("other classes", *(_listed(list(run.parts)) for run in (a, b)))
    elif not common:
        reasons += _unequal("other values of x", *(_listed(list(run.parts)) for run in (a, b)))
    for part in common:
        if set(a.parts[part]) != set(b.parts[part]):
            reasons.append(f"other splits in {part}")
        elif any(a.test_rows[name] != b.test_rows[name] for name in a.parts[part]):
            reasons.append(f"other test rows in {part}")
    for encoder, digest in a.weights.items():
        if b.weights.get(encoder, digest) != digest:
            reasons.append(
                f"other weights under the name {encoder}, {digest[:8]} and "
                f"{b.weights[encoder][:8]}, which makes them different methods"
            )
    return reasons[:3]


def _unequal(what: str, one: Any, two: Any) -> list[str]:
    return [] if one == two else [f"{what}, {_text(one)} and {_text(two)}"]


def _listed(parts: Sequence[Part], most: int = 4) -> str:
    return ", ".join(map(str, parts[:most])) + (f" and {len(parts) - most} more") * (
        len(parts) > most
    )


def compare(runs: Sequence[Run], progress: Progress | None = None) -> Comparison:
    """Sort runs into groups that can be compared, and test all pairs within each.

    Raises
    ------
    UsageError
        If no two of the runs can be compared: it says why.
    """
    sorted_runs: list[list[Run]] = []
    for run in runs:
        home = next((group for group in sorted_runs if not _why_apart(group, run)), None)
        if home is None:
            sorted_runs.append([run])
        else:
            home.append(run)
    apart = tuple(_lines(sorted_runs))
    groups = tuple(_group(group, progress) for group in sorted_runs if len(group) > 1)
    if not groups:
        raise UsageError(" ".join(apart[:3]))
    rankings = tuple(_rankings(groups))
    return Comparison(
        groups=groups,
        alone=tuple(group[0] for group in sorted_runs if len(group) == 1),
        apart=(*apart, *(_not_ranked(groups) if rankings else ())),
        rankings=rankings,
    )


def _why_apart(group: Sequence[Run], run: Run) -> str:
    """Say why a run cannot join a group; empty if it can."""
    for other in group:
        if reasons := why_not(other, run):
            return _not_compared(other, run, "; ".join(reasons))
    if not _shared_parts([*group, run]):
        return _not_compared(group[0], run, "no value of x that all runs have")
    return ""


def _not_compared(one: Run, other: Run, why: str) -> str:
    names = [f"'{run.stored.name}'" for run in (one, other)]
    if names[0] == names[1]:
        names = [f"{names[0]} ({run.stored.run_id[:8]})" for run in (one, other)]
    return f"{names[0]} and {names[1]} cannot be compared: {why}."


def _lines(sorted_runs: Sequence[Sequence[Run]]) -> Iterator[str]:
    """Say why runs are apart, unless the titles of their groups say it."""
    for number, group in enumerate(sorted_runs[1:], start=1):
        alike = [
            other for other in sorted_runs[:number] if _subject(other[0]) == _subject(group[0])
        ]
        other = alike[0] if alike else sorted_runs[0]
        if alike or 1 in (len(group), len(other)):
            yield _why_apart(other, group[0])


def _shared_parts(runs: Sequence[Run]) -> list[Part]:
    return [part for part in runs[0].parts if all(part in run.parts for run in runs)]


def _subject(run: Run) -> str:
    words = [run.params["dataset"], run.params["protocol"]]
    words += [run.params["partition"]] if run.params["partition"] != "test" else []
    words += [run.params["classes"]] if run.params["classes"] != "all" else []
    return ", ".join(words)


# Tests


def _group(runs: Sequence[Run], progress: Progress | None) -> Group:
    """Test all pairs of runs that can be compared; of two runs, also each row."""
    parts = _shared_parts(runs)
    names = [name for part in parts for name in runs[0].parts[part]]
    whole = _resampled(runs, names, progress)
    of_parts = [
        {part: _mean_of(run, whole[number], names, part) for part in parts}
        for number, run in enumerate(runs)
    ]
    rows = [_test_rows(runs, parts)] if len(runs) == 2 else []
    pairs = list(combinations(range(len(runs)), 2))
    means = [
        _delong(runs[a], runs[b], names[0])
        if len(names) == 1  # the mean is the class
        else paired_mean(whole[a], whole[b])
        for a, b in pairs
    ]
    corrected = holm([mean.p for mean in means])
    return Group(
        runs=tuple(runs),
        labels=_labels(runs, HIDDEN),
        parts=tuple(parts),
        means=tuple(one.mean for one in whole),
        values=tuple(of_parts),
        pairs=tuple(
            Pair(a, b, Tested(mean, p), _tested(rows[0]) if rows else {})
            for (a, b), mean, p in zip(pairs, means, corrected, strict=True)
        ),
        differing=_differing(runs),
    )


def _test_rows(runs: Sequence[Run], parts: Sequence[Part]) -> dict[Part, Difference]:
    """Test the difference of two runs in each row."""
    found = {}
    for part in parts:
        names = runs[0].parts[part]
        if len(names) == 1:
            found[part] = _delong(runs[0], runs[1], names[0])
        else:
            found[part] = paired_mean(*_resampled(runs, names))
    return found


def _delong(one: Run, other: Run, name: str) -> Difference:
    """Test the difference of two runs in one split."""
    split = one.splits[name]
    return paired_delong(split.is_anomaly, split.scores, other.splits[name].scores)


def _tested(differences: Mapping[Part, Difference]) -> dict[Part, Tested]:
    corrected = holm([one.p for one in differences.values()])
    return {
        part: Tested(one, p) for (part, one), p in zip(differences.items(), corrected, strict=True)
    }


def _resampled(
    runs: Sequence[Run], names: Sequence[str], progress: Progress | None = None
) -> list[Resampled]:
    """Resample the mean over some splits, in all runs alike."""
    size = sum(len(runs[0].splits[name].scores) for name in names)
    at_once = max(1, ROWS_AT_ONCE // size)
    found: list[Resampled] = []
    for start in range(0, len(runs), at_once):
        some = runs[start : start + at_once]
        found += resample_all([_rows_of(run, names) for run in some])
        if progress:
            progress("weighting test images", len(found), len(runs))
    return found


def _rows_of(run: Run, names: Sequence[str]) -> list[TestRows]:
    splits = [run.splits[name] for name in names]
    return [(split.rows, split.is_anomaly, split.scores) for split in splits]


def _mean_of(run: Run, whole: Resampled, names: Sequence[str], part: Part) -> float:
    values = dict(zip(names, whole.each, strict=True))
    return float(np.mean([values[name].value for name in run.parts[part]]))


# What tells runs apart


def _differing(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return the parameters in which runs differ, and what else their names stood for."""
    each = [dict(run.params) for run in runs]
    if len({params.get("encoder") for params in each}) > 1:
        for params in each:
            params.pop("input", None)  # it repeats the encoder
    for params, run in zip(each, runs, strict=True):
        resolved = run.record["resolved"]
        params["version of the detector"] = resolved.get("versions", {}).get("detector")
        params |= {
            name: resolved[name]
            for name in ("preprocessing", "engine", "arithmetic")
            if name in resolved
        }
        params["selection"] = run.record["selection"]
        commits = dict.fromkeys(
            f"{str(one.get('commit') or 'unknown')[:8]}{DIRTY * bool(one.get('dirty'))}"
            for one in run.record["provenance"]
        )
        params["commit"] = " ".join(commits)
    names = list(dict.fromkeys(name for params in each for name in params))
    found = {name: [_text(params.get(name)) for params in each] for name in names}
    return {name: values for name, values in found.items() if len(set(values)) > 1}


DIRTY = " (dirty)"
"""Stands behind what comes from code that was not committed."""


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _labels(runs: Sequence[Run], hidden: Sequence[str]) -> tuple[str, ...]:
    """Label each run by its method, and by the parameters that tell runs of a method apart."""
    labels = []
    for run in runs:
        alike = [dict(other.params) for other in runs if other.method == run.method]
        if len({params.get("encoder") for params in alike}) > 1:
            alike = [{**params, "input": ""} for params in alike]
        telling = [
            f"{name}={_text(value)}"
            for name, value in run.params.items()
            if name not in (*hidden, "detector", "variant")
            and len({_text(params.get(name)) for params in alike}) > 1
        ]
        labels.append(" ".join([run.method, *telling]))
    counted = Counter(labels)
    return tuple(
        label if counted[label] == 1 else f"{label} {run.stored.run_id[:ID_SHOWN]}"
        for label, run in zip(labels, runs, strict=True)
    )


# Several data sets


def _rankings(groups: Sequence[Group]) -> Iterator[Ranking]:
    """Rank the methods that every data set of a protocol has, where there are enough of both."""
    by_protocol: dict[str, dict[str, Group]] = {}
    for group in groups:
        params = group.runs[0].params
        if params["classes"] == "all":
            subject = ", ".join([params["protocol"], params["partition"]]).removesuffix(", test")
            by_protocol.setdefault(subject, {}).setdefault(group.dataset, group)
    for subject, of_dataset in by_protocol.items():
        values = {name: _values_of_methods(group) for name, group in of_dataset.items()}
        shared = set.intersection(*(set(of_methods) for of_methods in values.values()))
        first = next(iter(values.values()))
        methods = [method for method in first if method in shared]
        if len(methods) < 3 or len(of_dataset) < 2:
            continue
        runs = [first[method][0] for method in methods]
        table = np.array(
            [
                [np.mean(of_methods[method][1]) for method in methods]
                for of_methods in values.values()
            ]
        )
        yield Ranking(
            subject,
            _labels(runs, (*HIDDEN, "seed")),
            tuple(of_dataset),
            table,
            friedman(table),
            nemenyi(table),
        )


def _not_ranked(groups: Sequence[Group]) -> Iterator[str]:
    """Name the groups that no ranking has: of several of a data set, the first is ranked."""
    seen = set()
    for group in groups:
        if group.subject in seen:
            yield (
                f"The ranks on {group.subject} are those of the first group, without "
                f"'{group.labels[0]}'."
            )
        seen.add(group.subject)


def _values_of_methods(group: Group) -> dict[str, tuple[Run, list[float]]]:
    """Return the means of each method of a group: one for each of its seeds."""
    found: dict[str, tuple[Run, list[float]]] = {}
    for run, mean in zip(group.runs, group.means, strict=True):
        params = {
            name: _text(value)
            for name, value in run.params.items()
            if name not in (*HIDDEN, "seed")
        }
        method = repr(sorted({**params, "weights": repr(sorted(run.weights.items()))}.items()))
        found.setdefault(method, (run, []))[1].append(mean.value)
    return found
