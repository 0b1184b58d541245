"""Build a wheel, install it, and use it in a folder that is no checkout."""

import os
import site
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory, weights_home):
    """Return a function that runs a program of an environment in which the wheel is installed.

    The environment sees the packages of this one, but not what an editable install adds.
    """
    place = tmp_path_factory.mktemp("installed")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    files = [name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]
    with tarfile.open(place / "source.tar", "w") as archive:  # so that the checkout has no build/
        for name in files:
            archive.add(ROOT / name, name)
    with tarfile.open(place / "source.tar") as archive:
        archive.extractall(place / "source", filter="data")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "-q", "--no-deps", "-w", "wheels", "./source"], cwd=place, check=True
    )
    (wheel,) = (place / "wheels").glob("*.whl")
    venv.create(place / "env", symlinks=True)
    python = place / "env" / "bin" / "python"
    subprocess.run(
        [*pip, "--python", str(python), "install", "-q", "--no-deps", str(wheel)], check=True
    )
    (packages,) = (place / "env" / "lib").glob("python*/site-packages")
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()))
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MLFLOW_", "PYTHON"))
    }
    environment |= {"DN2_HOME": str(weights_home), "OMP_NUM_THREADS": "1"}

    def run(program, *arguments):
        done = subprocess.run(
            [place / "env" / "bin" / program, *arguments],
            cwd=elsewhere,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run.packages = packages
    run.elsewhere = elsewhere
    return run


def test_the_library_is_imported_from_the_wheel(installed):
    code = (
        "import baselines, benchmarks, dn2; "
        "from dn2 import DN2, DN2Plus, Encoder, GroupDN2, KMeansDN2, nearest, __version__; "
        "print(dn2.__file__); print(benchmarks.__file__); print(baselines.__file__)"
    )
    files = installed("python", "-c", code).splitlines()
    assert all(Path(file).is_relative_to(installed.packages) for file in files)


def test_the_wheel_has_what_is_not_python(installed):
    for name in ("dn2/py.typed", "dn2/__init__.pyi", "benchmarks/published.csv"):
        assert (installed.packages / name).is_file()


def test_the_programs_say_their_version(installed):
    assert installed("dn2", "--version") == "dn2 0.1.0\n"
    assert installed("dn2-bench", "--version") == "dn2-bench 0.1.0\n"


def test_the_benchmark_runs(installed):
    assert "synthetic" in installed("dn2-bench", "ls")
    out = installed("dn2-bench", "run", "--dataset", "synthetic")
    assert "ROCAUC of dn2 on synthetic" in out
    assert "Look at them: dn2-bench ui" in out
    assert "published results logged" in installed("dn2-bench", "paper")


def test_a_detector_in_the_working_directory_is_found(installed):
    (installed.elsewhere / "own_detector.py").write_text(
        "class Sum:\n"
        "    def fit(self, X):\n"
        "        return self\n"
        "    def anomaly_score(self, X):\n"
        "        return X.sum(axis=1)\n"
    )
    out = installed("dn2-bench", "run", "--dataset", "synthetic", "--detector", "own_detector:Sum")
    assert "ROCAUC of own_detector:Sum on synthetic" in out
