"""Commands that are killed at a random moment, or started several at once.

The same command, started again, gives what the undisturbed one gives, to the last bit.
"""

import hashlib
import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from forked import Process, run_benchmarks, stored_features
from mutations import tally_of

pytestmark = pytest.mark.slow

SYNTHETIC = ("--dataset", "synthetic", "--json")
RUN = ("run", *SYNTHETIC, "--k", "1,2", "--normalize", "none,l2")
TRAINING = (
    *("run", *SYNTHETIC, "--detector", "deep_svdd", "--preset", "cpu", "--classes", "disc"),
    *("--set", "epochs=6", "--set", "pretrain_epochs=3", "--set", "batch_size=20"),
)
SWEEP = (
    *("sweep", *SYNTHETIC, "--encoders", "efficientnet_lite0", "--normalize", "none,l2"),
    *("--k-values", "1,2", "--classes", "disc,square"),
)
WORKERS = (*RUN, "--executor", "processes", "--workers", "2")


def run_as_it_is(arguments, _prepare=None):
    """Run ``python -m benchmarks`` on features that are stored already."""
    from benchmarks.__main__ import run_main

    return run_main(list(arguments))


def on_one_core(arguments, prepare=None):
    import torch

    torch.set_num_threads(1)
    return run_benchmarks(arguments, prepare)


def call_of(arguments):
    if "--workers" in arguments:
        return run_as_it_is  # workers know nothing of the toy encoder
    return on_one_core if "deep_svdd" in arguments else run_benchmarks


def start(place, arguments):
    return Process(place, call_of(arguments), arguments, None, DN2_HOME=str(place / "home"))


def without_run(value):
    """Leave out what differs from run to run: ids and times."""
    if isinstance(value, dict):
        return {
            name: without_run(one)
            for name, one in value.items()
            if name not in ("run_id", "seconds") and not name.endswith("_seconds")
        }
    if isinstance(value, list):
        found = [without_run(one) for one in value]
        return sorted(found, key=lambda one: json.dumps(one, sort_keys=True))
    return value


def result_of(place, out):
    """Return the numbers that a command printed, and the digests of all scores that it logged."""
    scores = {hashlib.sha256(path.read_bytes()).hexdigest() for path in logged(place)}
    return without_run(json.loads(out)), scores


def logged(place):
    return [path for path in place.rglob("scores.parquet") if "artifacts" in path.parts]


def finish(process):
    code, out, err = process.finish()
    assert code == 0, err
    assert "Traceback" not in err
    return out


@pytest.fixture(scope="module")
def make_place(tmp_path_factory, weights_home, make_store):
    """Return a function that makes a working directory for a command."""

    def make(arguments):
        place = tmp_path_factory.mktemp("place")
        if "--workers" in arguments:
            (place / "home").mkdir()
            stored_features(place / "home", weights_home)
        else:
            shutil.copytree(weights_home / "weights", place / "home" / "weights")
        make_store(place)
        return place

    return make


@pytest.fixture(scope="module")
def undisturbed(make_place):
    """Return a function that gives a command's result without disturbance, and its seconds."""
    known = {}

    def of(arguments):
        if arguments not in known:
            finish(start(make_place(arguments), arguments))  # the processes' common parent imports
            place = make_place(arguments)
            began = time.monotonic()
            out = finish(start(place, arguments))
            seconds = time.monotonic() - began
            known[arguments] = result_of(place, out), seconds
            assert known[arguments][0][1], "scores are logged"
        return known[arguments]

    return of


def count(name, found, expected):
    """Count a try, and fail if its result is another."""
    tally = tally_of(name)
    tally.tries += 1
    if found == expected:
        tally.same += 1
    else:
        tally.others.append("another result")
    assert found == expected


