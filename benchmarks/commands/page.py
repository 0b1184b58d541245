"""Where the MLflow page of a store is served, as far as `ui` has noted it on this machine.

While `ui` serves a page, a small file in DN2_HOME holds its address, so that the links that other
verbs print lead to it. The file of a server that has ended is ignored.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from benchmarks.commands.options import default_home

if TYPE_CHECKING:
    from benchmarks.tracking import View

SECONDS_TO_ANSWER = 0.5


MOST_LINKS = 5


def how_to_look(
    store: str, experiment_id: str, tracking_uri: str = "", views: Sequence[View] = ()
) -> str:
    """Say how to look at an experiment's runs, with links.

    Parameters
    ----------
    store : str
        The store's address, which is shown nowhere.
    experiment_id : str
    tracking_uri : str
        As the user gave it.
    views : sequence of View
        To link to, a line each. Without any, the link leads to the charts of all runs.
    """
    from benchmarks.tracking import ui_link

    base = store if store.startswith(("http://", "https://")) else find_page(store)
    if base is not None:
        said, served = "Look at them:", {"base": base}
    else:
        option = f" --tracking-uri {tracking_uri}" if tracking_uri else ""
        called = click.get_current_context().find_root().info_name
        said, served = f"Look at them: {called} ui{option}, then", {}
    keys = [view.key for view in views[:MOST_LINKS]] or [""]
    links = [f"  {ui_link(experiment_id, view=key, **served)}" for key in keys]
    more = len(views) - MOST_LINKS
    others = [f"  and {more} more, which its menu Views has"] if more > 0 else []
    return "\n".join([said, *links, *others])


def main_views(views: Sequence[View]) -> list[View]:
    """Return the views to link to: one of each subject."""
    first: dict[str, View] = {}
    for view in views:
        first.setdefault(view.subject, view)
    return list(first.values())


def find_page(store: str) -> str | None:
    """Return the address of the page that `ui` serves for a store; None if no server answers."""
    try:
        note = json.loads(_file(store).read_text())
        if note["machine"] != platform.node():
            return None  # DN2_HOME is shared
        os.kill(note["pid"], 0)
        socket.create_connection((note["host"], note["port"]), SECONDS_TO_ANSWER).close()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(note["base"])


def note_page(store: str, link: str, host: str, port: int) -> None:
    """Note that this process serves the page of a store, at the address that a link begins with."""
    note = {
        "base": link.partition("/#")[0],
        "host": host,
        "port": port,
        "pid": os.getpid(),
        "machine": platform.node(),
    }
    file = _file(store)
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_suffix(f".{os.getpid()}")
    scratch.write_text(json.dumps(note))
    scratch.replace(file)


@contextmanager
def forgetting_page(store: str) -> Iterator[None]:
    """Remove this process's note of a store when the context is left."""
    try:
        yield
    finally:
        try:
            if json.loads(_file(store).read_text())["pid"] == os.getpid():
                _file(store).unlink()
        except (OSError, ValueError, KeyError, TypeError):
            pass  # another server has noted itself, or there is no note


def _file(store: str) -> Path:
    named = hashlib.sha256(store.encode()).hexdigest()[:16]
    return default_home() / "pages" / f"{named}.json"
