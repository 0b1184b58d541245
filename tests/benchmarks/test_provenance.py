"""Which changed files make a run dirty."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path):
    """Make a checkout of three packages, of which one has the real file."""
    for package in ("dn2", "baselines", "benchmarks"):
        (tmp_path / package / "inner").mkdir(parents=True)
        (tmp_path / package / "inner" / "code.py").write_text("x = 1\n")
    shutil.copy(ROOT / "benchmarks" / "provenance.py", tmp_path / "benchmarks")

    def git(*arguments):
        named = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", *named, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    git("add", ".")
    git("commit", "-m", "all")
    return tmp_path


def provenance_of(checkout):
    file = checkout / "benchmarks" / "provenance.py"
    spec = importlib.util.spec_from_file_location("copied_provenance", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.provenance()


def test_a_clean_checkout_has_its_commit(checkout):
    found = provenance_of(checkout)
    assert not found["dirty"]
    assert len(found["commit"]) == 40


@pytest.mark.parametrize("package", ["dn2", "baselines", "benchmarks"])
def test_a_changed_or_new_file_of_any_package_is_dirty(checkout, package):
    (checkout / package / "inner" / "code.py").write_text("x = 2\n")
    assert provenance_of(checkout)["dirty"]
    (checkout / package / "inner" / "code.py").write_text("x = 1\n")
    assert not provenance_of(checkout)["dirty"]
    (checkout / package / "new.py").write_text("x = 3\n")
    assert provenance_of(checkout)["dirty"]


def test_a_users_own_file_is_not_dirty(checkout):
    (checkout / "my_detector.py").write_text("x = 1\n")
    (checkout / "notes").mkdir()
    (checkout / "notes" / "dataset.py").write_text("x = 1\n")
    assert not provenance_of(checkout)["dirty"]


def test_code_that_is_no_checkout_is_of_an_unknown_commit(checkout):
    shutil.rmtree(checkout / ".git")
    found = provenance_of(checkout)
    assert (found["commit"], found["dirty"]) == ("unknown", True)
