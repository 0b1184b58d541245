"""Views of the MLflow page, as tags of the experiment, and descriptions.

What the page makes of them is in test_views_browser.py.
"""

import json
import random
import re
import sqlite3
import string
from pathlib import Path

import mlflow
import pytest
from handmade import PROVENANCE
from mlflow_laws import client, run_of

from benchmarks.tracking import Tracker, TrackingError, result_views, study_view
from benchmarks.tracking.views import (
    COMPRESSED,
    LONGEST,
    LONGEST_OF_RUN,
    NOTE,
    TAG,
    describe,
    may_describe,
    names_of_views,
    pack,
    unpack,
    view_link,
    view_tags,
)

# A view that was saved by hand, in the page of MLflow 3.17.2, with one chart.
BY_HAND = Path(__file__).with_name("view_by_hand.json").read_text()

ODD = [
    "folder:/a b/it's",
    'folder:/"quoted"',
    "both ' and \"",
    "<script>alert(1)</script>",
    "npz:/ü/数.npz",
    "semi;colon, 100 %",
]


def classes(n, letters=8):
    draw = random.Random(0)
    return ["".join(draw.choices(string.ascii_lowercase, k=letters)) for _ in range(n)]


def states(tags):
    return {name: unpack(json.loads(text)["state"]) for name, text in tags.items()}


def test_a_view_has_the_fields_that_the_page_itself_writes():
    theirs = json.loads(BY_HAND)
    views = [
        *result_views("cifar10", "one_vs_rest", ["cat"], curve=False),
        *result_views("cifar10", "contamination", ["cat"], curve=True),
        study_view("mine", "rocauc_validation", ["k"]),
    ]
    hand, fields = unpack(theirs["state"]), set()
    assert theirs["state"].startswith(COMPRESSED)
    for text in view_tags(views, {}, 7).values():
        ours = json.loads(text)
        assert ours.keys() == theirs.keys()
        assert type(ours["createdAt"]) is type(theirs["createdAt"]) is int
        fields |= unpack(ours["state"]).keys()
    assert fields - hand.keys() == {"chartsSearchFilter"}
    cards = {card["type"]: card for card in hand["compareRunCharts"]}
    for view in views:
        for card in view.state()["compareRunCharts"]:
            if card["type"] in cards:
                assert card.keys() <= cards[card["type"]].keys() | {"displayPoints"}


def test_only_what_has_changed_is_written():
    views = result_views("cifar10", "one_vs_rest", ["cat", "dog"], curve=False)
    first = view_tags(views, {}, 100)
    assert len(first) == 3
    assert view_tags(views, first, 200) == {}
    other = result_views("cifar10", "one_vs_rest", ["cat"], curve=False)
    changed = view_tags(other, first, 200)
    assert {tag.split("-")[1] for tag in changed} == {"charts", "leaderboard"}
    for text in changed.values():
        saved = json.loads(text)
        assert (saved["createdAt"], saved["updatedAt"]) == (100, 200)


@pytest.mark.parametrize("damaged", ["", "[]", "{}", '{"name": 3}', '{"state": "deflate;AA"}'])
def test_a_damaged_view_is_written_again(damaged):
    views = result_views("cifar10", "one_vs_rest", ["cat"], curve=False)
    first = view_tags(views, {}, 100)
    name = next(iter(first))
    assert view_tags(views, {**first, name: damaged}, 200).keys() == {name}
    assert names_of_views({**first, name: damaged}).keys() <= names_of_views(first).keys()


@pytest.mark.parametrize(("n", "letters"), [(25, 12), (200, 12), (30, 250), (5, 2000)])
def test_many_classes_and_long_names_fit_into_a_tag(n, letters):
    views = result_views("d" * 500, "one_vs_rest", classes(n, letters), curve=False)
    tags = view_tags(views, {}, 1790000000000)
    assert len(tags) == 3
    assert max(map(len, tags.values())) <= LONGEST
    assert view_tags(views, tags, 1790000000001) == {}
    if n == 25:
        (state,) = (state for tag, state in states(tags).items() if "-charts-" in tag)
        assert len(state["compareRunCharts"]) == 1 + 25 + 4


def test_what_can_never_fit_is_left_out():
    views = result_views(classes(1, 9000)[0], "one_vs_rest", ["cat"], curve=False)
    assert view_tags(views, {}, 1) == {}


def test_keys_are_fit_for_an_address_and_differ():
    subjects = ["a", "A", "a b", "a-b", "", "leaderboard", *ODD]
    views = [
        view
        for subject in subjects
        for view in result_views(subject, "one_vs_rest", ["c"], curve=False)
    ]
    keys = [view.key for view in views]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(r"[a-z0-9-]{1,80}", key) for key in keys)
    for view in views:
        mode = "TABLE" if view.kind == "leaderboard" else "CHART"
        assert f"viewStateShareKey={view.key}&compareRunsMode={mode}" in view_link("1", view.key)


