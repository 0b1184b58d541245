"""Which levels of 16-bit grey become black and white in a data set: learnt from its training part.

The rule is that of `dn2.levels`. The answer is kept in ``home/data/levels``, unless an image could
not be read here: another machine, or a higher limit, may read it.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.contracts import Dataset, Progress
from dn2.files import read_regular, seal, unseal, write_atomically
from dn2.images import ALL_LEVELS, ImageFiles
from dn2.levels import learn_levels

VERSION = 1
"""Of the rule: a change of it is another data set."""


def with_levels(dataset: Dataset, home: Path, progress: Progress | None = None) -> Dataset:
    """Have 16-bit grey files of a data set read over the range of its training images.

    Returns
    -------
    Dataset
        With another fingerprint if there is such a range; else unchanged.

    Raises
    ------
    dn2.images.ImageMemoryError
        If there is too little memory for an image.
    """
    if not isinstance(dataset.images, ImageFiles):
        return dataset
    levels = _find_levels(dataset, home / "data" / "levels", progress)
    if levels == ALL_LEVELS:
        return dataset
    digest = hashlib.sha256(f"{dataset.fingerprint} levels {levels} {VERSION}".encode())
    return replace(
        dataset, images=dataset.images.seen(levels=levels), fingerprint=digest.hexdigest()
    )


def _find_levels(dataset: Dataset, folder: Path, progress: Progress | None) -> tuple[int, int]:
    images = dataset.images
    assert isinstance(images, ImageFiles)
    kept = folder / f"{dataset.fingerprint}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        said = unseal(read_regular(kept), needed=True)
        black, white = said["levels"]
        if said["version"] == VERSION and 0 <= black < white <= ALL_LEVELS[1]:
            return int(black), int(white)
    training = list(
        dict.fromkeys(images.paths[row] for row in np.flatnonzero(dataset.is_train).tolist())
    )
    what = f"{dataset.name}: looking for 16-bit grey"
    found = learn_levels(
        training,
        view=images.view,
        progress=None if progress is None else lambda done: progress(what, done, len(training)),
    )
    if found.complete and found.n_images:
        with suppress(OSError):  # losing the answer only costs time
            folder.mkdir(parents=True, exist_ok=True)
            content = seal({"version": VERSION, "levels": found.levels}).encode()
            write_atomically(kept, content, lasting=False)
    return found.levels
