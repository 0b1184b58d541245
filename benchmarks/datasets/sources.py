"""Descriptions of where a data set can be found, which `benchmarks.fetch` acts on.

Nothing here touches a network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.datasets.arrays import Arrays
from benchmarks.datasets.image_files import Files

Read = Callable[[Path], Arrays | Files]
"""Decodes the files in a folder or, if they stay image files, lists them.

It raises one of `arrays.UNREADABLE` if they are missing or incomplete.
"""


@dataclass(frozen=True)
class LocalCopy:
    """Files that a user put in place by hand, or that torchvision left.

    They are in the layout of their authors or of torchvision.

    Attributes
    ----------
    layout : str
        The files below the root, described for a user.
    origin : str
        The page from which a user gets them, if there is no `Download`.
    """

    read: Read
    layout: str
    origin: str = ""


@dataclass(frozen=True)
class RemoteFile:
    """A file to download.

    Attributes
    ----------
    url : str
    md5 : str
        As torchvision publishes it.
    path : str
        Its place below the root in torchvision's layout.
    unpack : bool
        True for an archive that is replaced by its files, in the same folder.
    """

    url: str
    md5: str
    path: str
    unpack: bool = False


@dataclass(frozen=True)
class Download:
    """The files that torchvision would download, from the same addresses."""

    read: Read
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True)
class NpmPackage:
    """A Node.js package that contains the data; its files are read from one flat folder."""

    read: Read
    package: str


@dataclass(frozen=True)
class DebianPackage:
    """A Debian package that installs the data in ``folder`` (absolute)."""

    read: Read
    package: str
    folder: str


Source = LocalCopy | Download | NpmPackage | DebianPackage
