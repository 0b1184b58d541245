"""A detector's folder: written and changed as a whole, refused if it is not as it was written."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from toy_encoder import toy_encoders, write_pictures

from dn2 import ImageDetector, saving
from dn2.saving import BadDetectorError, change_detector, load

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    with toy_encoders(folder):
        yield folder


@pytest.fixture(scope="module")
def fitted(home):
    return ImageDetector("toy", k=2).fit(write_pictures(home / "good", 12))


@pytest.fixture
def saved(fitted, tmp_path):
    fitted.save(tmp_path / "saved")
    return tmp_path / "saved"


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def rewrite(folder, change, honest=True):
    """Change the manifest as somebody would who knows about its digest."""
    manifest = manifest_of(folder)
    change(manifest)
    if honest:
        manifest["sha256"] = saving._digest(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def file_of(folder, stem):
    (path,) = folder.glob(f"{stem}-*")
    return path


def test_the_manifest_says_what_it_is(saved, fitted):
    manifest = manifest_of(saved)
    assert manifest["encoders"][0]["weights_sha256"] == hashlib.sha256(b"toy").hexdigest()
    assert (manifest["encoder"], manifest["k"], manifest["n_images"]) == ("toy", 2, 12)
    assert manifest["calibration"]["method"] == "leave-one-out"
    assert {path.name for path in saved.iterdir()} == {*manifest["files"], "manifest.json"}
    for name, said in manifest["files"].items():
        assert hashlib.sha256((saved / name).read_bytes()).hexdigest() == said["sha256"]
    assert not list(saved.parent.glob(".saved*"))


@pytest.mark.parametrize("stem", ["features", "in_bank", "calibration", "paths", "network"])
@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "gone", "fifo"])
def test_a_file_that_is_not_as_it_was_written_is_refused(saved, stem, damage):
    path = sorted(saved.glob(f"{stem}-*"))[0]
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "longer":
        path.write_bytes(content + b"x")
    elif damage == "fifo":
        os.mkfifo(path)
    says = {
        "flip": "was altered",
        "cut": "is cut short",
        "longer": "is longer than it was written",
        "gone": "is missing",
        "fifo": "is no regular file",
    }[damage]
    with pytest.raises(BadDetectorError, match=rf"{stem}-.* {says}"):
        load(saved)


def test_a_large_array_is_checked_as_well(saved, fitted, monkeypatch):
    monkeypatch.setattr(saving, "MAPPED_BYTES", 10)
    np.testing.assert_array_equal(load(saved).features_, fitted.features_)
    path = file_of(saved, "features")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadDetectorError, match="was altered"):
        load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format=3, dn2="9.1"), r"made by a newer dn2 \(9\.1, format 3; this"),
        (lambda m: m.update(format="x"), "is no detector's manifest"),
        (lambda m: m.update(preprocessing="other"), r"another preprocessing of images \(other\)"),
        (lambda m: m.update(k=13), "do not fit each other"),
        (lambda m: m.update(k="2"), "k must be an integer"),
        (lambda m: m.pop("arrays"), "does not describe a detector"),
        (lambda m: m["arrays"].update(features=m["arrays"]["in_bank"]), "do not fit each other"),
        (lambda m: m["arrays"].update(features="../x"), "does not describe a detector"),
        (lambda m: m["encoders"][0].update(width=7), "do not fit each other"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(saved, change, message):
    rewrite(saved, change)
    with pytest.raises(BadDetectorError, match=message):
        load(saved)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", "", "a\0b", "..\\a"])
def test_a_path_that_leaves_the_folder_is_refused(saved, name):
    secret = saved.parent / "secret"
    secret.write_bytes(b"x")

    def change(manifest):
        manifest["files"][name] = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
        manifest["arrays"]["paths"] = name

    rewrite(saved, change)
    with pytest.raises(BadDetectorError, match="names a file outside of the detector"):
        load(saved)


def test_a_changed_manifest_is_refused(saved):
    rewrite(saved, lambda manifest: manifest.update(k=1), honest=False)
    with pytest.raises(BadDetectorError, match=r"manifest\.json was altered"):
        load(saved)
    for content in (b"", b"{", b"[]", b"[" * 10**6, b"\xff"):
        (saved / "manifest.json").write_bytes(content)
        with pytest.raises(BadDetectorError, match="manifest"):
            load(saved)


def test_what_is_no_detector_is_told(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for name, message in {
        "no": "no does not exist: make a detector with `dn2 fit`",
        "file": "file is a file, not a detector's folder",
        "folder": r"folder is no detector \(it has no manifest.json\)",
    }.items():
        with pytest.raises(FileNotFoundError, match=message):
            load(tmp_path / name)


def test_nothing_that_is_there_is_overwritten(saved, fitted, tmp_path):
    with pytest.raises(FileExistsError, match=r"holds a detector already: .* force=True"):
        fitted.save(saved)
    fitted.save(saved, force=True)
    load(saved)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").touch()
    (tmp_path / "file").touch()
    for force in (False, True):
        with pytest.raises(FileExistsError, match="a folder with other files"):
            fitted.save(tmp_path / "photos", force=force)
        with pytest.raises(FileExistsError, match="is a file: choose another name"):
            fitted.save(tmp_path / "file", force=force)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        fitted.save(tmp_path / "no/det")
    (tmp_path / "empty").mkdir()
    fitted.save(tmp_path / "empty")
    load(tmp_path / "empty")


def test_a_save_that_fails_leaves_nothing(fitted, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "_saver", fail)
    with pytest.raises(OSError, match="No space"):
        fitted.save(tmp_path / "det")
    assert list(tmp_path.iterdir()) == []


def test_a_change_is_all_or_nothing(saved, home, monkeypatch):
    before = load(saved)
    network = sorted(saved.glob("network-*"))
    inodes = [path.stat().st_ino for path in network]
    more = write_pictures(home / "more", 2, first=50)
    assert change_detector(saved, lambda detector: detector.add(more)) == ()
    after = load(saved)
    assert len(after.paths_) == 14
    assert [path.stat().st_ino for path in network] == inodes  # they are not written again
    manifest = manifest_of(saved)
    assert {path.name for path in saved.iterdir()} == {*manifest["files"], "manifest.json", ".lock"}

    def fail(detector):
        detector.remove(more)
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        change_detector(saved, fail)
    assert manifest_of(saved) == manifest

    original = saving.write_atomically

    def killed(path, content, **options):
        if path.name == "manifest.json":
            raise KeyboardInterrupt
        original(path, content, **options)

    monkeypatch.setattr(saving, "write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        change_detector(saved, lambda detector: detector.remove(more))
    monkeypatch.undo()
    assert load(saved).paths_ == after.paths_
    change_detector(saved, lambda detector: detector.remove(more))
    assert load(saved).calibration_.tolist() == before.calibration_.tolist()


def test_a_file_that_is_replaced_between_two_looks_is_read_anew(saved, home, monkeypatch):
    more = write_pictures(home / "meanwhile", 1, first=60)
    look, changed = saving._check_size, []

    def look_and_change(path, size):
        look(path, size)
        if path.name.startswith("calibration") and not changed:
            changed.append(path)
            change_detector(saved, lambda detector: detector.add(more))

    before = len(load(saved).paths_)
    monkeypatch.setattr(saving, "_check_size", look_and_change)
    assert len(load(saved).paths_) == before + 1
    assert not changed[0].exists()


def test_readers_find_the_old_or_the_new_one_while_writers_take_turns(saved, home):
    more = write_pictures(home / "turns", 6, first=70)
    stop, seen, failed = threading.Event(), set(), []

    def read():
        while not stop.is_set():
            try:
                seen.add(len(load(saved).paths_))
            except Exception as error:
                failed.append(error)

    def write(path):
        for _ in range(3):
            change_detector(saved, lambda detector: detector.add([path]))
            change_detector(saved, lambda detector: detector.remove([path]))

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(path,)) for path in more[:2]]
    reader.start()
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()
    assert failed == []
    assert seen <= {12, 13, 14}
    assert len(load(saved).paths_) == 12


def test_scoring_in_another_process_needs_no_torch_and_gives_the_same(saved, fitted, home):
    new = write_pictures(home / "new", 4, first=90)
    moved = saved.with_name("moved")
    shutil.move(saved, moved)
    code = (
        "import sys, dn2; scores = dn2.load(sys.argv[1]).score(sys.argv[2:])\n"
        "print([(i.score, i.p_value) for i in scores.images])\n"
        "heavy = {'torch', 'timm', 'torchvision', 'mlflow', 'sklearn', 'pandas', 'benchmarks'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(moved), *new], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    here = [(one.score, one.p_value) for one in fitted.score(new).images]
    np.testing.assert_allclose(
        json.loads(done.stdout.replace("(", "[").replace(")", "]")), here, rtol=1e-6
    )
