"""Explanations of real features, and the page in a browser. Slow."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.datasets import synthetic
from dn2 import ImageDetector
from dn2.commands import run_main
from dn2.crops import read_crop
from dn2.explaining import explain

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WIDTHS = {"wide": 1280, "phone": 390}


@pytest.fixture(scope="module")
def photos(tmp_path_factory, weights_home):
    """Discs in ``good``, discs with a blot in ``new``, where the blots are, and a detector."""
    folder = tmp_path_factory.mktemp("photos")
    data = synthetic.generate()
    discs = [
        np.asarray(Image.fromarray(image).convert("RGB").resize((120, 120)))
        for image in data.images[data.labels == 0][:60]
    ]
    (folder / "good").mkdir()
    (folder / "new").mkdir()
    for number, image in enumerate(discs[:40]):
        Image.fromarray(image).save(folder / f"good/{number:02d}.png")
    rng = np.random.default_rng(0)
    blots = {}
    rows, columns = np.mgrid[:26, :26]
    disc = (rows - 12.5) ** 2 + (columns - 12.5) ** 2 < 13**2
    for number, image in enumerate(discs[40:], 40):
        image, where = image.copy(), np.zeros((120, 120), np.uint8)
        top, left = rng.integers(12, 82, 2)
        box = slice(top, top + 26), slice(left, left + 26)
        image[box][disc] = rng.integers(0, 256, 3)
        where[box][disc] = 255
        path = str(folder / f"new/{number}<b>.png")
        Image.fromarray(image).save(path)
        blots[path] = read_crop(where)[..., 0] > 127
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DN2_HOME", str(weights_home))
        detector = ImageDetector().fit([str(path) for path in sorted((folder / "good").iterdir())])
    detector.save(folder / "detector")
    return folder, detector, blots


def test_the_heat_is_where_a_blot_was_painted(photos):
    """By chance, the hottest place is in the blot of one image in 26."""
    _, detector, blots = photos
    hits = []
    for one in explain(detector, detector.score(list(blots)).images, []):
        where = blots[one.image.path]
        hits.append(where.ravel()[one.heat.argmax()])
        assert one.heat[where].mean() > one.heat[~where].mean()
    assert np.mean(hits) >= 0.7


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_in_a_browser(photos, monkeypatch, capfd):
    """It shows every picture, fits the screen, and asks the network for nothing."""
    sync_api = pytest.importorskip("playwright.sync_api")
    folder, _, _ = photos
    monkeypatch.chdir(folder)
    assert run_main(["explain", "detector", "new", "--html", "why.html"]) == 0
    n = int(re.search(r"why.html: (\d+) image", capfd.readouterr().out)[1])
    assert n > 10
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            for width in WIDTHS.values():
                page = browser.new_page(
                    viewport={"width": width, "height": 800}, color_scheme=scheme
                )
                said, asked = [], []
                page.on("console", lambda message, said=said: said.append(message.text))
                page.on("request", lambda request, asked=asked: asked.append(request.url))
                page.goto(Path("why.html").absolute().as_uri())
                assert said == []
                assert [url for url in asked if not url.startswith(("data:", "file:"))] == []
                assert page.evaluate("document.documentElement.scrollWidth") == width
                assert page.evaluate(
                    "[...document.images].every(i => i.complete && i.naturalWidth > 0 && "
                    "Math.abs(i.clientWidth - i.clientHeight) <= 1)"
                )
                assert page.locator(".sheet li").count() == 20
                assert page.locator("article").count() == n
                page.locator(".sheet a").nth(2).click()
                assert page.locator("article:target h3").inner_text().startswith("3. ")
                ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
                assert (sum(map(int, re.findall(r"\d+", ground))) < 200) == (scheme == "dark")
                page.close()
        browser.close()
