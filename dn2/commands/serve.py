"""``dn2 serve``: a detector behind HTTP."""

from __future__ import annotations

import click

from dn2.commands.own_images import (
    Number,
    choose_rate,
    detector_argument,
    load_or_refuse,
    rate_options,
)
from dn2.serving import MOST_SENT_PIXELS


@click.command()
@detector_argument
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Where to listen; 0.0.0.0 lets other machines in, without any password.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="0 takes a free one.",
)
@rate_options
@click.option(
    "--max-mb",
    type=Number(0, 1e6, min_open=True),
    default=64.0,
    show_default=True,
    help="The most megabytes of a request.",
)
@click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    default=MOST_SENT_PIXELS,
    show_default=True,
    help="Images with more pixels are not decoded.",
)
@click.option(
    "--max-images",
    type=click.IntRange(1, 1_000_000),
    default=256,
    show_default=True,
    help="The most images of a request.",
)
@click.option(
    "--max-requests",
    type=click.IntRange(1, 10_000),
    default=16,
    show_default=True,
    help="Requests that are handled at a time; others wait.",
)
@click.option(
    "--timeout",
    type=Number(0, 86_400, min_open=True),
    default=60.0,
    show_default=True,
    help="The seconds within which a request must arrive.",
)
@click.option("--log", is_flag=True, help="Print a line on stderr for each request to /score.")
def serve(
    detector: str,
    host: str,
    port: int,
    fpr: float | None,
    fdr: float | None,
    max_mb: float,
    max_pixels: int,
    max_images: int,
    max_requests: int,
    timeout: float,
    log: bool,
) -> int:
    """Score images that are sent over HTTP: POST them to /score.

    The page at / describes the interface. Ctrl-C or SIGTERM lets running requests finish and ends
    the server with exit code 0. The server keeps the detector as it was when it started.
    """
    click.echo(f"loading {detector}", err=True)

    from dn2.serving.listening import address_of, listen
    from dn2.serving.listening import serve as serve_app
    from dn2.serving.uploads import Limits

    taken = listen(host, port)
    with taken:
        loaded = load_or_refuse(detector)

        from dn2.saving import read_manifest
        from dn2.serving.app import make_app
        from dn2.serving.scorer import Scorer

        name, rate = choose_rate(fpr, fdr, len(loaded.calibration_))
        manifest = read_manifest(detector)
        said = (
            *("created", "dn2", "encoder", "normalize", "k", "index", "recall", "square", "levels"),
            *("n_images", "calibration", "sha256"),
        )
        limits = Limits(
            bytes=int(max_mb * 1e6),
            pixels=max_pixels,
            images=max_images,
            requests=max_requests,
            seconds=timeout,
        )

        def tell(line: str) -> None:
            click.echo(line, err=True)

        app = make_app(
            Scorer(loaded, limits.pixels),
            {field: manifest[field] for field in said if field in manifest},
            limits,
            None if rate is None else (name, rate),
            tell if log else None,
            lambda line: tell(f"error: {line}"),
        )
        serve_app(
            app,
            taken,
            lambda: tell(f"serving {detector} at {address_of(taken)} (Ctrl-C stops it)"),
            timeout,
        )
    click.echo("stopped", err=True)
    return 0
