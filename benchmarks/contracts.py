"""Define the nouns of the experiment. Read this first.

    Dataset --protocol--> Split --plan--> Batch --detector--> scores --metrics--> Result --> MLflow

Each class is what one stage hands to the next. Nothing is computed here but a hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

Parameters = Mapping[str, Any]
PathPoint = tuple[Mapping[str, Any], np.ndarray, np.ndarray | None]
"""One point of a detector's path: parameters, scores, positions of the nearest training rows."""

Progress = Callable[[str, int, int], None]
"""Called as ``progress(what, done, total)`` while a long step runs.

A total of 0 means a stage of which only the name is known; it ends when something else begins.
"""


class UsageError(ValueError):
    """Refuse a request whose names, values or combination are wrong. Exit code 2."""


class MissingDataError(FileNotFoundError):
    """Report data or weights that are missing, unreadable or not what their digest says.

    Exit code 3.
    """


class OutsideError(RuntimeError):
    """Report a disk or server that refuses. Finished results are kept. Exit code 1."""


class SplitError(RuntimeError):
    """Report a split that cannot be scored, for its detector or its input fails. Exit code 1.

    The message names the split or the input, and the cause: a diverged loss, images that it cannot
    train on, features that are NaN.
    """


class Most:
    """The largest numbers that are taken.

    No machine can do more, or no library takes more. So a slip of the hand is refused at once, not
    when memory or time has run out.
    """

    SEED = 2**32 - 1
    """The largest that NumPy, scikit-learn and torch all take."""

    SEEDS, DRAWS = 10_000, 1_000
    """Runs of one detector that differ in their seeds, and draws of one protocol."""

    COUNT = 1_000_000
    """Neighbours, centres, training images, sets, images in a set."""

    SIZE = 4_096
    """The side of an image in pixels."""

    PIXELS = 10**10
    """Of an image file that is decoded."""

    TRIALS = 100_000

    CELLS = 20_000
    """Runs that one command may ask for."""

    WORKERS, WORKERS_OF_A_MACHINE, WORKERS_PER_CORE = 10_000, 64, 16
    """Workers of a cluster, and of a machine: the larger of the last two, the second for each core.
    """

    NUMBER = 1e9
    """Any other parameter of a detector or a protocol, if it is a whole number."""


BEWARE = "Beware: "
"""How a line begins that warns of a number."""


@dataclass(frozen=True)
class Workspace:
    """Say where files are and how this machine computes.

    It is no part of a cell's key; only what it resolves to is.

    Attributes
    ----------
    home : Path
        ``data/``, ``weights/``, ``features/`` and ``cells/`` live here; ``DN2_HOME``.
    root : Path or None
        A folder that holds the data set already, in the layout of its authors or of torchvision.
    weights : Path or None
        A checkpoint to use instead of the one under ``home/weights``.
    engine, device : str or None
        How and where networks run; None chooses what suits the machine.
    skip_corrupt : bool
        Leave out image files that cannot be decoded, instead of stopping at the first.
    max_pixels : int or None
        Larger image files are not decoded; None means the usual limit.
    drop_duplicates : bool
        Leave those test images out that are training images too.
    """

    home: Path
    root: Path | None = None
    weights: Path | None = None
    engine: str | None = None
    device: str | None = None
    skip_corrupt: bool = False
    max_pixels: int | None = None
    drop_duplicates: bool = False


class PassedOver(NamedTuple):
    """Name a file or folder that a data set does not use.

    ``is_loss`` tells whether it probably holds images that a user believes to be used.
    """

    path: str
    reason: str
    is_loss: bool = False


