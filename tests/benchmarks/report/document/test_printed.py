"""Every printed number comes from results/: the tables are made of it, and the prose agrees.

``python -m benchmarks report --from results --update docs/results.md`` writes the tables again.
"""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.contracts import UsageError
from benchmarks.report.document.measured import MEAN, Measured, Score, read_rows
from benchmarks.report.document.printed import (
    DEFINITIONS,
    MARKED,
    Definition,
    Line,
    find_score,
    printed_page,
    printed_table,
    read_definitions,
)
from benchmarks.report.published import published_rows
from benchmarks.report.tables import percent

ROOT = Path(__file__).parents[4]
PAGES = {name: (ROOT / name).read_text("utf-8") for name in ("README.md", "docs/results.md")}

NO_ROCAUC = {
    "docs/results.md": {
        # what a training does to the network, and points of difference between printed numbers
        *("11.9", "18.5"),
    },
    "README.md": set(),
}


@pytest.fixture(scope="module")
def results():
    return read_rows(sorted((ROOT / "results").glob("*.csv")))


@pytest.fixture(scope="module")
def definitions():
    return read_definitions(ROOT / "results" / DEFINITIONS)


def test_the_tables_of_the_pages_are_what_results_make(results, definitions):
    for page, text in PAGES.items():
        assert printed_page(text, results, definitions) == text, (
            f"{page} and results/ have drifted apart: "
            f"python -m benchmarks report --from results --update {page}"
        )


def test_the_table_of_the_readme_is_what_results_make(results, definitions):
    made = printed_table(definitions["dn2_cifar10"], results)
    numbers = [re.findall(r"[\d.]+", line) for line in made.splitlines() if re.search(r"\d", line)]
    (block,) = [
        block
        for block in re.findall(r"```text\n(.*?)```", PAGES["README.md"], re.DOTALL)
        if "normalize=power" in block
    ]
    lines = [line for line in block.splitlines() if re.search(r"\d\.\d", line)]
    assert [re.findall(r"[\d.]+", line) for line in lines] == [
        row for row in numbers if len(row) > 2
    ]


def test_every_definition_is_used(definitions):
    used = {found["name"] for text in PAGES.values() for found in MARKED.finditer(text)}
    assert set(definitions) - used <= {"dn2_cifar10"}
    assert used <= set(definitions)


@pytest.mark.parametrize("page", PAGES)
def test_numbers_in_prose_are_in_results(page, results):
    """Look for each number of the page that is written as a percentage with decimals."""
    known = set()
    for one in results:
        for score in one.scores:
            for value in (score.rocauc, score.low, score.high, score.average_precision):
                known |= {percent(value, decimals=1), percent(value, decimals=2)}
            if score.standard_error is not None:
                known.add(percent(score.standard_error))
    means = [row["rocauc"] for row in published_rows()]
    known |= {percent(value) for value in means}
    # what a first run of generated images prints is tested in tests/test_docs.py
    text = re.sub(r"```text\nROCAUC of dn2 on synthetic.*?```", "", PAGES[page], flags=re.DOTALL)
    text = MARKED.sub("", re.sub(r"```bash.*?```", "", text, flags=re.DOTALL))
    found = set(re.findall(r"(?<![\d.,-])\d{2}\.\d{1,2}(?![\d.]| s\b| GB| MB)", text))
    assert found - known - NO_ROCAUC[page] == set()


# How tables are made

ONE = Measured(
    "toy",
    "one_vs_rest",
    "dn2",
    "none",
    "none",
    {"encoder": "efficientnet_lite0", "normalize": "none", "k": 2},
    (Score("cat", 0.5), Score(MEAN, 0.75125, 0.7, 0.8)),
)
TABLE = Definition(
    "t",
    "",
    (Line("a", {}),),
    (Line("mean", {"class_name": "mean"}),),
    {"dataset": "toy", "detector": "dn2"},
)


def test_a_table_is_written_between_its_markers():
    page = "text\n<!--table:t-->\nold\n<!--end-->\nmore"
    made = printed_page(page, [ONE], {"t": TABLE})
    assert made == "text\n<!--table:t-->\n| | mean |\n|---|---|\n| a | 75.1 |\n<!--end-->\nmore"
    assert printed_page(made, [ONE], {"t": TABLE}) == made
    with pytest.raises(UsageError, match="no table 't'"):
        printed_page(page, [ONE], {})


def test_a_changed_number_changes_the_page(results, definitions):
    """So the comparison above can fail."""
    changed = [
        replace(one, scores=tuple(replace(score, rocauc=score.rocauc / 2) for score in one.scores))
        for one in results
    ]
    page = PAGES["docs/results.md"]
    assert printed_page(page, changed, definitions) != page


def test_a_number_that_was_measured_comes_before_one_that_was_taken_over():
    old = replace(ONE, source="taken over", scores=(Score(MEAN, 0.1),))
    assert find_score([old, ONE], {"dataset": "toy"}, MEAN, "t").rocauc == 0.75125
    assert find_score([old], {"dataset": "toy"}, MEAN, "t").rocauc == 0.1


@pytest.mark.parametrize(
    ("others", "where", "says"),
    [
        ([], {"k": 5}, "no number has k=5"),
        ([ONE], {}, "2 numbers have"),
        ([], {"normalize": "l2"}, "no number has normalize=l2"),
        ([], {"x": 10}, "no number has x=10"),
    ],
)
def test_a_field_is_one_number(others, where, says):
    with pytest.raises(UsageError, match=says):
        find_score([ONE, *others], where, MEAN, "t")


def test_a_setting_that_is_not_named_is_the_usual_one():
    other = replace(ONE, settings={**ONE.settings, "k": 5}, scores=(Score(MEAN, 0.2),))
    assert find_score([other, ONE], {}, MEAN, "t").rocauc == 0.75125
    assert find_score([other, ONE], {"k": 5}, MEAN, "t").rocauc == 0.2


def test_definitions_that_cannot_be_read_are_a_line(tmp_path):
    (tmp_path / DEFINITIONS).write_text("[t]\nrows = 3\n")
    with pytest.raises(UsageError, match="does not define tables"):
        read_definitions(tmp_path / DEFINITIONS)
