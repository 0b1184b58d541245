"""What of a data set is used, what is passed over and why, and which images it holds twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.contracts import BEWARE, Dataset, PassedOver
from benchmarks.datasets.duplicates import Duplicates

LISTED = 10_000
"""Of more files than this, the list names the first and counts the others."""

ENDING = "ending in "


@dataclass(frozen=True)
class Inventory:
    """Hold what is said of a data set.

    Attributes
    ----------
    lines : tuple of str
        To print; those that begin with `BEWARE` concern the numbers too.
    listing : tuple of str
        The same, and every file that is not used, and every test image that trains.
    n_shared : int
        How many test images are training images too.
    """

    lines: tuple[str, ...]
    listing: tuple[str, ...]
    n_shared: int = 0

    @property
    def warnings(self) -> tuple[str, ...]:
        """The lines that warn."""
        return tuple(line for line in self.lines if line.startswith(BEWARE))


def take_inventory(dataset: Dataset, duplicates: Duplicates | None) -> Inventory:
    """Say what of a data set is used.

    Arrays need no such line, unless there is something to warn of.

    Parameters
    ----------
    dataset : Dataset
    duplicates : Duplicates or None
        None if they were not looked for.
    """
    lines = [] if dataset.files is None else [_used(dataset, duplicates)]
    lines += _losses(dataset)
    if dataset.n_dropped:
        lines.append(
            f"{dataset.name}: {dataset.n_dropped:,} test images are left out, because they are "
            "training images too (--drop-duplicates)"
        )
    if duplicates is not None and len(duplicates.shared):
        lines.append(_leakage(dataset, duplicates))
    listing = [f"{one.path}: {one.reason}" for one in dataset.passed_over]
    if duplicates is not None:
        listing += _pairs(dataset, duplicates)
    more = [f"and {len(listing) - LISTED:,} more"] if len(listing) > LISTED else []
    n_shared = 0 if duplicates is None else len(duplicates.shared)
    return Inventory(tuple(lines), (*lines, *listing[:LISTED], *more), n_shared)


def count_passed_over(passed_over: Sequence[PassedOver]) -> str:
    """Count the files and folders that are passed over by reason, and by ending."""
    counts: dict[str, int] = {}
    endings = []
    for one in passed_over:
        if one.reason.startswith(ENDING):
            endings.append(one.reason.removeprefix(ENDING))
        else:
            counts[one.reason] = counts.get(one.reason, 0) + 1
    from dn2.formats import count_endings

    parts = [f"{count:,} {reason}" for reason, count in counts.items()]
    if endings:
        parts.append(f"{len(endings):,} with other endings ({count_endings(endings)})")
    return "; ".join(parts)


def _used(dataset: Dataset, duplicates: Duplicates | None) -> str:
    n_train, n_test = int(dataset.is_train.sum()), int((~dataset.is_train).sum())
    trained = {dataset.class_names[label] for label in set(dataset.labels[dataset.is_train])}
    only_tested = [
        name
        for number, name in enumerate(dataset.class_names)
        if name not in trained and (dataset.labels == number).any()
    ]
    classes = len(dataset.class_names)
    text = (
        f"{dataset.name}: {n_train:,} training and {n_test:,} test images in {classes:,} "
        f"class{'es' if classes != 1 else ''}"
    )
    if only_tested:
        shown = ", ".join(only_tested[:3]) + (", ..." if len(only_tested) > 3 else "")
        text += f" ({len(only_tested):,} without training images: {shown})"
    if dataset.skipped:
        text += f"; {len(dataset.skipped):,} corrupt ones left out"
    if passed_over := count_passed_over(dataset.passed_over):
        text += f"; passed over: {passed_over}"
    if duplicates is not None:
        text += (
            f"; copies: {duplicates.in_train:,} within train, {duplicates.in_test:,} within test, "
            f"{len(duplicates.shared):,} of test in train"
        )
    return text


def _losses(dataset: Dataset) -> list[str]:
    """Warn of what is passed over and probably holds images."""
    losses = [one for one in dataset.passed_over if one.is_loss]
    if not losses:
        return []
    from dn2.formats import OF_HEIF, UNREAD

    counted = count_passed_over(losses)
    suffixes = {one.reason.removeprefix(ENDING) for one in losses}
    remedy = "convert them to PNG, or move them away" if suffixes & UNREAD else "see inventory.txt"
    if suffixes & OF_HEIF:
        remedy += "; pip install pillow-heif reads HEIC"
    return [
        f"{BEWARE}{dataset.name} has what looks like images and is not used: {counted} ({remedy})."
    ]


def _leakage(dataset: Dataset, duplicates: Duplicates) -> str:
    shared = duplicates.shared
    same = int((dataset.labels[shared] == dataset.labels[duplicates.twins]).sum())
    n_test = int((~dataset.is_train).sum())
    is_one = len(shared) == 1
    equal = "byte for byte" if dataset.files is not None else "pixel for pixel"
    other = f", {len(shared) - same:,} with another label" if same < len(shared) else ""
    return (
        f"{BEWARE}{len(shared):,} of the {n_test:,} test images of {dataset.name} "
        f"{'is a training image' if is_one else 'are training images'} too, {equal} "
        f"({same:,} with the same label{other}): "
        f"{'its score says' if is_one else 'their scores say'} nothing of new images. "
        f"--drop-duplicates leaves {'it' if is_one else 'them'} out of the test set."
    )


def _pairs(dataset: Dataset, duplicates: Duplicates) -> list[str]:
    """List the test images that train, with the training image that each equals."""
    files = dataset.files
    pairs = zip(duplicates.shared.tolist(), duplicates.twins.tolist(), strict=True)
    if files is None:
        return [f"test row {row} equals training row {twin}" for row, twin in pairs]
    from dn2.files import printable

    return [
        f"{printable(str(files[row]))}: a test image that equals the training image "
        f"{printable(str(files[twin]))}"
        for row, twin in pairs
    ]
