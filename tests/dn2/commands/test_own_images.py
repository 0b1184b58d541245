"""``dn2 fit``, ``score``, ``info``, ``add``, ``remove``: what they write, say and return."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from toy_encoder import write_pictures

import dn2
from dn2.commands import run_main
from dn2.commands.score import _from_here

ROOT = Path(__file__).parent.parent.parent.parent


@pytest.fixture(scope="module")
def made(home):
    """A folder with good and new pictures, and a detector of the good ones."""
    write_pictures(home / "user/good", 25)
    write_pictures(home / "user/new/deep", 6, first=100)
    write_pictures(home / "user/new", 2, first=200, odd=True, suffix="bmp")
    detector = dn2.ImageDetector("toy", k=3).fit(sorted(map(str, (home / "user/good").iterdir())))
    detector.save(home / "user/detector")
    return home / "user"


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def call(capfd, *arguments):
    """Run a verb: its exit code, stdout, and the lines of stderr."""
    code = run_main(list(arguments))
    out, err = capfd.readouterr()
    return code, out, err.splitlines()


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_fit_writes_what_the_library_does(here, capfd):
    code, out, err = call(
        capfd, "fit", "good", "--out", "mine", "--encoder", "toy", "--k", "3", "--holdout", "0"
    )
    assert code == 0
    assert out == (
        "mine: 25 normal images, toy, power, k = 3; calibrated with each image against the "
        "others; the smallest p-value is 0.039\n"
    )
    assert err == [
        "encoding 25 images with toy",
        "note: 25 of 25 images are no squares; median 38.7 %, worst 38.7 % of the area lies "
        "outside of the crop (--fit pad or squash shows all)",
    ]
    np.testing.assert_array_equal(dn2.load("mine").features_, dn2.load("detector").features_)


def test_score_prints_csv_the_oddest_first(here, capfd):
    code, out, err = call(capfd, "score", "detector", "new")
    assert code == 0
    rows = rows_of(out)
    scores = {
        one.path: one for one in dn2.load("detector").score([row["path"] for row in rows]).images
    }
    assert {row["path"] for row in rows[:2]} == {"new/200.bmp", "new/201.bmp"}
    assert [row["flag"] for row in rows] == ["true"] * 2 + ["false"] * 6
    assert [float(row["score"]) for row in rows] == sorted(
        (float(row["score"]) for row in rows), reverse=True
    )
    for row in rows:
        one = scores[row["path"]]
        assert np.float32(row["score"]) == np.float32(one.score)
        assert float(row["p_value"]) == pytest.approx(one.p_value, rel=1e-5)
        for i, near in enumerate(one.nearest, 1):
            assert row[f"nearest_{i}"] == near.path
            assert np.float32(row[f"distance_{i}"]) == np.float32(near.distance)
    assert err == ["scoring 8 images with toy", "2 of 8 flagged, false-alarm rate 0.05"]


def test_score_writes_json_csv_and_a_table(here, capfd, monkeypatch):
    code, out, err = call(
        capfd, "score", "detector", "new", "--fdr", "0.2", "--csv", "a.csv", "--top", "3"
    )
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["score", "p", "flag", "image", "nearest", "normal", "image"]
    assert all("odd" in line and "new/20" in line for line in lines[1:3])
    assert len(lines) == 4
    assert err[1:] == [
        "5 more below these: a.csv has all",
        "2 of 8 flagged, false-discovery rate 0.2",
        "note: with 25 calibration images, at least 2 of 8 images must stand out together before "
        "any is flagged",
    ]
    rows = rows_of(Path("a.csv").read_text())
    assert len(rows) == 8
    code, out, _ = call(capfd, "score", "detector", "new", "--json", "--fpr", "0.2")
    told = json.loads(out)
    assert (told["rate"], told["n_calibration"], told["left_out"]) == ({"fpr": 0.2}, 25, [])
    assert [one["path"] for one in told["images"]] == [row["path"] for row in rows]
    assert told["images"][0]["flag"] is True
    assert told["images"][0]["nearest"][0].keys() == {"path", "distance"}


def test_with_few_images_nothing_is_flagged_unless_a_rate_is_asked_for(here, capfd):
    names = sorted(map(str, Path("good").iterdir()))[:10]
    assert call(capfd, "fit", *names, "--out", "few", "--encoder", "toy", "--k", "2")[0] == 0
    code, out, err = call(capfd, "score", "few", "new")
    assert code == 0
    assert {row["flag"] for row in rows_of(out)} == {""}
    assert err[0] == "note: nothing is flagged: --fpr 0.05 needs 19 normal images, there are 10"
    code, out, err = call(capfd, "score", "few", "new", "--fpr", "0.05")
    assert (code, out) == (2, "")
    assert err[-1] == (
        "error: --fpr 0.05 needs at least 19 calibration images, got 10: give more normal images, "
        "or allow a rate of 0.091 or more"
    )


def test_corrupt_and_special_files_are_named_at_the_end_and_cost_no_other(here, capfd):
    (here / "new/bad.jpg").write_bytes(b"no image")
    (here / "new/empty.png").touch()
    os.mkfifo(here / "new/pipe.png")
    code, out, err = call(capfd, "score", "detector", "new", "no.png", "/dev/null")
    assert code == 1
    assert len(rows_of(out)) == 8
    assert err[0] == "note: not opened: new/pipe.png (FIFO)"
    assert err[-5:] == [
        "left out: no.png (No such file or directory)",
        "left out: /dev/null (it is a device, not a file)",
        "left out: new/bad.jpg (it is in no known image format)",
        "left out: new/empty.png (it is empty)",
        "error: 4 of 12 images cannot be read: replace or remove them",
    ]
    code, out, err = call(capfd, "fit", "good", "new/bad.jpg", "--out", "d", "--encoder", "toy")
    assert code == 1
    assert err[-1] == "error: 1 of 26 images cannot be read: replace or remove them"
    assert len(dn2.load("d").paths_) == 25
    for source in ("good", "new"):
        for file in (here / source).rglob("*.*"):
            if file.is_file():
                file.write_bytes(b"x")
    code, out, _ = call(capfd, "score", "detector", "new", "--json")
    assert (code, json.loads(out)["images"]) == (1, [])
    code, _, err = call(capfd, "fit", "good", "--out", "none", "--encoder", "toy")
    assert (code, Path("none").exists()) == (1, False)
    assert "needs at least 6 normal images, got 0" in err[-1]


def test_names_that_are_no_utf_8(here, capfdbinary):
    name = b"new/\xff,\xfe.bmp"
    Path("new/200.bmp").rename(os.fsdecode(name))
    assert run_main(["score", "detector", "new"]) == 0
    out, _ = capfdbinary.readouterr()
    assert b'"new/\xff,\xfe.bmp"' in out
    assert run_main(["score", "detector", "new", "--json"]) == 0
    out, _ = capfdbinary.readouterr()
    assert name in [os.fsencode(one["path"]) for one in json.loads(out)["images"]]
    assert run_main(["score", "detector", "new", "--csv", "a.csv"]) == 0
    assert rb"new/\xff,\xfe.bmp" in capfdbinary.readouterr().out
    assert run_main(["add", "detector", os.fsdecode(name)]) == 0
    assert run_main(["info", "detector", "--images"]) == 0
    assert rb"/new/\xff,\xfe.bmp" in capfdbinary.readouterr().out
    assert os.fsdecode(name) in dn2.load("detector").paths_[-1]


def test_a_false_alarm_is_cured_and_an_odd_image_removed(here, capfd):
    code, out, err = call(capfd, "add", "detector", "new/200.bmp")
    assert (code, out, err) == (0, "detector: 1 image added, 26 in all\n", [])
    code, out, err = call(capfd, "score", "detector", "new/200.bmp", "new/201.bmp")
    rows = {row["path"]: row for row in rows_of(out)}
    assert float(rows["new/200.bmp"]["distance_1"]) == 0
    assert err[-1] == "note: 1 image equal to a normal image of the detector"
    code, out, _ = call(capfd, "remove", "detector", "200.bmp", "003.png")
    assert (code, out) == (0, "detector: 2 images removed, 24 left\n")
    code, _, err = call(capfd, "remove", "detector", "003.png")
    assert (code, len(err)) == (1, 1)
    assert "003.png is not in the detector: `dn2 info --images` lists" in err[0]


def test_info_says_what_a_detector_is(here, capfd):
    code, out, err = call(capfd, "info", "detector", "--images")
    assert (code, err) == (0, [])
    lines = dict(line.split(maxsplit=1) for line in out.splitlines()[:10])
    assert (lines["k"], lines["search"]) == ("3", "exact")
    assert lines["encoder"].startswith("toy (weights ")
    assert "leave-one-out, 25 images, of which 0 equal another" in out
    assert out.splitlines()[10:] == list(dn2.load("detector").paths_)
    code, out, _ = call(capfd, "info", "detector", "--json")
    assert (json.loads(out)["k"], len(json.loads(out)["paths"])) == (3, 25)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "good"], "Missing option '--out'"),
        (["fit", "--out", "d"], "Missing argument 'IMAGES...'"),
        (["fit", "nothing", "--out", "d"], "cannot read nothing (No such file or directory): give"),
        (["score", "detector", "no1", "no2"], "none of these 2 can be read: give others"),
        (
            ["fit", "good", "--out", "d", "--weights", "good"],
            "good is a folder: give the file with",
        ),
        (["fit", "empty", "--out", "d"], "no images in empty: give files, or a folder with files"),
        (["fit", "good/000.png", "--out", "d"], "k=5 needs at least 6 normal images, got 1"),
        (["fit", "good", "--out", "d", "--k", "25"], "k=25 needs at least 26 normal images"),
        (["fit", "good", "--out", "d", "--k", "0"], "0 is not in the range 1<=x<=1000000"),
        (["fit", "good", "--out", "d", "--holdout", "1"], "1.0 is not in the range"),
        (["fit", "good", "--out", "d", "--encoder", "tyo"], "unknown encoder 'tyo' (did you mean"),
        (["fit", "good", "--out", "detector"], "detector holds a detector already: choose"),
        (["fit", "good", "--out", "good"], "good is a folder with other files: choose"),
        (["fit", "good", "--out", "good/000.png"], "good/000.png is a file: choose"),
        (["fit", "good", "--out", "no/d"], "there is no folder no: make it first"),
        (["fit", "good/*.gif", "--out", "d"], "no file fits good/*.gif: correct the pattern"),
        (
            ["fit", "@no", "--out", "d"],
            "cannot read the list no (No such file or directory)",
        ),
        (["score", "no", "new"], "no does not exist: make a detector with `dn2 fit`"),
        (["score", "good", "new"], "good is no detector (it has no manifest.json)"),
        (["score", "good/000.png", "new"], "good/000.png is a file, not a detector's folder"),
        (["score", "detector", "empty"], "no images in empty"),
        (["score", "detector", "new", "--fpr", "2"], "--fpr must be a fraction between 0 and 1"),
        (["score", "detector", "new", "--fpr", ".1", "--fdr", ".1"], "--fpr or --fdr, not both"),
        (["score", "detector", "new", "--fdr", "0.01"], "--fdr 0.01 needs at least 99"),
        (["score", "detector", "new", "--csv", "no/a.csv"], "cannot write to the folder no"),
        (["add", "no", "new"], "no does not exist"),
        (["remove", "no", "new"], "no does not exist"),
        (["export", "detector", "--onnx", "no/a.onnx"], "cannot write to the folder no"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(here, capfd, arguments, message):
    (here / "empty").mkdir()
    encoder = ["--encoder", "toy"] if arguments[0] == "fit" and "--encoder" not in arguments else []
    before = sorted(path.name for path in here.iterdir())
    code, out, err = call(capfd, *arguments, *encoder)
    assert (code, out) == (2, "")
    assert err[-1].startswith("error: ")
    assert message in err[-1]
    assert len(err) == 1 or "can be read" in err[-1]
    assert not any("Traceback" in line for line in err)
    assert sorted(path.name for path in here.iterdir()) == before


def test_a_damaged_detector_is_code_1_in_one_line(here, capfd):
    path = next(Path("detector").glob("features-*"))
    path.write_bytes(path.read_bytes()[:-1])
    for arguments in (
        ["score", "detector", "new"],
        ["info", "detector"],
        ["add", "detector", "new"],
    ):
        code, out, err = call(capfd, *arguments)
        assert (code, out, len(err)) == (1, "", 1)
        assert "is cut short" in err[0]


def test_missing_weights_are_code_3(here, capfd):
    code, out, err = call(capfd, "fit", "good", "--out", "d", "--encoder", "resnet18")
    assert (code, out, len(err)) == (3, "", 1)
    assert "no weights for resnet18" in err[0]


def test_lists_come_from_standard_input_and_a_closed_pipe_is_no_error(here):
    code = "import sys; from dn2.commands import run_main; sys.exit(run_main())"
    command = [sys.executable, "-c", code, "score", "detector", "-"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, input=b"new/200.bmp\nnew/deep/100.png\n", env=environment, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        command, input=b"new\n", env=environment, stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    assert done.returncode == 0, done.stderr
    assert b"Broken" not in done.stderr


def test_the_table_shows_a_path_below_here_without_it(here):
    assert _from_here(str(here / "good/a.png")) == "good/a.png"
    assert _from_here("/else/a.png") == "/else/a.png"


def test_fit_names_what_is_missing_when_too_few_are_left(here, capfd):
    Path("empty.png").touch()
    code, _, err = call(capfd, "fit", "no.png", "empty.png", "--out", "few", "--encoder", "toy")
    assert code == 2
    assert err[0] == "left out: no.png (No such file or directory)"
    assert "got 1 that can be read, and 1 that cannot (no.png: No such file" in err[-1]
    assert not any("encoding" in line for line in err)
