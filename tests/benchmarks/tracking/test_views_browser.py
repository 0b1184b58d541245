"""The page in a browser: what a user sees who follows the links that commands print.

Real runs, the real server, and headless Chromium, which comes with Debian's package `chromium`.
The page has its own ideas of what a view is, so this is the only proof that ours are right.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from handmade import PROVENANCE
from mlflow_laws import client
from servers import free_port

from benchmarks.tracking import Tracker, result_views
from benchmarks.tracking.views import view_link

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
CHROMIUM = "/usr/bin/chromium"
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LINK = re.compile(r"http://127\.0\.0\.1:\d+/#/experiments/\d+/runs\?\S*viewStateShareKey=\S+")
JOINED = "efficientnet_lite0+efficientnet_lite1+efficientnet_lite2"

THEIR_OWN = (
    "Failed to load resource: the server responded with a status of 404",  # users/current
    "ResizeObserver loop",
)
"""Errors that the page itself makes, with any view or none."""

PROBE = "<img src=x onerror=alert(1)> 'a' \"b\""


@pytest.fixture(scope="module")
def place(tmp_path_factory, weights_home, make_store):
    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(weights_home / "weights", folder / "home" / "weights")
    make_store(folder)
    return folder


def command(place, *arguments):
    env = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    env |= {
        "DN2_HOME": str(place / "home"),
        "PYTHONPATH": str(ROOT),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    return {"args": [sys.executable, "-m", "benchmarks", *arguments], "cwd": place, "env": env}


def printed(place, *arguments):
    done = subprocess.run(
        **command(place, *arguments), capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return LINK.findall(done.stdout)


@pytest.fixture(scope="module")
def links(place):
    """Yield the links that the commands print while `ui` serves the page."""
    serving = subprocess.Popen(
        **command(place, "ui", "--port", str(free_port())), stdout=subprocess.PIPE, text=True
    )
    try:
        assert "The runs are at" in serving.stdout.readline()
        run = ("run", "--dataset", "synthetic")
        encoders = f"efficientnet_lite0,efficientnet_lite1,{JOINED}"
        grid = ("--encoder", encoders, "--normalize", "none,l2,power", "--k", "1,2,5")
        curve = ("--protocol", "contamination", "--normalize", "l2", "--clean", "0,0.5")
        found = {"curves": printed(place, *run, *curve)}
        found["study"] = printed(
            place,
            *("sweep", "--dataset", "synthetic", "--k-values", "1,2"),
            *("--encoders", "efficientnet_lite0,efficientnet_lite1", "--study", "small"),
        )
        found["charts"] = printed(place, *run, *grid)
        yield {kind: only for kind, (only,) in found.items()}
    finally:
        serving.send_signal(signal.SIGINT)
        serving.wait(timeout=30)


@pytest.fixture(scope="module")
def tracker(place, links):
    return Tracker(f"sqlite:///{place}/mlflow.db").connect()


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    assert Path(CHROMIUM).exists(), "this test needs a browser: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    """Open a page with a fresh profile: the page remembers in the browser what it showed last."""
    context = chromium.new_context(viewport={"width": 1600, "height": 1000})
    page, errors = context.new_page(), []
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: (errors.append(dialog.message), dialog.dismiss()))
    yield page
    context.close()
    assert not [error for error in errors if not any(known in error for known in THEIR_OWN)]


def link_to(links, tracker, kind):
    """Return the address of another view of the data set that `run` linked to."""
    base = links["charts"].partition("#")[0]
    (view,) = [
        view
        for view in result_views("synthetic", "one_vs_rest", (), curve=False)
        if view.kind == kind
    ]
    return base + view_link(tracker.experiment_id, view.key)


def expand_description(page):
    page.locator("[data-component-id='mlflow.experiment.metadata_editor.expand_button']").click()


def shown(page, text):
    """Return a place on the page that is in sight, without scrolling."""
    found = page.get_by_text(text, exact=True).first
    found.wait_for()
    box = found.bounding_box()
    assert box["y"] + box["height"] < 1000, text
    return box


def test_the_link_of_a_run_shows_the_mean_on_the_first_screen(page, links):
    page.goto(links["charts"])
    heading = shown(page, "Mean ROCAUC")
    bars = page.locator(".js-plotly-plot").first.locator(".barlayer .point")
    bars.first.wait_for()
    boxes = [bar.bounding_box() for bar in bars.all()]
    assert len(boxes) == 10
    assert heading["y"] < min(box["y"] for box in boxes)
    assert max(box["y"] + box["height"] for box in boxes) < 1000
    assert shown(page, "rocauc")["y"] > heading["y"]
    headers = page.get_by_test_id("experiment-view-compare-runs-section-header")
    sections = [" ".join(text.split("\n")[:2]) for text in headers.all_inner_texts()]
    assert sections[:2] == ["Mean ROCAUC (1)", "ROCAUC of each class (4)"]
    assert not [name for name in sections if name.endswith("(0)")], "no empty sections"


def test_the_first_row_of_the_leaderboard_is_the_best_run(page, links, tracker):
    page.goto(link_to(links, tracker, "leaderboard"))
    page.locator(".ag-center-cols-container [col-id*=rocauc]").first.wait_for()
    best = client(tracker).search_runs(
        [tracker.experiment_id],
        "params.dataset = 'synthetic' and params.protocol = 'one_vs_rest' and metrics.rocauc > 0",
        order_by=["metrics.rocauc DESC"],
    )
    row = page.locator(".ag-pinned-left-cols-container .ag-row, .ag-center-cols-container .ag-row")
    first = page.locator("[row-index='0']").all_inner_texts()
    assert row.count() > 20
    assert any(best[0].info.run_name in text for text in first)
    assert any(str(best[0].data.metrics["rocauc"]) in text for text in first)
    for column in ("rocauc", "detector", "encoder", "normalize", "k"):
        shown(page, column)


def test_no_label_of_the_parallel_coordinates_is_cut(page, links, tracker):
    page.goto(link_to(links, tracker, "parameters"))
    page.locator(".parcoords .tick text").first.wait_for()
    page.wait_for_timeout(1000)  # it draws first, and cuts then
    labels = page.locator(".parcoords .label").all_text_contents()
    assert [label for label in labels if label != "uuid"] == ["encoder", "normalize", "k", "rocauc"]
    values = page.locator(".parcoords .tick text").all_text_contents()
    assert {"lite0", "lite1", "lite0+lite1+lite2", "none", "l2", "power"} <= set(values)
    assert not [value for value in values if "..." in value]


def test_curves_tell_two_methods_apart_without_hovering(page, links):
    page.goto(links["curves"])
    shown(page, "Mean ROCAUC")
    page.locator(".scatterlayer .trace").first.wait_for()
    legend = page.get_by_text(re.compile(r" \(rocauc_curve\)$"))
    assert sorted(legend.all_inner_texts()) == [
        "contamination dn2 l2 clean=0.5 synthetic (rocauc_curve)",
        "contamination dn2 l2 synthetic (rocauc_curve)",
    ]
    assert all(name.bounding_box()["y"] < 1000 for name in legend.all())


def test_a_study_opens_on_its_trials(page, links, tracker):
    page.goto(links["study"])
    page.locator(".parcoords .tick text").first.wait_for()
    shown(page, "ROCAUC against parameters")
    labels = set(page.locator(".parcoords .label").all_text_contents())
    assert {"encoder", "normalize", "k", "rocauc_validation"} <= labels


def test_the_menu_lists_the_views_and_a_description_leads_to_them(page, links, tracker):
    page.goto(link_to(links, tracker, "leaderboard"))
    page.get_by_role("button", name="synthetic leaderboard").click()
    listed = page.get_by_role("menuitem").all_inner_texts()
    names = {"synthetic charts", "synthetic parameters", "synthetic contamination curves"}
    assert names | {"study small"} <= {name.strip() for name in listed}
    page.reload()  # which closes the menu
    expand_description(page)
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="parameters").first.click()
    other = opened.value
    other.locator(".parcoords .tick text").first.wait_for()
    assert "viewStateShareKey=synthetic-parameters-" in other.url


def test_a_name_that_looks_like_html_stays_text(page, links, tracker):
    views = result_views(PROBE, "one_vs_rest", ["cat"], curve=False)
    tracker.save_views(views)
    tracker.describe(tracker.start_summary("", PROVENANCE), PROBE, f"{PROBE}\n```\n{PROBE}", views)
    page.goto(links["charts"].partition("#")[0] + view_link(tracker.experiment_id, views[0].key))
    note = page.get_by_text("DN2 benchmark").first
    note.wait_for()
    assert PROBE in note.locator("xpath=..").inner_text()
    expand_description(page)
    page.locator("pre").first.wait_for()
    assert page.locator("pre").first.inner_text().count(PROBE) == 2
    assert page.locator("img[src=x]").count() == 0
    assert page.get_by_role("button", name=f"{PROBE} charts").count() == 1
