"""Pictures of the worst errors, and copies of test images in the training set.

Both need the data set on this disk, and the features that the run saw in its feature store:
the tracking store has rows and scores, and no pixel.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from benchmarks.comparison import Run
from benchmarks.contracts import Dataset, MissingDataError, OutsideError, UsageError, Workspace
from benchmarks.datasets import is_on_disk, load_dataset
from benchmarks.metrics import auroc
from benchmarks.report.class_table import safe_name
from benchmarks.report.document.parts import Entry, Gallery, Grid, Picture, PictureRow, Section
from benchmarks.report.tables import percent
from benchmarks.result_store import NeighbourRows

ROWS_AT_ONCE = 1000

ERRORS_SHOWN = 3
NEAREST_SHOWN = 3
PAIRS_SHOWN = 8
CLASSES_SHOWN = 20
SIDE = 64
"""Pixels of the longer side of a picture; smaller images keep their size."""

PICTURE_BYTES = 1_200_000
"""What all pictures of a report may take together."""

COPY_RATIO = 0.4
"""A test image whose squared distance to its nearest training image is at most this fraction of
the median of all test images counts as a near-duplicate. Looked at in CIFAR-10: up to there nearly
all pairs are crops, tints or mirror images of one photograph."""


UNREADABLE = (MissingDataError, OutsideError, UsageError, OSError, ValueError)
"""What reading data and features may raise; the report is then made without them."""


@dataclass(frozen=True)
class Looked:
    """Hold a run with its neighbours, and the data that it was made from.

    ``why_not`` says why pictures and distances are not to be had; empty if they are.
    """

    label: str
    run: Run
    neighbours: tuple[NeighbourRows, ...]
    dataset: Dataset | None
    features: Any
    why_not: str = ""

    @property
    def called(self) -> str:
        """The run's label, its data set and protocol."""
        return f"{self.label}, {', '.join(self.subject)}"

    @cached_property
    def subject(self) -> tuple[str, str]:
        """The data set and the protocol."""
        return str(self.run.params["dataset"]), str(self.run.params["protocol"])


def look(
    label: str, run: Run, neighbours: tuple[NeighbourRows, ...], workspace: Workspace
) -> Looked:
    """Open the data of a run, if they and their features are on this disk."""
    name = str(run.params["dataset"])

    def without(why: str) -> Looked:
        return Looked(label, run, neighbours, None, None, f"{label} on {name}: {why}.")

    if not neighbours:
        return without("the run has no neighbours of single images")
    try:
        if not is_on_disk(name, home=workspace.home):
            return without(f"the data are not in {workspace.home}")
        dataset = load_dataset(name, home=workspace.home)
        if dataset.fingerprint != run.record["resolved"].get("data"):
            return without(f"the data in {workspace.home} are not those of the run")
        rows = max(int(max(one.rows.max(), one.nearest.max())) for one in neighbours)
        if rows >= len(dataset.labels) or min(int(one.nearest.min()) for one in neighbours) < 0:
            return without("it names rows that the data do not have")
        features = _features(dataset, run, workspace)
    except UNREADABLE as error:
        return without(f"the data cannot be read ({_reason(error)})")
    if features is None:
        return without("its features are not in the feature store, so there are no distances")
    return Looked(label, run, neighbours, dataset, features)


def _features(dataset: Dataset, run: Run, workspace: Workspace) -> Any:
    """Open the features that a run saw, normalised as it did; None if they are not stored."""
    from benchmarks.inputs import (
        Rows,
        encoder_names,
        feature_store,
        input_identity,
        load_input,
    )

    name = str(run.record["input"])
    names = encoder_names(name)
    if not names or input_identity(name, workspace).get("weights") != dict(run.weights):
        return None
    if any(feature_store(dataset, encoder, workspace).missing() for encoder in names):
        return None
    opened = load_input(dataset, name, workspace)
    assert isinstance(opened, Rows)
    return opened.normalized(str(run.params["normalize"]))


# Pictures


