"""Results on disk, in the form in which they are logged.

    home/cells/<key>/<split>.result        one split: a table of scores, a record, a digest
    home/cells/<key>/<split>.checkpoint    a training that has not finished
    home/cells/<key>/finished-<process>/   the files of a finished cell, until they are logged:
                                           results.json, table.csv, scores.parquet, figures
    home/cells/<key>/lock                  held by the process that computes the cell

A split's file is written whole, the moment the split is finished and before MLflow hears of it.
So neither a killed process nor a tracking server that goes away loses a result.

A split's file and ``scores.parquet`` hold the same table (`score_table`), with one line a score:

    split, row, label, is_anomaly, score, nearest_0, nearest_1, ...

In ``scores.parquet``, ``path`` comes after ``row`` if the images are files.

A split's file is that table as Parquet, with the split's record as JSON in the metadata of its
schema, and then the SHA-256 of all before it. ``scores.parquet`` is the concatenation of the
tables of all splits, and ``results.json`` has their records.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import socket
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contracts import Experiment, OutsideError, Result
from dn2.files import (
    OLD_SECONDS,
    hold,
    read_regular,
    remove_leftovers,
    seal,
    unseal,
    write_atomically,
)

LAYOUT = 2
"""Number of the layout of a split's file. The split of a file of another layout is computed again.

