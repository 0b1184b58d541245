"""Reading the files of a data set: within a limit of bytes, and with errors that name the file."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dn2.files import open_regular

BROKEN = (OSError, EOFError, zlib.error, tarfile.TarError, ValueError, OverflowError)
"""What reading a cut or damaged archive raises."""


def read_limited(path: Path, most: int) -> bytes:
    """Read a file of at most ``most`` bytes.

    Raises
    ------
    OSError
        If it is not there, or no regular file.
    ValueError
        If it is longer.
    """
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path} has more than {most:,} bytes: download it again")
    return content


def read_text(path: Path, most: int = 2**24) -> str:
    """Read a text in UTF-8; see `read_limited`."""
    try:
        return read_limited(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error.reason}): copy it again") from None


def read_gzip(path: Path, most: int) -> bytes:
    """Read a gzipped file that holds at most ``most`` bytes; see `read_limited`."""
    content = read_limited(path, most + 2**20)
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            unpacked = file.read(most + 1)
    except BROKEN as error:
        raise ValueError(f"{path} is cut short or damaged ({error}): download it again") from None
    if len(unpacked) > most:
        raise ValueError(f"{path} holds more than {most:,} bytes: download it again")
    return unpacked


def read_pickles(
    root: Path, folder: str, archive: str, md5: Mapping[str, str], others: Mapping[str, str]
) -> dict[str, Any]:
    """Read the pickles of CIFAR below ``root``: from the unpacked folder, or from the archive.

    A pickle can run code, so each is compared with the official MD5 before it is opened.

    Parameters
    ----------
    root : Path
    folder, archive : str
    md5 : mapping of file name to MD5
    others : mapping of name to description
        Files and folders of other releases, which cannot be read.

    Raises
    ------
    OSError
        If there is neither.
    ValueError
        If the archive is cut short, or a file is not the official one.
    """
    if (root / folder).is_dir():
        contents = {name: read_limited(root / folder / name, LARGEST_PICKLE) for name in md5}
    elif (root / archive).exists():
        contents = _read_archive(root / archive, folder, md5)
    else:
        for name, what in others.items():
            if (root / name).exists():
                raise ValueError(f"{root / name} is {what}: get the version for Python, {archive}")
        raise FileNotFoundError(f"there is neither {root / folder} nor {root / archive}")
    for name, content in contents.items():
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != md5[name]:
            raise ValueError(
                f"{name} below {root} has the MD5 {found}, expected {md5[name]}: download it again"
            )
    return {name: pickle.loads(content, encoding="latin1") for name, content in contents.items()}


LARGEST_PICKLE = 2**28


def _read_archive(path: Path, folder: str, names: Mapping[str, str]) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    try:
        with open_regular(path) as file, tarfile.open(fileobj=file) as archive:
            for member in archive:
                name = member.name.removeprefix("./").removeprefix(f"{folder}/")
                if name in names and member.isfile() and member.size <= LARGEST_PICKLE:
                    contents[name] = archive.extractfile(member).read()  # type: ignore[union-attr]
                if len(contents) == len(names):
                    break
    except BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{path} is cut short or damaged ({reason}): delete it and download it again"
        ) from None
    if missing := [name for name in names if name not in contents]:
        raise ValueError(
            f"{folder}/{missing[0]} is not found in {path}, which is another archive or cut short: "
            "download it again"
        )
    return {name: contents[name] for name in names}
