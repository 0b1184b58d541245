"""Which image files are meant: folders of any depth, patterns, files, lists in a file or a stream.

Nothing is opened but lists, and headers of files that may hold several images. What is passed over
is counted or named, never silently lost.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import BinaryIO

from dn2.crops import LeftOut
from dn2.files import KINDS, printable
from dn2.formats import (
    SUFFIXES,
    UNREAD,
    count_endings,
    ending,
    image_suffixes,
    is_animation,
    reason_if_stack,
    unread,
)

__all__ = ["SUFFIXES", "Gathered", "gather", "printable"]


@dataclass
class Gathered:
    """Hold the files that were found.

    Attributes
    ----------
    paths : list of str
        As they will be shown: below the folder as it was given. Each file once.
    notes : list of str
        What was passed over, a line each.
    missing : list of LeftOut
        Files that cannot be taken, with the reason: not there, no file, a stack of pages.
    """

    paths: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: list[LeftOut] = field(default_factory=list)


def gather(arguments: Sequence[str], stream: BinaryIO | None = None) -> Gathered:
    """Find the image files that arguments name.

    Parameters
    ----------
    arguments : sequence of str
        Each is a folder, a file, a pattern with ``*``, ``?`` or ``**``, ``@FILE`` with a path a
        line, or ``-`` for such a list from the stream. Lists may also end each path with a NUL, as
        ``find -print0`` does. A path that exists is never taken for a pattern or a list.
    stream : binary file, optional
        What ``-`` reads.

    Raises
    ------
    ValueError
        If a pattern fits nothing, or a list is empty.
    OSError
        If a list cannot be read.
    """
    search = _Search()
    for argument in arguments:
        if argument == "-" and stream is not None:
            search.take_list(stream.read(), "standard input")
        elif not os.path.lexists(argument) and argument.startswith("@"):
            search.take_list(Path(argument[1:]).read_bytes(), argument[1:])
        elif not os.path.lexists(argument) and glob.has_magic(argument):
            # (pathlib takes no absolute pattern)
            found = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207
            if not found:
                raise ValueError(f"no file fits {argument}: correct the pattern")
            folders = {os.path.normpath(path) for path in found if Path(path).is_dir()}
            for path in found:
                # A pattern such as `good/*` finds whatever is there, like a folder does. One such
                # as `good/**` finds a folder, and what is in it once more.
                if folders.intersection(map(str, PurePath(os.path.normpath(path)).parents)):
                    continue
                if os.path.normpath(path) in folders:
                    search.take_folder(path)
                else:
                    search.take_found(path)
        else:
            search.take(argument)
    search.finish()
    return search.gathered


class _Search:
    def __init__(self) -> None:
        self.gathered = Gathered()
        self.seen: set[str] = set()  # files, by absolute path
        self.folders: set[tuple[int, int]] = set()  # by device and number
        self.hidden = self.repeated = self.animations = 0
        self.others: list[str] = []  # the endings of files that are passed over
        self.special: list[str] = []

    def take_list(self, content: bytes, name: str) -> None:
        """Take the paths of a list, one a line."""
        lines = content.split(b"\0") if b"\0" in content else content.splitlines()
        paths = [os.fsdecode(line) for line in lines if line.strip()]
        if not paths:
            raise ValueError(f"{name} names no image: give a path a line")
        for path in paths:
            self.take(path)

    def take(self, path: str) -> None:
        """Take a folder or a file that was named."""
        try:
            status = Path(path).stat()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            self.gathered.missing.append(LeftOut(path, reason))
            return
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            self.take_folder(path)
        elif kind in KINDS:
            self.gathered.missing.append(LeftOut(path, f"{KINDS[kind]}, not a file"))
        else:
            self._take_file(path)

    def take_folder(self, folder: str) -> None:
        """Take the images in a folder and below it, in sorted order."""
        for path in self._walk(folder):
            self.take_found(path)

    def take_found(self, path: str) -> None:
        """Take a file that was found in a folder, if it is an image by its suffix."""
        try:
            status = Path(path).stat()
        except OSError:  # a link that leads nowhere
            status = None
        if status is not None and stat.S_IFMT(status.st_mode) in KINDS:
            self.special.append(f"{path} ({KINDS[stat.S_IFMT(status.st_mode)].split()[-1]})")
        elif ending(path) not in image_suffixes():
            self.others.append(ending(path))
        elif status is None:
            self.gathered.missing.append(LeftOut(path, "it is a link that leads nowhere"))
        else:
            self._take_file(path)

    def finish(self) -> None:
        """Say what was passed over."""
        images = [one for one in self.others if one in UNREAD]
        for what, count, which in (
            ("skipped, hidden files and folders", self.hidden, ""),
            (
                "skipped, files without the suffix of an image",
                len(self.others),
                f" ({count_endings(self.others)})",
            ),
            ("named more than once and taken once, images", self.repeated, ""),
            ("of which the first frame is taken, animations", self.animations, ""),
        ):
            if count:
                self.gathered.notes.append(f"{what}: {count:,}{which}")
        if images:
            self.gathered.notes.append(unread(images))
        self.gathered.notes += [f"not opened: {what}" for what in self.special]

    def _take_file(self, path: str) -> None:
        absolute = os.path.normpath(Path(path).absolute())
        if absolute in self.seen:
            self.repeated += 1
            return
        self.seen.add(absolute)
        if reason := reason_if_stack(path):
            self.gathered.missing.append(LeftOut(path, reason))
        else:
            self.gathered.paths.append(path)
            self.animations += is_animation(path)

    def _walk(self, folder: str) -> Iterator[str]:
        """Yield the files below a folder; each folder once, so that links in a circle end."""
        pending = [folder]
        while pending:
            here = pending.pop()
            try:
                status = Path(here).stat()
                entries = sorted(os.scandir(here), key=lambda entry: entry.name)
            except OSError as error:
                self.gathered.missing.append(LeftOut(here, error.strerror or str(error)))
                continue
            if (status.st_dev, status.st_ino) in self.folders:
                continue
            self.folders.add((status.st_dev, status.st_ino))
            shown = [entry for entry in entries if not entry.name.startswith(".")]
            self.hidden += len(entries) - len(shown)
            yield from (entry.path for entry in shown if not entry.is_dir())
            pending += [entry.path for entry in reversed(shown) if entry.is_dir()]
