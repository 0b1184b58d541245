"""``dn2 encode``: what it writes, what it says, and its exit codes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dn2
from dn2 import Encoder, features, images
from dn2.commands import run_main
from dn2.commands.encode import _image_files
from dn2.encoders import ENCODERS, EncoderEntry

ROOT = Path(__file__).parent.parent.parent.parent


class Mean(torch.nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


@pytest.fixture
def home(monkeypatch, tmp_path):
    """A home with the weights of an encoder that is quick to load."""
    entry = EncoderEntry(
        name="mean",
        library="",
        architecture="",
        filename="mean.pth",
        sha256="",
        source="url:https://example.org/mean.pth",
        size_bytes=0,
        width=3,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.25, 0.3),
        licence="",
    )
    monkeypatch.setitem(ENCODERS, "mean", entry)
    monkeypatch.setattr(features, "load_encoder", lambda name, path: Mean())
    monkeypatch.setattr(features, "load_engine", slow_to_compile(features.load_engine))
    monkeypatch.setenv("DN2_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "home/weights").mkdir(parents=True)
    (tmp_path / "home/weights/mean.pth").touch()
    return tmp_path / "home"


def slow_to_compile(load_engine):
    return lambda name, *rest: load_engine("torch", *rest)


@pytest.fixture
def folder(tmp_path):
    """Six images of several sizes and kinds, one below another folder, and what is none."""
    folder = tmp_path / "images"
    (folder / "sub/.hidden").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i, name in enumerate(["b.png", "a.PNG", "sub/é ü.bmp", "sub/c.png", "d.tif"]):
        shape = (20 + i, 30, 3) if i % 2 else (20, 30 + i)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    (folder / "sub/.hidden/x.png").write_bytes(b"not looked at")
    return folder


def encode(folder, tmp_path, *options):
    return run_main(
        ["encode", str(folder), "--out", str(tmp_path / "f.npz"), "--encoder", "mean", *options]
    )


def lines(capsys):
    captured = capsys.readouterr()
    return captured.out.splitlines(), captured.err.splitlines()


def test_paths_and_features_are_written(home, folder, tmp_path, capsys):
    assert encode(folder, tmp_path, "--normalize", "l2") == 0
    with np.load(tmp_path / "f.npz", allow_pickle=False) as file:
        found = dict(file)
    assert found["paths"].tolist() == ["a.PNG", "b.png", "d.tif", "sub/c.png", "sub/é ü.bmp"]
    expected = Encoder("mean", normalize="l2").transform([folder / p for p in found["paths"]])
    np.testing.assert_array_equal(found["features"], expected)
    assert found["features"].dtype == np.float32
    assert (str(found["encoder"]), str(found["normalize"])) == ("mean", "l2")
    assert Path(str(found["folder"])) == folder.resolve()
    out, err = lines(capsys)
    assert out == [f"{tmp_path / 'f.npz'}: 5 features of 3 numbers"]
    assert err == [
        "encoding 5 images with mean",
        "note: 5 of 5 images are no squares; median 49 %, worst 55 % of the area lies outside of "
        "the crop (--fit pad or squash shows all)",
    ]
    assert (str(found["fit"]), found["levels"].tolist()) == ("crop", [0, 65535])


def test_corrupt_images_are_left_out_and_named_at_the_end(home, folder, tmp_path, capsys):
    (folder / "a.PNG").write_bytes(b"not an image")  # the first, too
    (folder / "sub/zero.jpg").touch()
    assert encode(folder, tmp_path) == 1
    with np.load(tmp_path / "f.npz") as file:
        assert file["paths"].tolist() == ["b.png", "d.tif", "sub/c.png", "sub/é ü.bmp"]
        good = [folder / path for path in file["paths"]]
        np.testing.assert_array_equal(file["features"], Encoder("mean").transform(good))
    _, err = lines(capsys)
    assert err[2:] == [
        f"left out: {folder / 'a.PNG'} (it is in no known image format)",
        f"left out: {folder / 'sub/zero.jpg'} (it is empty)",
        "error: 2 of 6 images cannot be read: replace or remove them",
    ]


def test_if_all_are_corrupt_nothing_is_written(home, tmp_path, capsys):
    (tmp_path / "bad.png").touch()
    assert encode(tmp_path, tmp_path) == 1
    assert not (tmp_path / "f.npz").exists()
    assert "error: 1 of 1 images" in lines(capsys)[1][-1]


def test_a_file_that_cannot_be_read_is_named_like_a_corrupt_one(
    home, folder, tmp_path, capsys, monkeypatch
):
    read = images.open_regular

    def refuse(path):
        if path.name == "b.png":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(images, "open_regular", refuse)
    assert encode(folder, tmp_path) == 1
    assert f"left out: {folder / 'b.png'} (Permission denied)" in lines(capsys)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encode"], "Missing argument 'FOLDER'"),
        (["encode", "{home}"], "Missing option '--out'"),
        (["encode", "{home}/no", "--out", "f.npz"], "does not exist"),
        (["encode", "{home}", "--out", "{home}/f.npz"], "no images in {home}: give a folder"),
        (
            ["encode", "{images}", "--out", "{home}/no/f.npz"],
            "cannot write to the folder {home}/no",
        ),
        (
            ["encode", "{images}", "--out", "{home}/f.npz", "--encoder", "maen"],
            "unknown encoder 'maen' (did you mean mean?)",
        ),
        (
            ["encode", "{images}", "--out", "{home}/f.npz", "--normalize", "l3"],
            "'l3' is not one of",
        ),
        (
            ["encode", "{images}", "--out", "{home}/f.npz", "--encoder", "mean", "--device", "tpu"],
            "unknown device 'tpu'",
        ),
        (["decode"], "No such command 'decode'"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(home, folder, capsys, arguments, message):
    places = {"home": home, "images": folder}
    assert run_main([argument.format(**places) for argument in arguments]) == 2
    _, err = lines(capsys)
    assert err[-1].startswith("error: ")
    assert message.format(**places) in err[-1]
    assert len(err) <= 2  # the first says what goes on


def test_missing_weights_are_code_3_before_anything_is_computed(home, folder, tmp_path, capsys):
    assert encode(folder, tmp_path, "--encoder", "resnet18") == 3
    assert encode(folder, tmp_path, "--weights", str(tmp_path / "no.pth")) == 3
    out, err = lines(capsys)
    assert out == []
    assert err[0].startswith("error: no weights for resnet18: looked for ")
    assert len(err) == 2


def test_a_failure_is_code_1_in_one_line(home, folder, tmp_path, capsys, monkeypatch):
    def fail(name, path):
        raise ValueError("a.pth is not\nthe weights file")

    monkeypatch.setattr(features, "load_encoder", fail)
    assert encode(folder, tmp_path) == 1
    assert lines(capsys)[1][-1] == "error: a.pth is not the weights file"
    assert not list(tmp_path.glob("f.npz*"))


def test_an_interrupted_run_keeps_the_old_file(home, folder, tmp_path, capsys, monkeypatch):
    def interrupt(name, path):
        raise KeyboardInterrupt

    (tmp_path / "f.npz").write_bytes(b"old")
    monkeypatch.setattr(features, "load_encoder", interrupt)
    assert encode(folder, tmp_path) == 130
    assert lines(capsys)[1][-1] == "error: interrupted"
    assert (tmp_path / "f.npz").read_bytes() == b"old"


def test_version_and_help_cost_no_torch():
    code = "import sys; from dn2.commands import run_main; code = run_main(sys.argv[1:]); "
    code += "sys.exit(9 if 'torch' in sys.modules else code)"
    for argument, says in {"--version": f"dn2 {dn2.__version__}", "--help": "encode"}.items():
        done = subprocess.run(
            [sys.executable, "-c", code, argument], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0
        assert says in done.stdout


def test_without_a_verb_the_help_is_shown(capsys):
    assert run_main([]) == 2
    assert lines(capsys)[1][0].startswith("Usage: dn2 ")


def test_ctrl_c_ends_a_real_process_with_130(tmp_path):
    for i in range(3000):
        Image.fromarray(np.full((9, 9), i % 256, np.uint8)).save(tmp_path / f"{i}.bmp")
    # It is at work when the signal comes, as if encoding took a minute.
    code = "import sys, time, dn2.features; from dn2.commands import run_main\n"
    code += "def transform(*_): print('at work', file=sys.stderr, flush=True); time.sleep(60)\n"
    code += "dn2.features.Encoder.transform = transform\n"
    code += "sys.exit(run_main())"
    command = [sys.executable, "-c", code, "encode", str(tmp_path), "--out", "f.npz"]
    (tmp_path / "weights").mkdir()
    entry = ENCODERS["efficientnet_lite0"]
    (tmp_path / "weights" / entry.filename).touch()
    environment = {**os.environ, "DN2_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background ignores Ctrl-C, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr.readline().startswith("encoding 3,000 images")
        assert process.stderr.readline() == "at work\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read().splitlines()[-1] == "error: interrupted"
    assert process.returncode == 130


def test_a_large_folder_is_said_while_it_is_searched(tmp_path, monkeypatch, capsys):
    for i in range(9):
        (tmp_path / f"{i}.png").touch()
    seconds = iter(range(0, 90, 9))
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds) / 10)
    assert len(list(_image_files(tmp_path))) == 9
    assert lines(capsys)[1] == [f"looking for images in {tmp_path}"]
