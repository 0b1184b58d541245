"""Explanations as one HTML page that needs no network, and as PNG files."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dn2.explaining import Explanation, lay_over
from dn2.gathering import printable

ON_THE_SHEET = 20
"""How many of the oddest images the summary sheet shows."""

SHOWN_NEAREST = 5
SHEET_SIDE = 128
JPEG_QUALITY = 85

STYLE = """
:root{color-scheme:light dark;--ground:#fff;--text:#1b1f24;--quiet:#59636e;--line:#d5dae0;
--card:#f6f7f9;--odd:#b42318}
@media(prefers-color-scheme:dark){:root{--ground:#14171b;--text:#e6e9ed;--quiet:#9aa4af;
--line:#343b43;--card:#1d2126;--odd:#ff8a7a}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:72rem;padding:1.25rem 1rem 4rem;background:var(--ground);
color:var(--text);font:16px/1.45 system-ui,sans-serif}
h1{font-size:1.6rem;margin:.2rem 0 .4rem}
h2{font-size:1.2rem;margin:2.2rem 0 .6rem}
h3{font-size:1rem;margin:0;overflow-wrap:anywhere}
p{margin:.4rem 0;max-width:46rem}
a{color:inherit}
.quiet,figcaption,.caption{color:var(--quiet)}
.odd{color:var(--odd);font-weight:600}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(6.1rem,1fr));gap:.7rem;
list-style:none;margin:0;padding:0}
.sheet a{display:block;text-decoration:none}
.sheet a:hover .name{text-decoration:underline}
figure{margin:0}
img,.gone{display:block;width:100%;height:auto;aspect-ratio:1;border-radius:4px;background:var(--card)}
figcaption,.caption{font-size:.82rem;line-height:1.35;margin-top:.25rem;overflow-wrap:anywhere;
font-variant-numeric:tabular-nums}
.name{color:var(--text)}
.sheet .name{display:block;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.gone{display:flex;align-items:center;justify-content:center;text-align:center;padding:.5rem;
border:1px dashed var(--line);font-size:.82rem;color:var(--quiet);overflow-wrap:anywhere}
article{border:1px solid var(--line);border-radius:8px;padding:.9rem;margin:0 0 1rem;
scroll-margin-top:.5rem}
article:target{border-color:var(--odd)}
.numbers{font-variant-numeric:tabular-nums;margin:.15rem 0 .7rem}
.pictures{display:grid;grid-template-columns:minmax(0,2fr) minmax(0,3fr);gap:1rem}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:.5rem;align-content:start}
.near{display:grid;grid-template-columns:repeat(5,minmax(0,1fr));gap:.5rem;align-content:start}
.scale{display:inline-block;width:6rem;height:.7rem;border-radius:3px;vertical-align:-.05rem;
background:linear-gradient(90deg,#8a8a8a,#ebb914,#eb6414,#eb0014)}
@media(max-width:46rem){.pictures{grid-template-columns:minmax(0,1fr)}
.near{grid-template-columns:repeat(3,minmax(0,1fr))}}
"""


@dataclass(frozen=True)
class PageHead:
    """Hold what the top of a page says.

    Attributes
    ----------
    detector : str
        Its name.
    recipe : str
        Such as ``efficientnet_lite0, power, k = 5``.
    rule : str
        How images were flagged: ``at a false-alarm rate of 0.05``.
    n_images, n_flagged : int
    median, largest : float
        Of the scores of normal images.
    notes : tuple of str
        What is missing, a sentence each.
    """

    detector: str
    recipe: str
    rule: str
    n_images: int
    n_flagged: int
    median: float
    largest: float
    notes: tuple[str, ...]

    def title(self) -> str:
        """Say how many images are odd."""
        return f"{self.n_flagged:,} of {self.n_images:,} images are odd"


OddImage = tuple[str, float, bool, np.ndarray | None]
"""A path, its score, whether it is flagged, and what is seen of it, if it can be read."""


def write_page(head: PageHead, sheet: Sequence[OddImage], articles: Sequence[str]) -> str:
    """Write a page of HTML.

    Parameters
    ----------
    head : PageHead
    sheet : sequence of OddImage
        The oddest first.
    articles : sequence of str
        From `write_article`, in the same order: the first is on the first of the sheet.
    """
    parts: list[str] = []
    title = escape(head.title())
    parts.append(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        f"<p>Compared with the normal images of <b>{_text(head.detector)}</b> "
        f"({escape(head.recipe)}), {escape(head.rule)}. The scores of normal images: "
        f"median {head.median:#.3g}, largest {head.largest:#.3g}. "
        "Every picture shows what is looked at.</p>\n"
    )
    for note in head.notes:
        parts.append(f'<p class="quiet">{_text(note)}</p>\n')
    parts.append('<h2>The oddest</h2>\n<ol class="sheet">\n')
    for rank, (path, score, odd, crop) in enumerate(sheet, 1):
        word = f"{rank}. {score:#.3g}{' <span class=odd>odd</span>' if odd else ''}"
        inner = (
            f"<figure>{_picture(crop, SHEET_SIDE, '', 'it cannot be read')}<figcaption>"
            f'<span class="name">{_text(Path(path).name)}</span>{word}</figcaption></figure>'
        )
        linked = f'<a href="#image-{rank}">{inner}</a>' if rank <= len(articles) else inner
        parts.append(f'<li title="{_text(path)}">{linked}</li>\n')
    parts.append(
        "</ol>\n<h2>Where they differ</h2>\n"
        "<p>The second picture shows where the image differs from the normal ones beside it: from "
        'grey, as normal images differ among each other, to red <span class="scale"></span>. '
        "It compares what a network sees at each place with the nearest at any place of the normal "
        "images. It is a hint, not the reason: the score compares the image as a whole.</p>\n"
    )
    return "".join([*parts, *articles, "</body>\n</html>\n"])


def write_article(rank: int, one: Explanation, odd: bool, median: float) -> str:
    """Write the part of a page that explains one image.

    Parameters
    ----------
    rank : int
        1 for the oddest.
    one : Explanation
    odd : bool
        Whether it is flagged.
    median : float
        Of the scores of normal images.
    """
    image = one.image
    times = image.score / median if median > 0 else 0
    heat = None if one.heat is None else lay_over(one.crop, one.heat)
    found = any(near.crop is not None for near in one.nearest)
    why = "the network has no feature map" if found else "no normal image can be read"
    near = "".join(
        f"<figure>{_picture(n.crop, 160, 'a normal image', n.missing)}<figcaption>"
        f'<span class="name">{_text(Path(n.path).name)}</span><br>{n.distance:#.3g}'
        "</figcaption></figure>"
        for n in one.nearest[:SHOWN_NEAREST]
    )
    return (
        f'<article id="image-{rank}">\n<h3>{rank}. {_text(image.path)}</h3>\n'
        f'<p class="numbers">score {image.score:#.4g}'
        + (f" ({times:.2g} times the median of normal images)" if times else "")
        + f", p = {image.p_value:.3g}"
        + (', <span class="odd">odd</span>' if odd else "")
        + '</p>\n<div class="pictures"><div class="pair">'
        f"<figure>{_picture(one.crop, 224, 'the image', '')}"
        "<figcaption>the image</figcaption></figure>"
        f"<figure>{_picture(heat, 224, 'heat map', why)}"
        "<figcaption>where it differs</figcaption></figure></div>\n"
        f'<div><div class="near">{near}</div>'
        "<p class=caption>its nearest normal images, and how far they are</p></div>"
        "</div>\n</article>\n"
    )


def _picture(pixels: np.ndarray | None, side: int, what: str, missing: str) -> str:
    if pixels is None:
        return f'<div class="gone">not shown: {_text(missing)}</div>'
    return f'<img src="{_data(pixels, side)}" alt="{what}" width="{side}" height="{side}">'


def _data(pixels: np.ndarray, side: int) -> str:
    """Write a picture as the address of its own JPEG."""
    content = io.BytesIO()
    picture = Image.fromarray(pixels)
    if side != len(pixels):
        picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    picture.save(content, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def _text(name: str) -> str:
    return escape(printable(name))


# ---- PNG files

GAP, LINE, SIDE = 10, 18, 224


def png_name(rank: int, path: str) -> str:
    r"""Name an explanation's file after its image.

    Examples
    --------
    >>> png_name(3, "new/<a b>\n.bmp")
    '003-a-b-bmp.png'
    """
    stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(path).name).strip("-")[:60]
    return f"{rank:03}-{stem or 'image'}.png"


def draw_explanation(one: Explanation) -> Image.Image:
    """Draw an image, where it differs, and its nearest normal images in a row."""
    heat = None if one.heat is None else lay_over(one.crop, one.heat)
    tiles = [
        (one.crop, f"score {one.image.score:#.4g}, p = {one.image.p_value:.3g}"),
        (heat, "where it differs"),
        *(
            (near.crop, f"{near.distance:#.3g} {Path(near.path).name}")
            for near in one.nearest[:SHOWN_NEAREST]
        ),
    ]
    return _draw(tiles, len(tiles), SIDE, printable(one.image.path))


def draw_sheet(head: PageHead, sheet: Sequence[OddImage]) -> Image.Image:
    """Draw the oddest images with their scores, five in a row."""
    tiles = [
        (crop, f"{rank}. {score:#.3g}{' odd' if odd else ''} {Path(path).name}")
        for rank, (path, score, odd, crop) in enumerate(sheet, 1)
    ]
    return _draw(tiles, 5, 160, head.title())


def _draw(
    tiles: Sequence[tuple[np.ndarray | None, str]], columns: int, side: int, title: str
) -> Image.Image:
    """Draw pictures in rows, with a line below each and one above all."""
    rows = -(-len(tiles) // columns)
    step = side + GAP
    size = (GAP + columns * step, 2 * GAP + LINE + rows * (step + LINE))
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(13)
    pen.text((GAP, GAP), _fitting(title, font, size[0] - 2 * GAP), "black", font)
    for i, (pixels, words) in enumerate(tiles):
        left = GAP + i % columns * step
        top = 2 * GAP + LINE + i // columns * (step + LINE)
        if pixels is None:
            pen.rectangle((left, top, left + side - 1, top + side - 1), "#eeeeee", "#999999")
            pen.text((left + GAP, top + GAP), "not shown", "#555555", font)
        else:
            picture = Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS)
            canvas.paste(picture, (left, top))
        pen.text((left, top + side + 2), _fitting(printable(words), font, side), "black", font)
    return canvas


def _fitting(words: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    """Cut words to a width in pixels."""
    if font.getlength(words) <= width:
        return words
    while words and font.getlength(words + "...") > width:
        words = words[:-1]
    return words + "..."
