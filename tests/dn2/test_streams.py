"""Output that cannot be written ends no command, and the exit code stays that of the work."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
import sys
from dn2.streams import close_streams, open_streams
open_streams()
for number in range(20_000):
    print("a line \\u2500 of a table", number)
print("a word", file=sys.stderr)
sys.stdout.buffer.write(b"bytes")
with open({kept!r}, "w") as file:
    file.write("kept")
    print("not into the file")
sys.exit(close_streams({code}))
"""
FULL = "cannot write to standard output (No space left on device)"


HOW = {
    "| head -1": ("a word", 0),
    "> /dev/full": (FULL, 1),
    ">&-": ("a word", 0),
    "2>&-": ("", 0),
    "2> /dev/full": ("", 0),
    "> /dev/full 2>&-": ("", 1),
    ">&- 2>&- <&-": ("", 0),
}
"""Where the output goes -> what is on stderr, and the exit code of work that succeeded."""


@pytest.mark.slow
@pytest.mark.parametrize("code", [0, 3])
@pytest.mark.parametrize("how", HOW)
def test_a_stream_that_cannot_be_written_changes_nothing_else(tmp_path, how, code):
    check(tmp_path, how, code)


@pytest.mark.parametrize(("how", "code"), [("> /dev/full", 0), ("| head -1", 3)])
def test_output_that_cannot_go_changes_nothing_else(tmp_path, how, code):
    check(tmp_path, how, code)


def check(tmp_path, how, code):
    said, rc = HOW[how]
    kept = tmp_path / "kept"
    (tmp_path / "code.py").write_text(CODE.format(kept=str(kept), code=code))
    script = f"set -o pipefail; PYTHONIOENCODING=ascii {sys.executable} -S code.py {how}"
    done = subprocess.run(
        ["bash", "-c", f"{script} >{tmp_path}/out" if "|" in how else script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (code or rc), done.stderr
    assert kept.read_text() == "kept"
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert said in done.stderr
    if "head" in how:
        assert (tmp_path / "out").read_text() == "a line ? of a table 0\n"


def test_who_has_no_home_is_told_what_to_set(tmp_path, monkeypatch):
    from dn2 import files

    monkeypatch.delenv("DN2_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(files, "_LENT", [])

    def unknown(_):
        raise RuntimeError("Could not determine home directory.")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "expanduser", unknown)
        patch.setattr(Path, "home", classmethod(unknown))
        with pytest.raises(ValueError, match="set DN2_HOME"):
            files.dn2_home()
        files.lend_home()
    with pytest.raises(ValueError, match="set DN2_HOME"):  # not into a folder that is removed
        files.dn2_home()
    monkeypatch.setenv("DN2_HOME", str(tmp_path))
    assert files.dn2_home() == tmp_path
    with pytest.raises(ValueError, match="'~nobody-has-this-name/x' begins with a home folder"):
        files.expand("~nobody-has-this-name/x")