def picture_section(looked: Sequence[Looked]) -> Section:
    """Show the worst false alarms and misses of each class, one run for each data set."""
    there = [one for one in looked if one.dataset is not None]
    parts = []
    missing = [one.why_not for one in looked if one.why_not]
    for one in there:
        try:
            made = _that_fit(one, PICTURE_BYTES // len(there))
        except UNREADABLE as error:
            missing.append(f"{one.called}: the images cannot be read ({_reason(error)}).")
            continue
        if not made:
            missing.append(f"{one.called}: the pictures take too much room.")
        parts += made
    text = (
        "A false alarm is a normal test image with a high score; a miss is an anomaly with a low "
        "one. Right of each image stand its nearest training images. d is the squared distance of "
        "the features, normalised as in the run; the score is the mean over the neighbours.",
    )
    return Section("pictures", "The worst errors", text, tuple(parts), tuple(missing))


def _that_fit(one: Looked, budget: int) -> list[Gallery]:
    """Return galleries of as many errors as fit into some bytes; none if one each is too much."""
    for shown in range(ERRORS_SHOWN, 0, -1):
        galleries = list(_galleries(one, shown))
        if _bytes(galleries) <= budget:
            return galleries
    return []


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _bytes(galleries: Sequence[Gallery]) -> int:
    return sum(
        len(picture.content)
        for gallery in galleries
        for rows in gallery.groups.values()
        for row in rows
        for picture in (row.image, *row.nearest)
    )


def _galleries(one: Looked, shown: int) -> Iterator[Gallery]:
    assert one.dataset is not None
    for split in one.neighbours[:CLASSES_SHOWN]:
        groups = {}
        for title, which, sign in (
            ("worst false alarms", ~split.is_anomaly, -1),
            ("worst misses", split.is_anomaly, 1),
        ):
            places = np.flatnonzero(which)
            order = places[np.argsort(sign * split.scores[places], kind="stable")][:shown]
            groups[title] = tuple(_row(one, split, int(place)) for place in order)
        yield Gallery(
            f"{split.class_name}, {', '.join(one.subject)}",
            f"{one.label}: {len(split.rows):,} test images",
            groups,
        )


def _row(one: Looked, split: NeighbourRows, place: int) -> PictureRow:
    dataset = one.dataset
    assert dataset is not None
    row = int(split.rows[place])
    nearest = split.nearest[place, :NEAREST_SHOWN]
    distances = _squared(one.features, np.array([row]), nearest[None])[0]
    named = _name(dataset, row)
    image = _picture(dataset, row, f"{named}\nscore {split.scores[place]:.3g}")
    others = tuple(
        _picture(dataset, int(other), f"{_name(dataset, int(other))}\nd {distance:.3g}")
        for other, distance in zip(nearest, distances, strict=True)
    )
    return PictureRow(f"row {row}", image, others)


def _name(dataset: Dataset, row: int) -> str:
    return dataset.class_names[int(dataset.labels[row])]


def _picture(dataset: Dataset, row: int, caption: str) -> Picture:
    from PIL import Image

    image = Image.fromarray(np.asarray(dataset.images[row]))
    image.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    image.save(content, "WEBP", quality=80)
    return Picture(
        content.getvalue(),
        "image/webp",
        caption,
        f"image in row {row}: {caption}".replace("\n", ", "),
    )


def _squared(features: Any, rows: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """Return the squared distances of rows (n,) to their nearest rows (n, k), in float64."""
    found = np.empty(nearest.shape)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        of_rows = np.asarray(features[rows[part]], dtype=np.float64)
        of_nearest = np.asarray(features[nearest[part]], dtype=np.float64)
        found[part] = ((of_nearest - of_rows[:, None]) ** 2).sum(axis=-1)
    return found


# Copies of test images among the training images


def copy_section(looked: Sequence[Looked], runs: Sequence[tuple[str, Run]]) -> Section:
    """List test images with a near-duplicate in the training set, and ROCAUC without them.

    Parameters
    ----------
    looked : sequence of Looked
    runs : sequence of (label, Run)
        Whose ROCAUC is computed again.
    """
    parts: list[Grid | Gallery] = []
    missing = [one.why_not for one in looked if one.why_not]
    for one in looked:
        if one.dataset is not None:
            try:
                parts += _of_copies(one, runs)
            except UNREADABLE as error:
                missing.append(f"{one.called}: the images cannot be read ({_reason(error)}).")
    text = (
        "A test image counts as a near-duplicate if the squared distance of its features to the "
        "nearest training image that the run names, whatever the class, is at most "
        f"{COPY_RATIO:g} of the median over all test images. The rule was set by looking at "
        "CIFAR-10's pairs; a few of those found are merely alike.",
    )
    return Section(
        "copies", "Test images that training has seen", text, tuple(parts), tuple(missing)
    )


def _of_copies(one: Looked, runs: Sequence[tuple[str, Run]]) -> list[Grid | Gallery]:
    """Make the table of a data set, and a gallery of some of its pairs."""
    assert one.dataset is not None
    copies, pairs = find_copies(one.neighbours, one.features)
    same = [
        (label, run)
        for label, run in runs
        if (str(run.params["dataset"]), str(run.params["protocol"])) == one.subject
    ]
    parts: list[Grid | Gallery] = [_copy_grid(one, copies, same)]
    rows = tuple(
        PictureRow(
            f"row {test}",
            _picture(one.dataset, test, f"test, {_name(one.dataset, test)}"),
            (_picture(one.dataset, train, f"training, {_name(one.dataset, train)}\nd {d:.3g}"),),
        )
        for test, train, d in pairs[:: max(1, len(pairs) // PAIRS_SHOWN)][:PAIRS_SHOWN]
    )
    if rows:
        of = f"{len(rows)} of {len(copies)}, from the nearest pair to the farthest"
        title = f"Near-duplicates, {', '.join(one.subject)}"
        parts.append(Gallery(title, of, {"pairs": rows}))
    return parts


def find_copies(
    neighbours: Sequence[NeighbourRows], features: Any, ratio: float = COPY_RATIO
) -> tuple[np.ndarray, list[tuple[int, int, float]]]:
    """Find test images with a near-duplicate in the training set.

    Parameters
    ----------
    neighbours : sequence of NeighbourRows
        Of all splits: a test image's nearest training image is the nearest of all of them.
    features : array that rows index
    ratio : float
        See `COPY_RATIO`.

    Returns
    -------
    (ndarray of int64, list of (test row, training row, squared distance))
        The rows of the test images, ascending, and the pairs, the nearest first.
    """
    best: dict[int, tuple[float, int]] = {}
    for split in neighbours:
        squared = _squared(features, split.rows, split.nearest[:, :1])[:, 0]
        for row, train, d in zip(
            split.rows.tolist(), split.nearest[:, 0].tolist(), squared.tolist(), strict=True
        ):
            if d < best.get(row, (np.inf, 0))[0]:
                best[row] = d, train
    limit = ratio * float(np.median([d for d, _ in best.values()]))
    pairs = sorted((d, row, train) for row, (d, train) in best.items() if d <= limit)
    rows = np.array(sorted(row for _, row, _ in pairs), dtype=np.int64)
    return rows, [(row, train, d) for d, row, train in pairs]


def _copy_grid(one: Looked, copies: np.ndarray, runs: Sequence[tuple[str, Run]]) -> Grid:
    subject = ", ".join(one.subject)
    rows = []
    for label, run in runs:
        whole, without = mean_without(run, copies)
        if without is not None:
            rows.append(
                (
                    Entry(label),
                    Entry(percent(whole, decimals=2), whole, runs=(run.stored.run_id,)),
                    Entry(percent(without, decimals=2), without),
                    Entry(percent(without - whole, decimals=2, sign=True), without - whole),
                )
            )
    n_test = len({int(row) for split in one.neighbours for row in split.rows})
    return Grid(
        safe_name(f"copies-{'-'.join(one.subject)}"),
        f"ROCAUC with and without near-duplicates, {subject}",
        ("method", "all test images", "without near-duplicates", "difference"),
        (False, True, True, True),
        tuple(rows),
        (
            f"{len(copies):,} of {n_test:,} test images ({percent(len(copies) / n_test)} %) have a "
            f"near-duplicate in the training set, by the features of {one.label}.",
        ),
    )


def mean_without(run: Run, copies: np.ndarray) -> tuple[float, float | None]:
    """Return a run's mean ROCAUC over its splits, with all test images and without some.

    The second is None if a split then has no normal or no anomalous image.
    """
    whole, without = [], []
    for split in run.splits.values():
        whole.append(auroc(split.is_anomaly, split.scores))
        left = ~np.isin(split.rows, copies)
        if left.ndim > 1 or len(set(split.is_anomaly[left].tolist())) < 2:
            return float(np.mean(whole)), None
        without.append(auroc(split.is_anomaly[left], split.scores[left]))
    return float(np.mean(whole)), float(np.mean(without))
