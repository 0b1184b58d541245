"""The page in a browser, opened from a file: what a reader sees and can do.

Headless Chromium, which comes with Debian's package `chromium`. The runs have known scores, and the
pictures made-up features. With DN2_REPORT_SHOTS a folder, the screenshots are left there.
"""

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from scored_runs import CURVE, OCSVM, TOY, log_cell, resolved, scored

from benchmarks.__main__ import run_main
from benchmarks.tracking import Tracker

pytestmark = pytest.mark.slow

CHROMIUM = "/usr/bin/chromium"
L2 = replace(TOY, normalize="l2")
SECONDS_TO_USE = 2.0


@pytest.fixture(scope="module")
def page_file(tmp_path_factory, make_store):
    folder = tmp_path_factory.mktemp("browser")
    uri = make_store(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        tracker = Tracker(uri).connect()
        for dataset, data in (("cifar10", "c"), ("fashion_mnist", "f"), ("cifar100_coarse", "o")):
            on = lambda cell: resolved(replace(cell, dataset=dataset), data=64 * data)  # noqa: B023, E731
            for k in (1, 2, 5):
                for shift, cell in ((1.0, TOY), (1.6, L2)):
                    cell = on(replace(cell, detector_params={"k": k, "clean": 0.0}))
                    log_cell(tracker, folder / "home", scored(cell, shift + k / 50, seed=k))
            log_cell(tracker, folder / "home", scored(on(OCSVM), 0.5))
            log_cell(tracker, folder / "home", scored(on(CURVE), xs=(0.0, 0.1)))
        assert run_main(["report", "--tracking-uri", uri, "--home", str(folder / "none")]) == 0
    return folder / "site/index.html"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    assert Path(CHROMIUM).exists(), "this test needs a browser: apt-get install chromium"
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def opened(browser, page_file):
    """Return a function that opens the page; what it says on the console must be nothing."""
    heard, contexts = [], []

    def open_page(**how):
        contexts.append(browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **how}))
        page = contexts[-1].new_page()
        page.on("console", lambda message: heard.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: heard.append(f"error: {error}"))
        page.on("request", lambda request: heard.append(request.url))
        page.goto(page_file.as_uri())
        page.wait_for_function("document.documentElement.dataset.drawn === 'all'")
        return page

    yield open_page
    for context in contexts:
        context.close()
    outside = [line for line in heard if not line.startswith(("data:", page_file.as_uri()))]
    assert outside == []


def column(page, table, number):
    return page.locator(f"#{table} tbody tr > :nth-child({number})").all_inner_texts()


def shoot(page, name):
    if folder := os.environ.get("DN2_REPORT_SHOTS"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def test_the_page_is_small_and_usable_at_once(opened, page_file):
    assert page_file.stat().st_size < 5_000_000
    page = opened()
    timing = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
    assert page.evaluate(timing) < 1000 * SECONDS_TO_USE
    drawn, all_of = page.locator(".drawing svg.marks").count(), page.locator("figure.chart").count()
    assert drawn == all_of > 5
    shoot(page, "light")


def test_tables_sort_by_mouse_and_by_keyboard(opened):
    page = opened()
    table = "cifar10-one_vs_rest-runs"
    head = page.locator(f"#{table} thead th").nth(1)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    numbers = [re.match(r"[\d.]+", text) for text in column(page, table, 2)]
    values = [float(found[0]) for found in numbers if found]
    assert values == sorted(values, reverse=True)
    assert len(values) == 7
    assert all(found is None for found in numbers[7:])  # what was not run stands last
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    numbers = [re.match(r"[\d.]+", text) for text in column(page, table, 2)]
    assert [float(found[0]) for found in numbers[:7]] == sorted(values)
    names = page.locator(f"#{table} thead th").nth(0)
    names.locator("button").click()
    assert head.get_attribute("aria-sort") is None
    assert column(page, table, 1) == sorted(column(page, table, 1), key=str.lower)


def test_hovering_shows_values(opened):
    page = opened()
    chart = page.locator("#cifar10-one_vs_rest-bars")
    chart.scroll_into_view_if_needed()
    chart.locator(".mark-rect path").nth(2).hover()
    tip = page.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    shown = tip.inner_text()
    for word in ("method", "class", "ROCAUC", "low", "high"):
        assert word in shown


def test_a_method_can_be_hidden_and_a_class_chosen(opened):
    page = opened()
    chart = page.locator("#cifar10-one_vs_rest-bars")
    bars = lambda: chart.locator(".mark-rect path").count()  # noqa: E731
    before, methods = bars(), chart.locator(".legend button").count()
    button = chart.locator(".legend button").first
    button.press("Enter")
    assert button.get_attribute("aria-pressed") == "false"
    page.wait_for_timeout(300)
    assert bars() == before - 4  # three classes and the mean
    button.click()
    page.wait_for_timeout(300)
    assert (bars(), methods) == (before, 8)
    roc = page.locator("#cifar10-one_vs_rest-roc")
    line = lambda: roc.locator(".mark-line path").first.get_attribute("d")  # noqa: E731
    first = line()
    roc.locator("select").select_option("owl")
    page.wait_for_timeout(300)
    assert line() != first


def test_dark_is_dark_and_changes_at_once(opened):
    page = opened(color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    label = "getComputedStyle(document.querySelector('.role-axis-label text')).fill"
    assert page.evaluate(background) == "rgb(20, 23, 26)"
    assert page.evaluate(label) == "rgb(230, 232, 234)"
    shoot(page, "dark")
    page.emulate_media(color_scheme="light")
    page.wait_for_function(f"{label} === 'rgb(28, 30, 33)'")
    assert page.evaluate(background) == "rgb(255, 255, 255)"


def test_a_phone_shows_the_page_without_scrolling_sideways(opened):
    page = opened(viewport={"width": 390, "height": 844}, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    wide = "[...document.querySelectorAll('.drawing svg')].filter(s => s.clientWidth > 390).length"
    assert page.evaluate(wide) == 0
    shoot(page, "phone")


def test_the_page_can_be_printed(opened):
    page = opened(color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    )
    shoot(page, "print")


def test_ranks_are_drawn_where_three_methods_share_data_sets(opened):
    page = opened()
    assert page.locator("figure.drawn svg").count() == 1
    assert "rank" in page.locator("#differences").inner_text()