Layout 1 was an .npz file.
"""

RECORD = b"result"
"""Where the schema's metadata has the split's record."""

DIGEST_BYTES = 32

SCORES_DIGEST = "scores_sha256"
"""Where ``results.json`` has the SHA-256 of ``scores.parquet``. It has one of itself, too."""


class ResultStoreError(OutsideError):
    """The folder of results is full, not writable or not a folder. Earlier results are kept."""


class ResultStore:
    """The finished splits of every cell, under ``home/cells``.

    Parameters
    ----------
    home : Path
        ``DN2_HOME``. It is made when the first result is written.

    Notes
    -----
    Hold `lock` around `load`, the computation and `save`. If two processes are asked for the same
    cell, one of them then computes it, and the other finds its results. `load` alone, to read,
    needs no lock, nor does `save` of a result that comes along with others: equal keys mean equal
    results.
    """

    def __init__(self, home: Path) -> None:
        self.home = home

    def folder(self, experiment: Experiment) -> Path:
        """Return the folder of a cell's files."""
        return self.home / "cells" / experiment.key

    def _finished(self, experiment: Experiment) -> Path:
        """Return the folder of the files of a finished cell that this process logs."""
        return self.folder(experiment) / f"finished-{socket.gethostname()}-{os.getpid()}"

    def checkpoint(self, experiment: Experiment, split: str) -> Path:
        """Return the file in which a detector keeps the state of its training on a split."""
        return self.folder(experiment) / f"{split}.checkpoint"

    def save(self, result: Result, labels: np.ndarray, *, lasting: bool = True) -> Path:
        """Write one split's result, all or nothing, and remove the split's checkpoint.

        Parameters
        ----------
        result : Result
        labels : ndarray of shape (n,), str
            The class of each of the data set's rows.
        lasting : bool, default=True
            Whether the result must also survive a power cut, which costs a wait for the disk. Of
            many small results, the waits are what takes the time.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        ResultStoreError
            If the disk is full or the folder cannot be written. No unfinished file is left.
        """
        path = self.folder(result.experiment) / f"{result.split}.result"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path)
            write_atomically(path, _encode(result, labels), lasting=lasting)
            self.checkpoint(result.experiment, result.split).unlink(missing_ok=True)
        except OSError as error:
            raise _unusable("write the result", path, error) from error
        return path

    def load(self, experiment: Experiment) -> dict[str, Result]:
        """Read the finished splits of a cell.

        A file that is cut short, altered, of another cell or of another layout is left out with a
        warning. Its split is then computed again, and `save` replaces the file.

        Returns
        -------
        dict
            Name of the split -> its result.
        """
        results = {}
        for path in sorted(self.folder(experiment).glob("*.result")):
            try:
                result = _decode(read_regular(path), experiment, path.stem)
            except (OSError, ValueError, KeyError, TypeError) as error:
                warnings.warn(
                    f"{path} is not a whole result ({_one_line(error)}): "
                    "its split is computed again",
                    stacklevel=2,
                )
            else:
                results[result.split] = result
        return results

    def write_finished(
        self,
        results: Sequence[Result],
        record: Mapping[str, Any],
        labels: np.ndarray,
        figures: Mapping[str, Any] | None = None,
        files: Sequence[Path] | None = None,
    ) -> Path:
        """Write the files of a finished cell, from where they are logged.

        They are ``results.json`` (the cell's record), ``table.csv`` (one line a split),
        ``scores.parquet`` (every score) and the figures. `read_finished` reads them back.

        Parameters
        ----------
        results : sequence of Result
            All splits of one cell.
        record : mapping
            The cell's record. Its ``splits`` are the records of ``results``, in the same order.
        labels : ndarray of shape (n,), str
            The class of each of the data set's rows.
        figures : mapping, optional
            Name of the file -> matplotlib figure.
        files : sequence of n Path, optional
            The file of each of the data set's images.

        Returns
        -------
        Path
            The folder, which has these files alone and stays until `discard`.

        Raises
        ------
        ResultStoreError
            If the disk is full or the folder cannot be written.
        """
        # Results that could not be logged at once are logged later, without the lock. So another
        # process may do the same.
        folder = self._finished(results[0].experiment)
        try:
            if folder.exists():  # an earlier attempt to log them
                shutil.rmtree(folder)
            folder.mkdir(parents=True)
            with (folder / "table.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, list(record["splits"][0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(record["splits"])
            scores = BytesIO()
            _write_parquet(_concatenate(results, labels, files), scores, "zstd")
            (folder / "scores.parquet").write_bytes(scores.getbuffer())
            digest = hashlib.sha256(scores.getbuffer()).hexdigest()
            (folder / "results.json").write_text(seal({**record, SCORES_DIGEST: digest}))
            write_figures(folder, figures)
        except OSError as error:
            raise _unusable("write the files of the finished cell in", folder, error) from error
        return folder

    def discard(self, experiment: Experiment) -> None:
        """Remove all files of a cell but its lock, so that it is computed from the start.

        Another process may be writing a result that came along with its own, or logging the cell:
        its temporary files and its folder stay, unless they are an hour old.

        Raises
        ------
        ResultStoreError
            If a file cannot be removed.
        """
        for path in self.folder(experiment).glob("*"):
            try:
                if path.is_dir():
                    if path == self._finished(experiment) or _is_old(path):
                        shutil.rmtree(path)
                elif path.name != "lock" and (path.suffix != ".tmp" or _is_old(path)):
                    path.unlink(missing_ok=True)
            except FileNotFoundError:  # another process was faster
                continue
            except OSError as error:
                raise _unusable("remove", path, error) from error

    @contextmanager
    def lock(
        self, names: Iterable[str], waiting: Callable[[Path], None] | None = None
    ) -> Iterator[None]:
        """Hold folders of results, and wait for each that another process or thread holds.

        The locks are taken in the order of the names, so that two processes cannot wait for each
        other. They end with the process, however it ends.

        Parameters
        ----------
        names : iterable of str
            Names of folders under ``home/cells``: the keys of the cells.
        waiting : callable, optional
            Called once with each folder that has to be waited for.

        Raises
        ------
        ResultStoreError
            If a folder cannot be written.
        """
        with ExitStack() as held:
            for name in sorted(set(names)):
                folder = self.home / "cells" / name
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                    if not held.enter_context(hold(folder / "lock", wait=False)):
                        if waiting:
                            waiting(folder)
                        held.enter_context(hold(folder / "lock", wait=True))
                except OSError as error:
                    raise _unusable("lock the cell", folder, error) from error
            yield


def _is_old(path: Path) -> bool:
    """Tell whether a file or folder was left by a killed process: none writes for an hour."""
    return time.time() - path.stat().st_mtime > OLD_SECONDS


def read_finished(
    folder: Path, experiment: Experiment
) -> tuple[dict[str, Any], tuple[Result, ...]]:
    """Read ``results.json`` and ``scores.parquet`` of a finished cell.

    Parameters
    ----------
    folder : Path
        Where the two files are.
    experiment : Experiment
        The cell.

    Returns
    -------
    (dict, tuple of Result)
        The cell's record, and one result a split.

    Raises
    ------
    OSError, ValueError, KeyError, TypeError
        If a file is missing, damaged or of another cell.
    """
    record, content = _read_files(folder)
    if record["key"] != experiment.key:
        raise ValueError(
            f"they are of cell {record['key']}, not of {experiment.key}: delete the run"
        )
    table = _read_parquet(content)
    results, start = [], 0
    for split in record["splits"]:
        lines = table.slice(start, split["n_test"])
        results.append(_result(experiment, split, lines, record["provenance"][0]))
        start += split["n_test"]
    return record, tuple(results)


def read_record(folder: Path) -> dict[str, Any]:
    """Read ``results.json`` of a finished run.

    Raises
    ------
    OSError, ValueError
        If it is missing, or is not as it was written.
    """
    text = read_regular(folder / "results.json")
    return unseal(text, needed=SCORES_DIGEST.encode() in text)


def _read_files(folder: Path) -> tuple[dict[str, Any], bytes]:
    """Read ``results.json`` and the content of ``scores.parquet``, and compare their checksums.

    Runs that earlier versions logged have none.
    """
    record = read_record(folder)
    content = read_regular(folder / "scores.parquet")
    digest = record.pop(SCORES_DIGEST, None)
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        raise ValueError("its scores.parquet was altered: its checksum is another")
    return record, content


@dataclass(frozen=True)
class SplitScores:
    """Hold the scores of one finished split, and what they are scores of.

    The fields are those of `benchmarks.contracts.Result`.
    """

    name: str
    class_name: str
    x: float | None
    draw: int
    rows: np.ndarray
    is_anomaly: np.ndarray
    scores: np.ndarray


def read_scores(folder: Path) -> tuple[dict[str, Any], tuple[SplitScores, ...]]:
    """Read the record and the scores of a finished cell, whatever cell it is.

    Neighbours are not read, so it is quicker than `read_finished`.

    Raises
    ------
    OSError, ValueError, KeyError, TypeError
        If a file is missing or damaged.
    """
    record, content = _read_files(folder)
    table = _read_parquet(content, ["row", "is_anomaly", "score"])
    columns = [_array(table[name]) for name in ("row", "is_anomaly", "score")]
    ends = np.cumsum([split["n_test"] for split in record["splits"]])
    if len(table) != ends[-1] or [column.dtype.kind for column in columns] != ["i", "b", "f"]:
        raise ValueError(f"its {len(table)} scores are not those of its record")
    starts = ends - [split["n_test"] for split in record["splits"]]
    return record, tuple(
        SplitScores(
            split["name"],
            split["class_name"],
            split["x"],
            split["draw"],
            *(column[start:end] for column in columns),
        )
        for split, start, end in zip(record["splits"], starts, ends, strict=True)
    )


@dataclass(frozen=True)
class NeighbourRows:
    """Hold the nearest training rows of one finished split.

    Attributes
    ----------
    class_name : str
    rows : ndarray of int64 of shape (n_test,)
    nearest : ndarray of int64 of shape (n_test, at most 10)
        The nearest comes first.
    is_anomaly : ndarray of shape (n_test,), bool
    scores : ndarray of shape (n_test,)
    """

    class_name: str
    rows: np.ndarray
    nearest: np.ndarray
    is_anomaly: np.ndarray
    scores: np.ndarray


def read_neighbours(folder: Path) -> tuple[NeighbourRows, ...]:
    """Read the nearest training rows of a finished cell, whatever cell it is.

    Splits without neighbours, and those of groups, are left out.

    Raises
    ------
    OSError, ValueError, KeyError, TypeError
        If a file is missing or damaged.
    """
    record, content = _read_files(folder)
    table = _read_parquet(content)
    found, start = [], 0
    for split in record["splits"]:
        lines = table.slice(start, split["n_test"])
        start += split["n_test"]
        names = [
            name
            for name in lines.column_names
            if name.startswith("nearest_") and not lines[name].null_count
        ]
        rows = _array(lines["row"])
        if names and rows.ndim == 1:
            nearest = np.stack([_array(lines[name]) for name in names], axis=1)
            rest = (_array(lines["is_anomaly"]), _array(lines["score"]))
            found.append(NeighbourRows(split["class_name"], rows, nearest, *rest))
    return tuple(found)


def write_figures(folder: Path, figures: Mapping[str, Any] | None) -> None:
    """Write matplotlib figures into a folder, under the names that they have in the mapping."""
    for name, figure in (figures or {}).items():
        figure.savefig(folder / name, dpi=150, bbox_inches="tight")


NAMES = ("name", "class_name", "x", "draw")
COUNTS = ("n_train", "n_test", "fit_seconds", "score_seconds")
"""What a split's record has besides metrics."""


def split_record(result: Result) -> dict[str, Any]:
    """Return the record of one split: its name, metrics as fractions in [0, 1], counts, seconds."""
    return {
        "name": result.split,
        "class_name": result.class_name,
        "x": result.x,
        "draw": result.draw,
        **{name: float(value) for name, value in result.metrics.items()},
        "n_train": result.n_train,
        "n_test": result.n_test,
        "fit_seconds": result.fit_seconds,
        "score_seconds": result.score_seconds,
    }


def score_table(result: Result, labels: np.ndarray, files: Sequence[Path] | None = None) -> Any:
    """Return the scores of one split as a `pyarrow.Table` of one line a score.

    Where a score is that of a group, ``row``, ``path`` and ``label`` are lists. ``nearest_0`` and
    so on are there if the detector knows the nearest training rows.
    """
    import pyarrow as pa

    rows, names = result.rows, np.asarray(labels)[result.rows]
    columns = {
        "split": pa.DictionaryArray.from_arrays(np.zeros(result.n_test, np.int32), [result.split]),
        "row": pa.array(rows if rows.ndim == 1 else list(rows)),
        **({} if files is None else {"path": pa.array(_paths(rows, files))}),
        "label": pa.array(names).dictionary_encode()
        if rows.ndim == 1
        else pa.array(names.tolist()),
        "is_anomaly": pa.array(result.is_anomaly),
        "score": pa.array(result.scores),
    }
    nearest = np.empty((result.n_test, 0)) if result.nearest is None else result.nearest
    columns |= {f"nearest_{rank}": pa.array(nearest[:, rank]) for rank in range(nearest.shape[1])}
    return pa.table(columns)


def _paths(rows: np.ndarray, files: Sequence[Path]) -> list[Any]:
    """Name the files of rows; bytes that are no UTF-8 become question marks."""
    if rows.ndim > 1:
        return [_paths(row, files) for row in rows]
    return [os.fsencode(files[row]).decode(errors="replace") for row in rows.tolist()]


def _result(
    experiment: Experiment,
    record: Mapping[str, Any],
    table: Any,
    provenance: Mapping[str, Any],
    cost: Mapping[str, float] | None = None,
) -> Result:
    """Make a result of the record and the table of a split."""
    if len(table) != record["n_test"]:
        raise ValueError(f"it has {len(table)} scores, not {record['n_test']}")
    columns = {
        name: _array(table[name])
        for name in table.column_names
        # A split without neighbours has nulls there if other splits of its cell have some.
        if name not in ("split", "path", "label") and table[name].null_count < len(table)
    }
    nearest = [column for name, column in columns.items() if name.startswith("nearest_")]
    for column, kind in (
        (columns["score"], "f"),
        (columns["row"], "i"),
        (columns["is_anomaly"], "b"),
        *((column, "i") for column in nearest),
    ):
        if column.dtype.kind != kind:
            raise ValueError(f"a column of it is of type {column.dtype}")
    return Result(
        experiment=experiment,
        split=record["name"],
        class_name=record["class_name"],
        x=record["x"],
        draw=record["draw"],
        metrics={name: value for name, value in record.items() if name not in (*NAMES, *COUNTS)},
        scores=columns["score"],
        rows=columns["row"],
        is_anomaly=columns["is_anomaly"],
        nearest=np.stack(nearest, axis=1) if nearest else None,
        n_train=record["n_train"],
        n_test=record["n_test"],
        fit_seconds=record["fit_seconds"],
        score_seconds=record["score_seconds"],
        provenance=provenance,
        cost=cost or {},
    )


def _array(column: Any) -> np.ndarray:
    """Return a column as an array of its own: (n,), or (n, size) of lists of equal length."""
    if column.null_count:
        raise ValueError("a column of it has gaps")
    array = column.combine_chunks()
    if not str(array.type).startswith("list"):
        return np.array(array.to_numpy(zero_copy_only=False))
    return np.array(array.flatten().to_numpy()).reshape(len(array), -1)


def _encode(result: Result, labels: np.ndarray) -> bytes:
    """Return the content of a split's file."""
    about = {
        "layout": LAYOUT,
        "key": result.experiment.key,
        "split": split_record(result),
        "provenance": dict(result.provenance),
        "cost": dict(result.cost),
    }
    table = score_table(result, labels)
    content = BytesIO()
    # Not compressed: the file is soon removed, and compressing it takes longer than writing it.
    _write_parquet(table.replace_schema_metadata({RECORD: json.dumps(about)}), content, "none")
    content.write(hashlib.sha256(content.getbuffer()).digest())
    return content.getvalue()


def _decode(content: bytes, experiment: Experiment, split: str) -> Result:
    """Read the content of a split's file.

    Raises
    ------
    ValueError, KeyError, TypeError
        If a byte is altered or missing, or if the file belongs elsewhere.
    """
    body = memoryview(content)[:-DIGEST_BYTES]
    if hashlib.sha256(body).digest() != content[-DIGEST_BYTES:]:
        raise ValueError("its digest is another")
    table = _read_parquet(body)
    about = json.loads((table.schema.metadata or {})[RECORD])
    if about["layout"] != LAYOUT:
        raise ValueError("it has another layout")
    if (about["key"], about["split"]["name"]) != (experiment.key, split):
        raise ValueError("it is of another cell or split")
    return _result(experiment, about["split"], table, about["provenance"], about["cost"])


def _write_parquet(table: Any, file: Any, compression: str) -> None:
    """Write a table of scores; only its texts repeat, so only they get a dictionary."""
    from pyarrow import parquet

    texts = ["split", "path", "path.list.element", "label", "label.list.element"]
    parquet.write_table(table, file, compression=compression, use_dictionary=texts)


def _read_parquet(content: bytes | memoryview, columns: Sequence[str] | None = None) -> Any:
    """Read a table of scores, or some columns; whatever is wrong with it is a ValueError."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        # One thread: tables are small, and workers that run at once have a core each.
        file = parquet.ParquetFile(pa.BufferReader(content))
        return file.read(columns=columns, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(_one_line(error)) from error


def _concatenate(
    results: Sequence[Result], labels: np.ndarray, files: Sequence[Path] | None
) -> Any:
    """Return one table of all splits; where only some have neighbours, the others have nulls."""
    import pyarrow as pa

    tables = [score_table(result, labels, files) for result in results]
    return pa.concat_tables(tables, promote_options="default")


def _unusable(doing: str, path: Path, error: OSError) -> ResultStoreError:
    return ResultStoreError(
        f"cannot {doing} {path} ({_one_line(error)}): free some space there, or set DN2_HOME to a "
        "folder that can be written. Finished results are kept."
    )


def _one_line(error: BaseException) -> str:
    """Return the reason in one line, without the path that some errors repeat."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.splitlines()[0] if text else type(error).__name__
