"""``dn2 explain``: why images are odd, as a page or as pictures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dn2.commands.own_images import (
    choose_rate,
    count,
    detector_argument,
    end,
    gather_images,
    images_argument,
    load_or_refuse,
    pixels_option,
    rate_options,
)
from dn2.commands.time_left import show_progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dn2.crops import LeftOut
    from dn2.image_detector import ImageDetector, ScoredImage

MOST_EXPLAINED = 500  # which makes a page of some 25 MB
USUALLY_EXPLAINED = 50


@click.command()
@detector_argument
@images_argument
@click.option(
    "--html",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write one page that needs no network; replaced if it exists.",
)
@click.option(
    "--out-dir",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write PNG files into this folder, which must be new or empty.",
)
@rate_options
@click.option(
    "--top",
    type=click.IntRange(1, MOST_EXPLAINED),
    default=None,
    help="Explain this many of the oddest images, flagged or not.  [default: the flagged, at most "
    "50]",
)
@pixels_option
def explain(
    detector: str,
    images: tuple[str, ...],
    html: Path | None,
    out_dir: Path | None,
    fpr: float | None,
    fdr: float | None,
    top: int | None,
    max_pixels: int,
) -> int:
    """Show why images are odd: beside their nearest normal ones, and where they differ.

    The flagged images are explained, the oddest first; if none is flagged, the twenty oddest.
    IMAGES are given as for `dn2 score`. The normal images must be where they were.
    """
    if html is None and out_dir is None:
        raise click.UsageError("give --html FILE, --out-dir DIR, or both")
    _check_targets(html, out_dir)
    loaded = load_or_refuse(detector)
    loaded.most_pixels = max_pixels
    name, rate = choose_rate(fpr, fdr, len(loaded.calibration_))
    gathered = gather_images(images)

    click.echo(f"scoring {count(len(gathered.paths), 'image')} with {loaded.encoder}", err=True)
    scores = loaded.score(gathered.paths, progress=show_progress())
    flags = [False] * len(scores.images) if rate is None else scores.flag(**{name: rate}).tolist()
    flagged = {one.path for one, flag in zip(scores.images, flags, strict=True) if flag}
    worst = sorted(scores.images, key=lambda one: -one.score)
    rule = "which are too few to flag any"
    if rate is not None:
        rule = f"at a false-{'alarm' if name == 'fpr' else 'discovery'} rate of {rate:g}"
    left_out = [*gathered.missing, *scores.left_out]
    if worst:
        _write(loaded, detector, rule, worst, flagged, top, html, out_dir, left_out)
    return end(left_out, len(gathered.paths) + len(gathered.missing))


def _write(
    loaded: ImageDetector,
    name: str,
    rule: str,
    worst: Sequence[ScoredImage],
    flagged: set[str],
    top: int | None,
    html: Path | None,
    out_dir: Path | None,
    left_out: list[LeftOut],
) -> None:
    """Explain images, the oddest first, and write what was asked for."""
    import numpy as np

    from dn2.explaining import explain as explain_images
    from dn2.explaining import read_or_say
    from dn2.explanation_page import (
        ON_THE_SHEET,
        PageHead,
        draw_explanation,
        draw_sheet,
        png_name,
        write_article,
        write_page,
    )
    from dn2.files import write_atomically
    from dn2.gathering import printable

    odd = [one for one in worst if one.path in flagged] or worst[:ON_THE_SHEET]
    chosen = odd[:USUALLY_EXPLAINED] if top is None else worst[:top]
    median = float(np.median(loaded.calibration_))
    if out_dir is not None:
        out_dir.mkdir(exist_ok=True)
    before = len(left_out)
    crops: dict[str, np.ndarray | None] = {}
    articles: list[str] = []
    missing: dict[str, str] = {}
    n_drawn = 0
    for rank, one in enumerate(explain_images(loaded, chosen, left_out), 1):
        path = one.image.path
        if rank <= ON_THE_SHEET:
            crops[path] = one.crop
        missing |= {near.path: near.missing for near in one.nearest if near.crop is None}
        if html is not None:
            articles.append(write_article(rank, one, path in flagged, median))
        if out_dir is not None:
            draw_explanation(one).save(out_dir / png_name(rank, path))
            n_drawn += 1
    gone = {one.path for one in left_out[before:]}
    for scored in [one for one in worst if one.path not in gone][:ON_THE_SHEET]:
        if scored.path not in crops:
            found = read_or_say(scored.path, loaded.view)
            crops[scored.path] = None if isinstance(found, str) else found
    by_path = {one.path: one for one in worst}
    sheet = [(path, by_path[path].score, path in flagged, crop) for path, crop in crops.items()]
    notes = _notes(len(odd) - len(chosen), bool(flagged), missing, len(left_out))
    for note in notes:
        click.echo(f"note: {printable(note)}", err=True)
    head = PageHead(
        Path(name).name or name,
        f"{len(loaded.paths_):,} images, {loaded.encoder}, {loaded.normalize}, "
        f"k\u00a0=\u00a0{loaded.k}",
        rule,
        len(worst),
        len(flagged),
        median,
        float(loaded.calibration_.max()),
        tuple(notes),
    )
    if html is not None:
        content = write_page(head, sheet, articles).encode()
        write_atomically(html, content)
        click.echo(
            f"{html}: {count(len(articles), 'image')} explained, {len(content) / 1e6:.1f} MB"
        )
    if out_dir is not None:
        draw_sheet(head, sheet).save(out_dir / "summary.png")
        click.echo(f"{out_dir}: summary.png and {count(n_drawn, 'explanation')}")


def _notes(
    n_more: int, any_flagged: bool, missing: Mapping[str, str], n_left_out: int
) -> list[str]:
    """Say what a reader of the page would not see."""
    notes = []
    if not any_flagged:
        notes.append("nothing is flagged: the oddest images are explained")
    if n_more > 0:
        notes.append(
            f"{n_more:,} more odd images are not explained: raise --top (at most {MOST_EXPLAINED})"
        )
    if missing:
        path, reason = next(iter(missing.items()))
        notes.append(
            f"{count(len(missing), 'normal image')} cannot be shown, such as {path} ({reason}): "
            "put them back, or fit again where they are"
        )
    if n_left_out:
        has = "has" if n_left_out == 1 else "have"
        notes.append(f"{count(n_left_out, 'image')} could not be read, and {has} no score")
    return notes


def _check_targets(html: Path | None, out_dir: Path | None) -> None:
    """Refuse, before anything is computed, what cannot be written."""
    for path, option in ((html, "--html"), (out_dir, "--out-dir")):
        if path is not None and not os.access(path.parent, os.W_OK):
            raise click.UsageError(
                f"cannot write to the folder {path.parent}: make it, or change {option}"
            )
    if out_dir is not None and out_dir.is_dir() and any(out_dir.iterdir()):
        raise click.UsageError(
            f"--out-dir {out_dir} has files already: empty it, or choose a new folder"
        )
