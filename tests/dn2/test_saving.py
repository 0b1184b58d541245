"""A detector's folder: written and changed as a whole, refused if it is not as it was written."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from toy_encoder import write_pictures

from dn2 import ImageDetector, saving
from dn2.saving import BadDetectorError, change_detector, load

ROOT = Path(__file__).parent.parent.parent


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


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


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
        (lambda m: m["encoders"][0].update(width=5.0), r"5\.0 should be a int"),
        (lambda m: m["encoders"][0].update(weights_sha256=1), "1 should be a str"),
        (lambda m: m["calibration"].pop("n_copies"), "does not describe a detector .'n_copies'"),
        (lambda m: m["calibration"].update(n_copies="1"), "'1' should be a int"),
        (lambda m: m["calibration"].update(median_score=None), "None should be a float"),
        (lambda m: m.update(calibration=None), "does not describe a detector"),
        (lambda m: m.update(files=[]), "is no detector's manifest"),
        (lambda m: m.pop("created"), "does not describe a detector .'created'"),
        (lambda m: m.update(encoder="nosuch"), "its networks are not those of nosuch"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(saved, change, message):
    rewrite(saved, change)
    with pytest.raises(BadDetectorError, match=message):
        load(saved)


def put(folder, stem, content):
    """Replace a file's content as somebody would who knows about its digest."""
    path = sorted(folder.glob(f"{stem}-*"))[-1]
    path.write_bytes(content)
    said = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite(folder, lambda manifest: manifest["files"].update({path.name: said}))


@pytest.mark.parametrize(
    ("stem", "content"),
    [
        ("paths", b"[" * 100_000),
        ("paths", json.dumps({str(row): "" for row in range(12)}).encode()),
        ("calibration", npy(np.zeros(0, np.float32))),
    ],
)
def test_a_file_with_the_right_digest_and_something_else_in_it_is_refused(saved, stem, content):
    put(saved, stem, content)
    with pytest.raises(BadDetectorError, match=r"manifest\.json does not describe a detector"):
        load(saved)


@pytest.mark.parametrize("what", ["broken", "of other images", "of other features"])
def test_a_network_that_is_none_of_a_detector_is_one_line(saved, home, what):
    import openvino
    from openvino import opset13 as ops

    content = b"<net"
    if what != "broken":
        side = 225 if "images" in what else 224
        images = ops.parameter([1, side, side, 3], openvino.Type.u8)
        means = ops.reduce_mean(ops.convert(images, "f32"), [1, 2], keep_dims=False)
        path = saved.parent / "other.xml"
        openvino.save_model(openvino.Model([means], [images]), path)
        content = path.read_bytes()
    put(saved, "network", content)
    with pytest.raises(ValueError, match="the network toy cannot be read by OpenVINO") as caught:
        load(saved).score(write_pictures(home / "one", 1))
    assert "\n" not in str(caught.value)


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


@pytest.mark.parametrize("kind", ["working directory", "link", "after a kill"])
def test_an_empty_folder_is_written_into_as_it_is(fitted, tmp_path, monkeypatch, kind):
    folder = tmp_path / "empty"
    folder.mkdir()
    target = folder
    if kind == "working directory":
        monkeypatch.chdir(folder)
        target = Path()
    elif kind == "link":
        target = tmp_path / "link"
        target.symlink_to(folder)
    else:
        for name in ("features-0123456789abcdef.npy", "paths-0123456789abcdef.json.h-1-1.tmp"):
            (folder / name).touch()
    before = {path.name: path.lstat().st_ino for path in tmp_path.iterdir()}
    fitted.save(target)
    assert {path.name: path.lstat().st_ino for path in tmp_path.iterdir()} == before
    assert load(folder).paths_ == fitted.paths_
    files = manifest_of(folder)["files"]
    assert {path.name for path in folder.iterdir()} == {*files, "manifest.json", ".lock"}


def test_who_comes_second_is_told_and_the_first_one_stays(fitted, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new"):
        check = saving.check_target
        calls = []

        def check_and_be_late(path, *, force, check=check, calls=calls):
            check(path, force=force)
            calls.append(path)
            if len(calls) == 1:
                monkeypatch.setattr(saving, "check_target", check)
                fitted.save(path)

        monkeypatch.setattr(saving, "check_target", check_and_be_late)
        with pytest.raises(FileExistsError, match="holds a detector already"):
            fitted.save(tmp_path / name)
        load(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "new"}


def test_a_folder_without_locks_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    @contextlib.contextmanager
    def hold(path, *, wait):
        raise OSError(38, "Function not implemented")
        yield

    monkeypatch.setattr(saving, "hold", hold)
    with pytest.raises(OSError, match="not implemented"):
        saving.check_target(tmp_path, force=False)


def test_what_broken_off_changes_left_is_removed(saved, fitted, home, monkeypatch):
    before = {path.name for path in saved.iterdir()}
    original = saving.write_atomically

    def full(path, content, **options):
        if path.name == "manifest.json":
            assert {path.name for path in saved.iterdir()} > before
            raise OSError(28, "No space left on device")
        original(path, content, **options)

    monkeypatch.setattr(saving, "write_atomically", full)
    with pytest.raises(OSError, match="No space"):
        change_detector(saved, lambda detector: detector.remove([detector.paths_[0]]))
    monkeypatch.undo()
    assert {path.name for path in saved.iterdir()} == {*before, ".lock"}
    killed = [
        "features-0123456789abcdef.npy",
        "network-0123456789abcdef.xml",
        "index_centre-0123456789abcdef.npy",
        "calibration-0123456789abcdef.npy.host-1-1.tmp",
        "manifest.json.host-1-1.tmp",
    ]
    others = ["README", "my-0123456789abcdef.npy", "features-mine.npy"]
    for name in killed + others:
        (saved / name).touch()
    change_detector(saved, lambda detector: detector.remove([detector.paths_[0]]))
    files = manifest_of(saved)["files"]
    assert {path.name for path in saved.iterdir()} == {*files, "manifest.json", ".lock", *others}
    load(saved)


def test_the_folder_of_a_killed_fit_is_removed_by_the_next_one(fitted, tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    host = socket.gethostname()
    dead = tmp_path / f".det.{host}-{gone.pid}-7.tmp"
    stay = [f".det.{host}-{os.getpid()}-7.tmp", ".det.mine.tmp", f".other.{host}-{gone.pid}-7.tmp"]
    for folder in (dead, *(tmp_path / name for name in stay)):
        folder.mkdir()
        (folder / "features-0123456789abcdef.npy").touch()
    fitted.save(tmp_path / "det")
    assert {path.name for path in tmp_path.iterdir()} == {"det", *stay}


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