def test_a_filter_finds_the_runs_of_its_data_set_whatever_its_name(tracker):
    for name in ODD:
        run = client(tracker).create_run(tracker.experiment_id)
        client(tracker).log_param(run.info.run_id, "dataset", name)
        client(tracker).log_param(run.info.run_id, "protocol", "one_vs_rest")
        client(tracker).log_metric(run.info.run_id, "rocauc", 0.5)
    for name in ODD:
        view = result_views(name, "one_vs_rest", ["cat"], curve=False)[0]
        found = client(tracker).search_runs([tracker.experiment_id], view.where)
        assert [run.data.params["dataset"] for run in found] == [name]


def test_the_store_has_the_views_and_the_newest_is_known(tracker):
    views = result_views(ODD[3], "one_vs_rest", ["cat"], curve=False)
    assert tracker.save_views(views) == views
    summary = tracker.start_summary("", PROVENANCE)
    tracker.describe(summary, "title", "a table\n", views)
    tags = client(tracker).get_experiment(tracker.experiment_id).tags
    assert set(names_of_views(tags).values()) == {view.name for view in views}
    assert tracker.newest_view() == (tracker.experiment_id, views[0].key)
    for note in (tags[NOTE], run_of(tracker, summary).data.tags[NOTE]):
        assert "a table" in note
        assert view_link(tracker.experiment_id, views[0].key) in note
        assert "<script>" not in note
    with sqlite3.connect("mlflow.db") as database:
        database.execute("DELETE FROM experiment_tags WHERE key LIKE 'mlflow.shared%'")
    assert tracker.newest_view() == (tracker.experiment_id, "")


def test_what_a_user_wrote_about_the_experiment_stays(tracker):
    client(tracker).set_experiment_tag(tracker.experiment_id, NOTE, "My notes.")
    tracker.describe(tracker.start_summary("", PROVENANCE), "title", "text", ())
    assert client(tracker).get_experiment(tracker.experiment_id).tags[NOTE] == "My notes."
    assert may_describe("")
    assert may_describe(describe("a", "b", {}, "1", LONGEST))


def test_of_two_processes_the_last_one_wins(tracker, store):
    other = Tracker(store).connect()
    for one, names in ((tracker, ["cat"]), (other, ["cat", "dog"])):
        one.save_views(result_views("cifar10", "one_vs_rest", names, curve=False))
    published = result_views("cifar10", "one_vs_rest", [], curve=False)
    assert len(tracker.save_views(published, replace=False)) == 3, "they are there, as they were"
    tags = client(tracker).get_experiment(tracker.experiment_id).tags
    saved = {tag: text for tag, text in tags.items() if tag.startswith(TAG)}
    (charts,) = (state for tag, state in states(saved).items() if "-charts-" in tag)
    assert "rocauc/dog" in {card["metricKey"] for card in charts["compareRunCharts"]}


def test_a_store_that_refuses_tags_says_so(tracker):
    with sqlite3.connect("mlflow.db") as database:
        database.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON experiment_tags "
            "BEGIN SELECT RAISE(ABORT, 'read only'); END"
        )
    with pytest.raises(TrackingError, match="cannot save the views of the MLflow page"):
        tracker.save_views(result_views("cifar10", "one_vs_rest", ["cat"], curve=False))


@pytest.mark.parametrize("longest", [LONGEST, LONGEST_OF_RUN])
@pytest.mark.parametrize("text", ["", "x" * 9000, "line\n" * 5000, "```\n<b>&\n````\n"])
def test_a_description_fits_and_its_text_stays_text(text, longest):
    names = {f"key-{n}": f"data{n} charts" for n in range(90)}
    note = describe("<script> *bold* [link](x)", text, names, "1", longest)
    assert len(note) <= longest
    head, _, _ = note.partition("\n\n")
    assert head == r"**DN2 benchmark** &lt;script&gt; \*bold\* \[link\]\(x\)"
    *_, fence = note.strip().split("\n")
    assert set(fence) == {"`"}, "the text ends where it should"
    assert fence not in text
    assert note.count(f"\n{fence}") == 2


def test_links_to_one_subject_share_a_line():
    names = {"a-1": "cifar10 charts", "b-2": "cifar10 leaderboard", "c-3": "study mine"}
    lines = describe("title", "text", names, "7", LONGEST).split("\n")
    assert f"- cifar10: [charts]({view_link('7', 'a-1')}), [leaderboard](" in lines[2]
    assert lines[3] == f"- [study mine]({view_link('7', 'c-3')})"


def test_a_state_is_packed_as_the_page_packs_it():
    state = unpack(json.loads(BY_HAND)["state"])
    assert unpack(pack(state)) == state
    assert unpack(json.dumps(state)) == state


def test_this_version_of_mlflow_knows_saved_views():
    """Look for what the page needs in its code: nothing else can be told without a browser."""
    folder = Path(mlflow.__file__).parent / "server/js/build/static/js"
    (code,) = (file.read_text() for file in folder.glob("main.*.js"))
    for words in (
        TAG,
        "viewStateShareKey",
        f'"{COMPRESSED}"',
        "compareRunCharts",
        "runsHiddenMode",
    ):
        assert words in code, f"MLflow {mlflow.__version__} ignores saved views: {words} is gone"
