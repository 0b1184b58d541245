"""Results on disk: one file a split, written whole the moment the split is finished, and one lock a cell.

    home/cells/<experiment.key>/<split name>.npz     scores, rows, is_anomaly, nearest, and the rest as JSON text
    home/cells/<experiment.key>/<split name>.checkpoint    of a training that goes on
    home/cells/<experiment.key>/lock

A result is here before MLflow hears of it, so neither a killed process nor a tracking server that goes away loses any.
"""

from __future__ import annotations

import fcntl
import json
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from benchmarks.contracts import Experiment, OutsideError, Result

FORMAT = 1
"""Number of this layout: a file of another one is computed again."""

ARRAYS = ("scores", "rows", "is_anomaly")


class CellsError(OutsideError):
    """The folder of the results cannot be used: full, not writable, not a folder. Results written before are untouched."""


class Cells:
    """The finished splits of every cell, under ``home/cells``.

    Parameters
    ----------
    home : Path
        ``DN2_HOME``; made when the first result is written.

    Notes
    -----
    Hold `lock` around `load`, the computation and `save`: then of two processes that are asked for the same cell one computes,
    and the other finds the results there. `load` alone, to read, needs no lock.
    """

    def __init__(self, home: Path) -> None:
        self.home = home

    def folder(self, experiment: Experiment) -> Path:
        """Where this cell's files are."""
        return self.home / "cells" / experiment.key

    def save(self, result: Result, *, lasting: bool = True) -> Path:
        """Write one split's result: under another name, to the disk, then renamed, so that a file with this name is whole.

        Parameters
        ----------
        result : Result
        lasting : bool, default True
            Wait until the disk has it, so that it outlives a power failure too. Of many small results the waiting is what costs.

        Raises
        ------
        CellsError
            If the disk is full or the folder cannot be written. Nothing that passes for a result is left behind.

        Notes
        -----
        The split's checkpoint is removed: nothing is continued from it any more.
        """
        path = self.folder(result.experiment) / f"{result.split}.npz"
        unfinished = path.with_name(f".{path.name}.unfinished")
        arrays = {name: getattr(result, name) for name in ARRAYS}
        if result.nearest is not None:
            arrays["nearest"] = result.nearest
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with unfinished.open("wb") as file:
                    np.savez(file, about=np.array(_about(result)), **arrays)
                    file.flush()
                    if lasting:
                        os.fsync(file.fileno())
                unfinished.replace(path)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
            if lasting:
                _sync_folder(path.parent)
            self.checkpoint(result.experiment, result.split).unlink(missing_ok=True)
        except OSError as error:
            raise _unusable("write the result", path, error) from error
        return path

    def checkpoint(self, experiment: Experiment, split: str) -> Path:
        """Where a detector keeps the state of its training on a split."""
        return self.folder(experiment) / f"{split}.checkpoint"

    def load(self, experiment: Experiment) -> dict[str, Result]:
        """Read the splits that are finished, by name.

        A file that is cut short, altered, of another cell or of another layout is left out with a warning: its split is computed
        again and `save` then replaces it.
        """
        results = {}
        for path in sorted(self.folder(experiment).glob("*.npz")):
            try:
                result = _read(path, experiment)
            except (
                OSError,
                EOFError,
                ValueError,
                KeyError,
                TypeError,
                zipfile.BadZipFile,
                zlib.error,
            ) as error:
                warnings.warn(
                    f"{path} is not a whole result ({_one_line(error)}): its split is computed again",
                    stacklevel=2,
                )
            else:
                results[result.split] = result
        return results

    def discard(self, experiment: Experiment) -> None:
        """Remove this cell's results and checkpoints, so that it is computed from the start.

        Raises
        ------
        CellsError
            If a file cannot be removed.
        """
        for path in (
            *self.folder(experiment).glob("*.npz"),
            *self.folder(experiment).glob("*.checkpoint*"),
        ):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise _unusable("remove the result", path, error) from error

    @contextmanager
    def lock(
        self, names: Iterable[str], waiting: Callable[[Path], None] | None = None
    ) -> Iterator[None]:
        """Hold these cells for this process; wait while another process has one of them.

        The locks are taken in the order of the keys, so that two processes cannot wait for each other, and they end with the
        process, however it ends.

        Parameters
        ----------
        names : iterable of str
            Of folders under ``cells``: keys.
        waiting : callable, optional
            Called once with the folder of each cell that has to be waited for.

        Raises
        ------
        CellsError
            If the folder cannot be written.
        """
        folders = sorted({self.home / "cells" / name for name in names})
        with ExitStack() as held:
            for folder in folders:
                file = held.enter_context(_open_lock(folder))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if waiting:
                        waiting(folder)
                    fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _about(result: Result) -> str:
    """Everything of a result but its arrays, as JSON."""
    return json.dumps(
        {
            "format": FORMAT,
            "experiment": asdict(result.experiment),
            "split": result.split,
            "class_name": result.class_name,
            "x": result.x,
            "draw": result.draw,
            "metrics": {name: float(value) for name, value in result.metrics.items()},
            "n_train": result.n_train,
            "n_test": result.n_test,
            "fit_seconds": result.fit_seconds,
            "score_seconds": result.score_seconds,
            "provenance": dict(result.provenance),
            "cost": dict(result.cost),
        }
    )


def _read(path: Path, experiment: Experiment) -> Result:
    """Read one file; the zip's checksums find a changed byte, the comparisons a file that belongs elsewhere."""
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        about: dict[str, Any] = json.loads(str(file["about"]))
        arrays = {name: file[name] for name in ARRAYS}
        nearest = file.get("nearest")
    if about.pop("format") != FORMAT:
        raise ValueError("another layout")
    written = about.pop("experiment")
    if (
        Experiment(**{**written, "classes": tuple(written["classes"])}).key != experiment.key
        or about["split"] != path.stem
    ):
        raise ValueError("another cell or split")
    lengths = {len(array) for array in (*arrays.values(), *(() if nearest is None else (nearest,)))}
    if lengths != {about["n_test"]}:
        raise ValueError("arrays of different lengths")
    return Result(experiment=experiment, nearest=nearest, **arrays, **about)


def _open_lock(folder: Path) -> IO[bytes]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / "lock").open("ab")
    except OSError as error:
        raise _unusable("lock the cell", folder, error) from error


def _sync_folder(folder: Path) -> None:
    """Bring the renaming itself to the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _unusable(doing: str, path: Path, error: OSError) -> CellsError:
    return CellsError(
        f"cannot {doing} {path} ({_one_line(error)}): free some space there, or set DN2_HOME to a folder that can be written; "
        "what is finished is kept"
    )


def _one_line(error: BaseException) -> str:
    """Why, without the path that some errors repeat."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.splitlines()[0] if text else type(error).__name__