@pytest.mark.parametrize(
    ("arguments", "number", "name"),
    [
        *((RUN, number, "kills: run") for number in range(6)),
        *((WORKERS, number, "kills: run --workers") for number in range(3)),
        *((SWEEP, number, "kills: sweep") for number in range(4)),
        *((TRAINING, number, "kills: a training") for number in range(4)),
    ],
)
def test_killed_at_a_random_moment_it_continues_to_the_same_result(
    make_place, undisturbed, arguments, number, name
):
    expected, seconds = undisturbed(arguments)
    place = make_place(arguments)
    process = start(place, arguments)
    time.sleep(random.Random(f"{name} {number}").uniform(0.05, 0.95) * seconds)
    process.process.kill()
    process.process.join()
    assert process.process.exitcode in (-signal.SIGKILL, 0)
    count(name, result_of(place, finish(start(place, arguments))), expected)


@pytest.mark.parametrize(
    ("arguments", "number", "name"),
    [
        *((RUN, number, "concurrent starts: run") for number in range(5)),
        *((SWEEP, number, "concurrent starts: sweep") for number in range(3)),
    ],
)
def test_started_several_at_once_each_gives_the_same_result(
    make_place, undisturbed, arguments, number, name
):
    expected, seconds = undisturbed(arguments)
    place = make_place(arguments)
    processes = []
    for _ in range(3):
        processes.append(start(place, arguments))
        time.sleep(random.Random(f"{name} {number}").uniform(0, 0.2) * seconds)
    outs = [finish(process) for process in processes]
    count(name, [result_of(place, out) for out in outs], [expected] * 3)


# dn2 fit, dn2 add


def run_dn2(home, *arguments):
    from toy_encoder import toy_encoders

    from dn2.commands import run_main

    shutil.rmtree(home / "weights", ignore_errors=True)
    with toy_encoders(home):
        return run_main(list(arguments))


class Pictures:
    """A folder with pictures, and the commands that make and enlarge a detector of them."""

    def __init__(self, folder):
        from toy_encoder import write_pictures

        self.folder = folder
        write_pictures(folder / "good", 60)
        write_pictures(folder / "more", 9, first=100)
        self.fit = ("fit", "good", "--encoder", "toy", "--out", "detector", "--force")
        self.add = ("add", "detector", "more")

    def start(self, arguments):
        home = self.folder / f"home-{time.monotonic_ns()}"  # toy_encoders makes its weights
        home.mkdir()
        return Process(self.folder, run_dn2, home, *arguments)

    def result(self):
        """Name the files of the detector, which are named after their content, but for paths."""
        folder = self.folder / "detector"
        left = {path.name for path in folder.iterdir()} - {"manifest.json", ".lock"}
        manifest = json.loads((folder / "manifest.json").read_text())
        assert left == set(manifest["files"]), "nothing is left behind"
        paths = json.loads((folder / manifest["arrays"]["paths"]).read_text())
        return [Path(path).name for path in paths], {
            name for name in left if not name.startswith("paths")
        }


@pytest.fixture
def pictures(tmp_path_factory):
    return lambda: Pictures(tmp_path_factory.mktemp("pictures"))


@pytest.mark.parametrize("number", range(3))
def test_a_detector_is_whole_whenever_its_command_is_killed(pictures, number):
    whole = pictures()
    began = time.monotonic()
    finish(whole.start(whole.fit))
    seconds = time.monotonic() - began
    fitted = whole.result()
    finish(whole.start(whole.add))
    enlarged = whole.result()
    rng, place = random.Random(f"dn2 {number}"), pictures()
    for arguments, expected in ((place.fit, fitted), (place.add, enlarged)):
        process = place.start(arguments)
        time.sleep(rng.uniform(0.05, 0.95) * seconds)
        process.process.kill()
        process.process.join()
        code, _, err = place.start(arguments).finish()
        # An `add` that was killed after its last step refuses the same images.
        assert code == 0 or "is in the detector already" in err, err
        count(f"kills: dn2 {arguments[0]}", place.result(), expected)


@pytest.mark.parametrize("number", range(2))
def test_additions_at_once_all_arrive(pictures, number):
    place = pictures()
    finish(place.start(place.fit))
    parts = [("add", "detector", f"more/{100 + one}.png") for one in range(3)]
    for process in [place.start(arguments) for arguments in parts]:
        finish(process)
    names = place.result()[0]
    count("concurrent starts: dn2 add", sorted(names[60:]), ["100.png", "101.png", "102.png"])