@dataclass(frozen=True)
class Dataset:
    """Hold labelled images and their official partition.

    Attributes
    ----------
    name : str
        Its name in the table, on the command line and in ``published.csv``.
    images : sequence of n uint8 arrays, each (height, width) or (height, width, 3)
        In native channels. May be lazy: only ``len(images)``, ``images[i]`` and ``images[a:b]``
        are used.
    labels : ndarray of shape (n,), int64
        Positions in ``class_names``.
    is_train : ndarray of shape (n,), bool
    class_names : tuple of str
        Slugs: ``t_shirt_top``, not ``T-shirt/top``.
    fingerprint : str
        SHA-256 (hexadecimal) of the labels, the partition and the images, decoded or as files.
    skipped : tuple of str
        Image files that were left out because they are corrupt, each as ``path: reason``.
    passed_over : tuple of PassedOver
        What else was found beside the images and is not used.
    row_digests : tuple of n str, or None
        What identifies each image, where its file was read for the fingerprint.
    n_dropped : int
        How many test images were left out because they are training images too.
    default_classes : int or None
        A run goes through the first so many classes, in alphabetical order, if none is asked for.
        None means through all of them.
    """

    name: str
    images: Sequence[np.ndarray]
    labels: np.ndarray
    is_train: np.ndarray
    class_names: tuple[str, ...]
    fingerprint: str
    skipped: tuple[str, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()
    row_digests: tuple[str, ...] | None = None
    n_dropped: int = 0
    default_classes: int | None = None

    @cached_property
    def class_of_rows(self) -> np.ndarray:
        """The class name of each image, shape (n,)."""
        return np.asarray(self.class_names)[self.labels]

    @property
    def files(self) -> Sequence[Path] | None:
        """The file of each image, n paths, or None if images are no files."""
        return getattr(self.images, "paths", None)


@dataclass(frozen=True)
class Split:
    """Choose the rows that train, the rows that are scored, and which of these are anomalies.

    It holds row numbers, no pixels.

    Attributes
    ----------
    name : str
        Unique in its protocol and fit for a file name: ``airplane``, ``airplane-n10-draw0``.
    class_name : str
        The class that the split belongs to, as metrics name it.
    x : float or None
        The value on a curve's axis: contamination as a fraction, number of images or group size.
        None if the protocol draws no curve.
    draw : int
        The number of the random draw, from 0.
    train, test : ndarray of int64, (n,), or (n_groups, size)
        Row numbers of the data set.
    is_anomaly : ndarray of bool, aligned with ``test``
    """

    name: str
    class_name: str
    x: float | None
    draw: int
    train: np.ndarray
    test: np.ndarray
    is_anomaly: np.ndarray


class Detector(Protocol):
    """Define what every method offers; `benchmarks.detectors.method` lists the optional abilities.

    `fit` calls ``monitor(name, epoch, epochs, share, loss)``: ``name`` is ``loss`` or
    ``pretrain_loss``, epochs count from 1, and ``share`` is the fraction of the epoch that is done,
    1.0 at its end. ``checkpoint`` is one file, which `fit` writes. If it exists, `fit` continues
    from it and reaches the same weights.
    """

    def fit(
        self,
        X: np.ndarray,
        *,
        monitor: Callable[..., None] | None = None,
        checkpoint: Path | None = None,
    ) -> Detector:
        """Learn from normal rows alone, shape (n, ...)."""

    def anomaly_score(self, X: np.ndarray) -> np.ndarray:
        """Score rows, shape (n,): higher is more anomalous.

        A row's score does not depend on the other rows scored with it.
        """


@dataclass(frozen=True)
class Experiment:
    """Describe one cell of the benchmark: what is run, on what, with which parameters.

    ``preset`` names the budget of a trained detector, ``paper`` or ``cpu``; it is ``none`` where
    nothing is trained. ``fit`` says how images become squares, ``crop``, ``pad`` or ``squash``; it
    is empty where that is the input's own way. ``resolved`` holds what the names stand for today
    (digests of data and weights, preprocessing, engine, versions of protocol and detector), so that
    a changed meaning makes another cell. It is empty until `benchmarks.experiments.resolve` fills
    it.

    ``device`` is where a detector trains; None means CUDA if there is one. It is no part of the
    key, because ``resolved`` holds the arithmetic of the device.
    """

    dataset: str
    protocol: str
    detector: str
    input: str
    normalize: str = "none"
    variant: str = ""
    detector_params: Parameters = field(default_factory=dict)
    protocol_params: Parameters = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    partition: str = "test"
    seed: int = 0
    preset: str = "none"
    resolved: Parameters = field(default_factory=dict)
    fit: str = ""
    device: str | None = field(default=None, compare=False)

    @cached_property
    def key(self) -> str:
        """The hash of everything above except the device: equal keys mean equal results."""
        fields = asdict(self)
        del fields["device"]
        if self.preset == "none":
            del fields["preset"]  # keys made before there were presets stay valid
        if not self.fit:
            del fields["fit"]  # so do those made before there was a choice
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    @property
    def params(self) -> dict[str, Any]:
        """The experiment as one flat dict, as MLflow and the tables show it.

        Every run has the same names, and numbers are plain numbers.
        """
        flat = {
            "dataset": self.dataset,
            "protocol": self.protocol,
            "detector": self.detector,
            "variant": self.variant or "none",
            "preset": self.preset,
            "input": self.input,
            "encoder": "+".join(self.encoders) or "none",
            "normalize": self.normalize,
            "classes": ",".join(self.classes) or "all",
            "partition": self.partition,
            "seed": self.seed,
        }
        if self.fit:
            flat["fit"] = self.fit
        return {**flat, **self.protocol_params, **self.detector_params}

    @property
    def encoders(self) -> tuple[str, ...]:
        """The encoders whose features are joined into its input; empty for pixels."""
        kind, _, names = self.input.partition(":")
        return tuple(names.split("+")) if kind == "features" else ()

    @property
    def method(self) -> str:
        """The detector with its variant: ``geom rotation``."""
        return f"{self.detector} {self.variant}".rstrip()

    @property
    def called(self) -> str:
        """Its name in progress and errors: ``geom rotation on cifar10``."""
        return f"{self.method} on {self.dataset}"

    def with_params(self, **params: Any) -> Experiment:
        """Return the same cell with other detector parameters."""
        return replace(self, detector_params={**self.detector_params, **params})


@dataclass(frozen=True)
class Batch:
    """Hold the cells that one fit serves, and their splits.

    `benchmarks.experiments.plan` makes it. Session, executor, worker and scoring pass it on; none
    of them groups, splits or resolves again.

    Attributes
    ----------
    cells : tuple of Experiment
        Resolved; of one data set, protocol, detector and normalisation. The last one has the
        largest values of the detector's path.
    splits : tuple of Split
    input : str
        The input to read: that of every cell, or all their encoders joined.
    wanted : frozenset of str
        Keys of the cells that were asked for. The others cost nothing extra: their results stay on
        disk until a later request.
    family : str
        A name shared by all cells that one fit could serve.
    provenance : mapping
        Copied into each result.
    done : frozenset of (key, split name)
        Results that exist already.
    is_part : bool
        Whether other cells that the same fit serves will be asked for later, or elsewhere.
    """

    cells: tuple[Experiment, ...]
    splits: tuple[Split, ...]
    input: str
    wanted: frozenset[str]
    family: str
    provenance: Mapping[str, Any]
    done: frozenset[tuple[str, str]] = frozenset()
    is_part: bool = False

    @property
    def called(self) -> str:
        """The method and the data set: ``geom rotation on cifar10``."""
        return self.cells[-1].called

    @property
    def asked(self) -> tuple[Experiment, ...]:
        """The cells that are wanted."""
        return tuple(cell for cell in self.cells if cell.key in self.wanted)

    @property
    def locks(self) -> tuple[str, ...]:
        """The names to lock, so that no two processes compute one cell or make one search twice.

        A batch that is part of a larger one also locks its family: another process may begin the
        same search for other cells of the family.
        """
        shared = (self.family,) if self.is_part else ()
        return (*(cell.key for cell in self.asked), *shared)

    @property
    def left(self) -> tuple[Split, ...]:
        """The splits that some cell still needs."""
        return tuple(split for split in self.splits if self.needing(split))

    @property
    def cells_left(self) -> tuple[Experiment, ...]:
        """The cells that still need some split."""
        needing = {cell.key for split in self.splits for cell in self.needing(split)}
        return tuple(cell for cell in self.cells if cell.key in needing)

    def needing(self, split: Split) -> list[Experiment]:
        """List the cells that have no result for a split yet."""
        return [cell for cell in self.cells if (cell.key, split.name) not in self.done]

    def without(self, done: Iterable[tuple[str, str]]) -> Batch:
        """Return the batch without results that exist, reading only the encoders still needed."""
        batch = replace(self, done=self.done | frozenset(done))
        return replace(batch, input=join_inputs(batch.cells_left or self.cells))

    def only(self, splits: Iterable[Split]) -> Batch:
        """Return the batch with these splits alone: the unit of work of one worker."""
        return replace(self, splits=tuple(splits))

    def for_cell(self, cell: Experiment, is_free: Callable[[Experiment], bool]) -> Batch:
        """Return the batch in which one of its cells is asked for.

        Of the other cells, those are left that are free: their input is there. One of the cells
        has the encoders of all.
        """
        there = [one for one in self.cells if one.key == cell.key or is_free(one)]
        wider = [one for one in there if set(one.encoders).issuperset(cell.encoders)]
        held = set(max(wider, key=lambda one: len(set(one.encoders))).encoders)
        cells = tuple(one for one in there if held.issuperset(one.encoders))
        return replace(
            self,
            cells=cells,
            input=join_inputs(cells),
            wanted=frozenset({cell.key}),
            is_part=len(self.cells) > 1,
        )

    def apart(self) -> list[Batch]:
        """Split the batch into one for each input of the wanted cells."""
        by_input: dict[str, list[Experiment]] = {}
        for cell in self.asked:
            by_input.setdefault(cell.input, []).append(cell)
        return [
            replace(self, cells=tuple(cells), input=name, wanted=frozenset(c.key for c in cells))
            for name, cells in by_input.items()
        ]


def join_inputs(cells: Sequence[Experiment]) -> str:
    """Name the input that holds those of all cells; these differ in their encoders at most."""
    widest = max(cells, key=lambda cell: len(set(cell.encoders)))
    encoders = dict.fromkeys(
        (*widest.encoders, *(name for cell in cells for name in cell.encoders))
    )
    covered = encoders.keys() <= set(widest.encoders)
    return widest.input if covered else f"features:{'+'.join(encoders)}"


CPU_SECONDS = "time/cpu_seconds"
"""MLflow's name of the CPU time of a split's fit and scores: user and system, all threads."""


@dataclass(frozen=True)
class Result:
    """Hold what one detector did on one split.

    Attributes
    ----------
    experiment : Experiment
    split : str
        The split's name; ``class_name``, ``x`` and ``draw`` are copied from the split.
    metrics : dict
        ``rocauc``, ``rocauc_low``, ``rocauc_high``, ``average_precision`` and ``prevalence``, as
        fractions in [0, 1]. Some detectors add ``accuracy_normal`` and ``accuracy_anomaly``, the
        share of transformations recognised on the test images. An approximate search adds
        ``recall`` of the exact nearest rows, and ``rocauc_change``, its ROCAUC minus the exact
        one. An oracle adds ``chosen_<parameter>``, which is no fraction.
    scores : ndarray of shape (n_test,), float32 or float64
        As the detector returns them: higher is more anomalous.
    rows : ndarray of int64, (n_test,) or (n_test, size)
        The rows of the data set that were scored.
    is_anomaly : ndarray of shape (n_test,), bool
    nearest : ndarray of int64 of shape (n_test, at most 10), or None
        The rows of the nearest training images in the data set, if the detector knows them.
    provenance : dict
        Commit, dirty, versions, device, engine, host.
    cost : dict
        What it cost, under MLflow's names: ``memory/peak_mb``, the most memory that its process had
        held so far; ``throughput/images_per_second``, how fast its features were extracted;
        `CPU_SECONDS`, the CPU time that fit and scores took.
    """

    experiment: Experiment
    split: str
    class_name: str
    x: float | None
    draw: int
    metrics: Mapping[str, float]
    scores: np.ndarray
    rows: np.ndarray
    is_anomaly: np.ndarray
    nearest: np.ndarray | None
    n_train: int
    n_test: int
    fit_seconds: float
    score_seconds: float
    provenance: Mapping[str, Any]
    cost: Mapping[str, float] = field(default_factory=dict)


class Interval(NamedTuple):
    """Hold a value and its 95 % interval: ``low <= value <= high``."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Cell:
    """Hold a finished cell: one result for each split, and the MLflow run that has them.

    Attributes
    ----------
    experiment : Experiment
    run_id : str
        The MLflow run; empty if it could not be logged yet.
    selection : str
        ``oracle`` if something was tuned on test labels, ``validation``, or ``none``.
    results : tuple of Result
    mean : Interval or None
        ROCAUC over the splits; None if they form a curve.
    """

    experiment: Experiment
    run_id: str
    selection: str
    results: tuple[Result, ...]
    mean: Interval | None


def check_name(name: str, table: Iterable[str], what: str) -> str:
    """Return ``name`` if the table has it.

    Raises
    ------
    UsageError
        With the nearest names and the whole list.
    """
    names = sorted(table)
    if name in names:
        return name
    raise UsageError(
        f"unknown {what} '{name}'.{did_you_mean(name, names)} There are: {', '.join(names)}."
    )


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return a question that names similar names, with a leading space; empty if there are none."""
    near = get_close_matches(name, list(names), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(near)}?" if near else ""
