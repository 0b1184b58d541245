"""The feature store: features are computed once, and no crash can spoil them.

A store is a folder, named after a digest of everything that its features depend on:

    home/features/cifar10-efficientnet_lite0-1f2e.../
        manifest.json
        shard-00000.npy    1,024 rows, the seconds they took, and a checksum
        locks/00000        held by the process that computes this shard

A shard appears under its name only when it is whole, so the next run finds what a killed one has
finished. Its checksum is verified when the store is opened: a shard that is not what was written
counts as missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import re
import shutil
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from dn2.files import hold, open_regular, remove_leftovers, write_atomically
from dn2.sound import check_finite

SHARD_ROWS = 1024


class StoreError(OSError):
    """The error of features that cannot be written: it names the folder, space and remedy."""


class Features:
    """Read stored features by rows: ``X[rows]`` is float32, and reads only those rows from disk.

    Parameters
    ----------
    shards : list of ndarray of shape (at most 1,024, width), float32
        Memory-mapped; all but the last of equal length.
    shape : (n, width)
    images_per_second : float
        How fast one process extracted them.
    """

    def __init__(
        self, shards: list[np.ndarray], shape: tuple[int, int], images_per_second: float
    ) -> None:
        self.shards = shards
        self.shape = shape
        self.images_per_second = images_per_second

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | int | np.ndarray) -> np.ndarray:
        """Gather rows: a slice, a number or integers of shape (...); returns (..., width), a copy.

        Raises
        ------
        IndexError
            If a row is out of range, or is not an integer.
        """
        n, width = self.shape
        wanted = np.arange(n)[rows] if isinstance(rows, slice) else np.asarray(rows)
        if wanted.dtype.kind not in "iu":
            raise IndexError(
                f"rows of features must be integers, got {wanted.dtype}: use np.flatnonzero for a "
                "mask"
            )
        if wanted.size and not (-n <= wanted.min() and wanted.max() < n):
            raise IndexError(
                f"rows of features must be below {n}, got {wanted.min()} to {wanted.max()}: give "
                "rows of the same data set"
            )
        flat = wanted.ravel() % max(n, 1)
        gathered = np.empty((flat.size, width), np.float32)
        for shard in np.unique(flat // SHARD_ROWS):
            here = flat // SHARD_ROWS == shard
            gathered[here] = self.shards[shard][flat[here] - shard * SHARD_ROWS]
        return gathered.reshape(*wanted.shape, width)


class FeatureStore:
    """Keep the features of one data set by one encoder, as a folder of shards.

    Parameters
    ----------
    directory : Path
        The folder of all stores: ``home/features``.
    identity : mapping, JSON-able
        Everything that the values depend on: fingerprint of the data, digest of the weights,
        preprocessing, engine class. Any difference is another store. ``dataset`` and ``encoder``
        in it make the folder's name readable.
    n, width : int
        Rows, and length of each.
    """

    def __init__(self, directory: Path, identity: Mapping[str, Any], n: int, width: int) -> None:
        self.identity = {
            **identity,
            "n": n,
            "width": width,
            "dtype": "float32",
            "shard_rows": SHARD_ROWS,
        }
        self.n = n
        self.width = width
        text = json.dumps(self.identity, sort_keys=True, separators=(",", ":"))
        readable = "-".join(
            str(identity[name]) for name in ("dataset", "encoder") if name in identity
        )
        prefix = re.sub(r"[^A-Za-z0-9_.+]+", "-", readable) or "features"
        self.path = Path(directory) / f"{prefix}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self._seconds: dict[int, float] = {}  # of the shards that this object has verified

    @property
    def n_shards(self) -> int:
        """Number of shards of a complete store."""
        return -(-self.n // SHARD_ROWS)

    def missing(self) -> list[int]:
        """List the shards that are missing, or not as they were written."""
        unseen = [shard for shard in range(self.n_shards) if shard not in self._seconds]
        with ThreadPoolExecutor(2) as pool:  # hashing releases the interpreter's lock
            return [
                shard
                for shard, whole in zip(unseen, pool.map(self._verify, unseen), strict=True)
                if not whole
            ]

    def fill(
        self,
        encode_rows: Callable[[slice], Iterable[np.ndarray]],
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Compute the missing shards, one after the other.

        It returns when every shard is there, those that another process computes included.

        Parameters
        ----------
        encode_rows : callable
            ``encode_rows(slice)`` yields the features of these rows in batches (b, width), in
            order.
        progress : callable, optional
            Called as ``progress(done, n)``. Rows that were there already, or that another process
            has stored in the meantime, count as done.

        Raises
        ------
        StoreError
            If the folder cannot be written, or has no room. Shards already stored are kept.
        ValueError
            If ``encode_rows`` gives another shape.
        dn2.sound.UnsoundFeaturesError
            If it gives NaN or infinity. The shard is not stored.
        """
        missing = self.missing()
        if not missing and self._manifest_path.exists():
            return
        with self._explain_errors():
            self._locks.mkdir(parents=True, exist_ok=True)
            self._check_room(missing)
        done = 0

        def report(rows: int) -> None:
            nonlocal done
            done += rows
            if progress is not None:
                progress(done, self.n)

        # First the shards that no other process has locked. Then wait for the locked ones: if a
        # lock comes free and its shard is missing, its owner died.
        for wait in (False, True):
            for shard in missing:
                if shard not in self._seconds:
                    there = {path.name for path in self.path.iterdir()}
                    absent = (
                        other
                        for other in missing
                        if other == shard or self._shard_path(other).name not in there
                    )
                    done = self.n - sum(map(self.rows_in, absent))
                    self._fill_shard(shard, encode_rows, report, wait)
        with self._explain_errors():
            self._write_manifest()

    def open(self) -> Features:
        """Verify every checksum and return the features, memory-mapped.

        Raises
        ------
        FileNotFoundError
            If shards are missing or altered: `fill` computes them.
        dn2.sound.UnsoundFeaturesError
            If a feature is NaN or infinite: earlier versions stored such.
        """
        missing = self.missing()
        if missing:
            raise FileNotFoundError(
                f"{self.path} lacks {len(missing)} of {self.n_shards} shards, first {missing[0]}: "
                "fill the store first"
            )
        shards = [np.load(self._shard_path(shard), mmap_mode="r") for shard in range(self.n_shards)]
        for shard, rows in enumerate(shards):
            self._check_finite(rows, shard * SHARD_ROWS, f" in {self.path}")
        return Features(shards, (self.n, self.width), self._images_per_second())

    @property
    def _manifest_path(self) -> Path:
        return self.path / "manifest.json"

    @property
    def _locks(self) -> Path:
        return self.path / "locks"

    def _shard_path(self, shard: int) -> Path:
        return self.path / f"shard-{shard:05d}.npy"

    def rows_in(self, shard: int) -> int:
        """Count the rows of one shard; the last has fewer."""
        return min(SHARD_ROWS, self.n - shard * SHARD_ROWS)

    def _verify(self, shard: int) -> bool:
        """Return whether a shard is whole; if so, this object does not hash it again."""
        shape = (self.rows_in(shard), self.width)
        seconds = verify_shard(self._shard_path(shard), shape)
        if seconds is not None:
            self._seconds[shard] = seconds
        return seconds is not None

    def _fill_shard(
        self,
        shard: int,
        encode_rows: Callable[[slice], Iterable[np.ndarray]],
        report: Callable[[int], None],
        wait: bool,
    ) -> None:
        with contextlib.ExitStack() as stack:
            with self._explain_errors():
                claimed = stack.enter_context(hold(self._locks / f"{shard:05d}", wait=wait))
            if not claimed:
                return
            if self._verify(shard):  # another process has stored it in the meantime
                report(self.rows_in(shard))
                return
            start = time.perf_counter()
            features = self._compute(shard, encode_rows, report)
            seconds = time.perf_counter() - start
            with self._explain_errors():
                remove_leftovers(self._shard_path(shard))
                write_shard(self._shard_path(shard), features, seconds)
            self._seconds[shard] = seconds

    def _compute(
        self,
        shard: int,
        encode_rows: Callable[[slice], Iterable[np.ndarray]],
        report: Callable[[int], None],
    ) -> np.ndarray:
        first, rows = shard * SHARD_ROWS, self.rows_in(shard)
        features = np.empty((rows, self.width), np.float32)
        expected = f"rows {first} to {first + rows} must be encoded to shape ({rows}, {self.width})"
        done = 0
        for batch in encode_rows(slice(first, first + rows)):
            if batch.ndim != 2 or batch.shape[1] != self.width or done + len(batch) > rows:
                raise ValueError(
                    f"{expected}, got a batch of shape {batch.shape} after {done} rows: check "
                    "encode_rows and width"
                )
            self._check_finite(batch, first + done)
            features[done : done + len(batch)] = batch
            done += len(batch)
            report(len(batch))
        if done < rows:
            raise ValueError(f"{expected}, got {done} rows: check encode_rows")
        return features

    def _check_finite(self, features: np.ndarray, first: int, place: str = "") -> None:
        check_finite(
            features,
            f"{self.identity.get('encoder', 'the encoder')}{place}",
            lambda row: f"image {first + row}",
        )

    def _images_per_second(self) -> float:
        return self.n / max(sum(self._seconds.values()), 1e-9)

    def _write_manifest(self) -> None:
        """Describe the store for people and listings; the shards alone decide what is missing."""
        manifest = {
            "identity": self.identity,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "complete": True,
            "seconds": round(sum(self._seconds.values()), 3),
            "images_per_second": round(self._images_per_second(), 2),
        }
        with hold(self._locks / "manifest", wait=True):
            remove_leftovers(self._manifest_path)
            write_atomically(
                self._manifest_path, json.dumps(manifest, indent=1).encode(), read_only=True
            )

    def _needed_bytes(self) -> int:
        return (
            sum(self.rows_in(shard) for shard in range(self.n_shards) if shard not in self._seconds)
            * self.width
            * 4
        )

    def _check_room(self, missing: list[int]) -> None:
        """Find out before the first image that there is no room for the last."""
        free = shutil.disk_usage(self.path).free
        if free < self._needed_bytes():
            raise OSError(f"only {free:,} bytes are free for {len(missing)} shards")

    @contextlib.contextmanager
    def _explain_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"cannot store features in {self.path}: {error.strerror or error}; "
                f"{self._needed_bytes():,} bytes are still to be written, {len(self._seconds)} of "
                f"{self.n_shards} shards are kept: make room or make it writable, or choose "
                "another folder with --home or DN2_HOME"
            ) from error


