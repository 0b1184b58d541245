"""The path of a run from the command line to the search: its depth, and the files on it.

A file counts as entered if its module was executed.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

RUN = """
import inspect, json, sys
from collections import Counter
from pathlib import Path

import benchmarks.evaluate, benchmarks.experiments
from benchmarks.__main__ import run_main
from benchmarks.tracking import Tracker
from dn2.search.exact import Exact

ROOT, calls, depth = Path(sys.argv[1]), Counter(), []
PACKAGES = [str(ROOT / name) for name in ("dn2", "baselines", "benchmarks")]
ours = lambda name: str(name).startswith(tuple(PACKAGES))

def counted(owner, name):
    original = getattr(owner, name)
    def call(*args, **named):
        calls[name] += 1
        return original(*args, **named)
    setattr(owner, name, call)

search = Exact.search
def note(*args):
    if not depth:
        frame, depth[:] = inspect.currentframe().f_back, ["Exact.search"]
        while frame:
            if ours(frame.f_code.co_filename):
                depth.append(frame.f_code.co_qualname)
            frame = frame.f_back
    return search(*args)

Exact.search = note
counted(benchmarks.experiments, "same_fit")
counted(benchmarks.experiments, "make_splits")
counted(benchmarks.evaluate, "load_dataset")
counted(Tracker, "find_finished")
code = run_main(["run", "--dataset", "synthetic", "--k", "4,5"])
files = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
print(json.dumps({
    "code": code,
    "depth": depth[::-1],
    "files": sorted(str(Path(name).relative_to(ROOT)) for name in files if ours(name)),
    "calls": calls,
}))
"""


@pytest.fixture(scope="module")
def way(tmp_path_factory, weights_home, make_store):
    place = tmp_path_factory.mktemp("place")
    shutil.copytree(weights_home / "weights", place / "home" / "weights")
    make_store(place)
    environment = {
        "DN2_HOME": str(place / "home"),
        "PYTHONPATH": str(ROOT),
        "PATH": "/usr/bin:/bin",
    }
    command = [sys.executable, "-c", RUN, str(ROOT)]
    done = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_the_search_is_at_most_twelve_frames_away(way):
    assert way["code"] == 0
    assert way["depth"][0] == "run_main"
    assert way["depth"][-1] == "Exact.search"
    assert len(way["depth"]) <= 12, way["depth"]


def test_a_run_loads_at_most_sixty_files(way):
    assert len(way["files"]) <= 60, way["files"]


def test_everything_is_planned_once(way):
    """Two cells that one fit serves make one batch."""
    assert way["calls"] == {
        "same_fit": 1,
        "make_splits": 1,
        "find_finished": 2,
        "load_dataset": 1,
    }
