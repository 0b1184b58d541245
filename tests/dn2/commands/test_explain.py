"""``dn2 explain``: what it writes, says and returns."""

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from toy_encoder import toy_encoders, write_pictures

import dn2
from dn2.commands import run_main


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    with toy_encoders(folder):
        good = write_pictures(folder / "user/good", 25)
        write_pictures(folder / "user/new", 23, first=100)
        write_pictures(folder / "user/new", 2, first=200, odd=True)
        dn2.ImageDetector("toy", k=3).fit(good).save(folder / "user/detector")
        yield folder / "user"


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return made


def call(capfd, *arguments):
    """Run a verb: its exit code, stdout, and the lines of stderr."""
    code = run_main(list(arguments))
    out, err = capfd.readouterr()
    return code, out, err.splitlines()


def test_flagged_images_are_explained_the_oddest_first(here, capfd):
    Path("new/200.bmp").touch()
    Path("new/200.png").rename("new/<script>.png")
    code, out, err = call(
        capfd, "explain", "detector", "new", "--html", "why.html", "--out-dir", "why"
    )
    assert code == 1  # an empty file
    assert err[-2:] == [
        "left out: new/200.bmp (it is empty)",
        "error: 1 of 26 images cannot be read: replace or remove them",
    ]
    assert re.fullmatch(
        r"why.html: 2 images explained, 0\.\d MB\nwhy: summary.png and 2 explanations\n", out
    )
    page = Path("why.html").read_text("utf-8")
    assert "<h1>2 of 25 images are odd</h1>" in page
    assert "1 image could not be read, and have no score" not in page
    assert "1 image could not be read, and has no score" in page
    assert "<script" not in page
    worst = sorted(
        dn2.load("detector").score(sorted(Path("new").glob("*.png"))).images,
        key=lambda one: -one.score,
    )
    titles = re.findall(r"<h3>\d+\. (.*?)</h3>", page)
    assert titles == [one.path.replace("<", "&lt;").replace(">", "&gt;") for one in worst[:2]]
    assert page.count("<li ") == 20
    assert len(re.findall(r'<li [^>]*><a href="#image-[12]">', page)) == 2
    names = sorted(path.name for path in Path("why").iterdir())
    assert len(names) == 3
    assert (names[0][:4], names[1][:4], names[2]) == ("001-", "002-", "summary.png")
    assert Image.open(f"why/{names[0]}").width > 5 * 224


def test_when_none_is_flagged_the_oddest_are_explained(here, capfd):
    (here / "good").rename(here / "good-moved")
    try:
        code, _, err = call(
            capfd, "explain", "detector", "new/1*.png", "--html", "w.html", "--fpr", "0.039",
            "--top", "3",
        )  # fmt: skip
    finally:
        (here / "good-moved").rename(here / "good")
    assert code == 0
    page = Path("w.html").read_text("utf-8")
    assert page.count("<article") == 3
    assert page.count("not shown: No such file") == 9
    notes = [line for line in err if line.startswith("note: ")]
    assert notes[0] == "note: nothing is flagged: the oddest images are explained"
    assert notes[1].startswith("note: 17 more odd images are not explained: raise --top")
    assert re.match(r"note: \d normal images cannot be shown, such as .*/good/\d+.png \(", notes[2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --html FILE, --out-dir DIR, or both"),
        (["--html", "no/w.html"], "cannot write to the folder no: make it, or change --html"),
        (["--out-dir", "no/w"], "cannot write to the folder no: make it, or change --out-dir"),
        (["--out-dir", "good"], "--out-dir good has files already: empty it, or choose"),
        (["--html", "w.html", "--top", "0"], "0 is not in the range 1<=x<=500"),
        (["--html", "w.html", "--fpr", ".1", "--fdr", ".1"], "--fpr or --fdr, not both"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(here, capfd, arguments, message):
    before = sorted(Path.cwd().rglob("*"))
    code, out, err = call(capfd, "explain", "detector", "new", *arguments)
    assert (code, out) == (2, "")
    assert err[-1].startswith("error: ")
    assert message in err[-1]
    assert sorted(Path.cwd().rglob("*")) == before


def test_top_explains_that_many_flagged_or_not(here, capfd):
    code, out, _ = call(
        capfd, "explain", "detector", "new/1*.png", "--html", "w.html", "--top", "7"
    )
    assert (code, out.split(",")[0]) == (0, "w.html: 7 images explained")