DIGEST_BYTES = 32
SECONDS = struct.Struct("<d")


def verify_shard(path: Path, shape: tuple[int, int]) -> float | None:
    """Return the seconds that a shard took to compute, or None if it is missing or damaged.

    A whole shard of another shape is another shard under this name, and counts as missing.

    The last 32 bytes are the SHA-256 of all before them (700 MB a second on one core); `numpy.load`
    does not read that far.
    """
    try:
        with (
            open_regular(path) as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            seconds = _seconds_if_whole(content)
        if seconds is not None and np.load(path, mmap_mode="r").shape != shape:
            return None
        return seconds
    except (OSError, ValueError, struct.error):  # ValueError: an empty file cannot be mapped
        return None


def _seconds_if_whole(content: mmap.mmap) -> float | None:
    # The view is closed by hand: an open one would keep the file mapped.
    with memoryview(content)[:-DIGEST_BYTES] as body:
        whole = hashlib.sha256(body).digest() == content[-DIGEST_BYTES:]
        return SECONDS.unpack(body[-SECONDS.size :])[0] if whole else None


def write_shard(path: Path, features: np.ndarray, seconds: float) -> None:
    """Write features (n, d) float32 and the seconds they took."""
    content = BytesIO()
    np.save(content, features)
    content.write(SECONDS.pack(seconds))
    content.write(hashlib.sha256(content.getbuffer()).digest())
    write_atomically(path, content.getbuffer(), read_only=True)
