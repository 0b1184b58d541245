"""The table of who may import whom, checked against the imports in the files."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("dn2", "baselines", "benchmarks")

# File or folder -> what of ours it may import, besides its own folder. The longest key counts.
ALLOWED = {
    "dn2": {"dn2"},
    "baselines": {"baselines"},
    "benchmarks.contracts": set(),
    "benchmarks.threads": set(),
    "benchmarks.protocols": {"benchmarks.contracts"},
    "benchmarks.metrics": {"benchmarks.contracts"},
    "benchmarks.paired": {"benchmarks.metrics"},
    "benchmarks.suites": {"benchmarks.contracts"},
    "benchmarks.result_store": {"benchmarks.contracts", "dn2.files"},
    "benchmarks.tracking": {
        "benchmarks.contracts",
        "benchmarks.result_store",
        "dn2.files",
    },
    "benchmarks.tracking.registry": {"benchmarks.contracts", "benchmarks.tracking", "dn2.saving"},
    "benchmarks.tracking.served_detector": {
        "dn2.calibration",
        "dn2.image_detector",
        "dn2.images",
        "dn2.serving",
    },
    "benchmarks.figures": {"benchmarks.contracts"},
    "benchmarks.provenance": {"benchmarks.contracts"},
    "benchmarks.datasets": {
        "benchmarks.contracts",
        "dn2.files",
        "dn2.formats",
        "dn2.images",
        "dn2.levels",
        "dn2.outside",
    },
    "benchmarks.fetch": {
        "benchmarks.contracts",
        "benchmarks.datasets",
        "dn2.encoders",
        "dn2.files",
    },
    "benchmarks.inputs": {"benchmarks.contracts", "dn2"},
    "benchmarks.detectors": {"benchmarks.contracts", "dn2.outside"},
    "benchmarks.experiments": {
        "benchmarks.contracts",
        "benchmarks.datasets",
        "benchmarks.detectors",
        "benchmarks.inputs",
        "benchmarks.protocols",
        "dn2",
    },
    "benchmarks.planning": {
        "benchmarks.contracts",
        "benchmarks.datasets",
        "benchmarks.detectors",
        "benchmarks.experiments",
        "benchmarks.inputs",
        "benchmarks.protocols",
        "benchmarks.tracking",
        "dn2.encoders",
    },
    "benchmarks.scoring": {"benchmarks.contracts", "benchmarks.detectors", "benchmarks.inputs"},
    "benchmarks.evaluate": {
        "benchmarks.contracts",
        "benchmarks.datasets",
        "benchmarks.detectors",
        "benchmarks.inputs",
        "benchmarks.metrics",
        "benchmarks.scoring",
        "benchmarks.threads",
    },
    "benchmarks.executors": {
        "benchmarks.contracts",
        "benchmarks.evaluate",
        "benchmarks.result_store",
        "benchmarks.scoring",
        "dn2.engines",
    },
    "benchmarks.comparison": {
        "benchmarks.contracts",
        "benchmarks.metrics",
        "benchmarks.paired",
        "benchmarks.protocols",
        "benchmarks.result_store",
        "benchmarks.tracking",
    },
    "benchmarks.report": {
        "benchmarks.comparison",
        "benchmarks.contracts",
        "benchmarks.detectors",
        "benchmarks.figures",
        "benchmarks.metrics",
        "benchmarks.paired",
        "benchmarks.tracking",
        "dn2.search",
    },
    "benchmarks.report.document": {
        "benchmarks.comparison",
        "benchmarks.contracts",
        "benchmarks.datasets",
        "benchmarks.detectors",
        "benchmarks.figures",
        "benchmarks.inputs",
        "benchmarks.metrics",
        "benchmarks.protocols",
        "benchmarks.report",
        "benchmarks.result_store",
        "benchmarks.tracking",
    },
    "benchmarks.ledger": {
        "benchmarks.contracts",
        "benchmarks.detectors",
        "benchmarks.protocols",
        "benchmarks.report",
        "benchmarks.result_store",
        "benchmarks.tracking",
    },
    "benchmarks.session": {
        "benchmarks.contracts",
        "benchmarks.datasets",
        "benchmarks.detectors",
        "benchmarks.evaluate",
        "benchmarks.executors",
        "benchmarks.experiments",
        "benchmarks.inputs",
        "benchmarks.ledger",
        "benchmarks.metrics",
        "benchmarks.protocols",
        "benchmarks.provenance",
        "benchmarks.report",
        "benchmarks.result_store",
        "benchmarks.threads",
        "benchmarks.tracking",
    },
    "benchmarks.sweep": {
        "benchmarks.contracts",
        "benchmarks.detectors",
        "benchmarks.experiments",
        "benchmarks.figures",
        "benchmarks.inputs",
        "benchmarks.ledger",
        "benchmarks.session",
        "benchmarks.threads",
        "benchmarks.tracking",
        "dn2.encoders",
        "dn2.files",
    },
    "benchmarks.commands": {"benchmarks", "dn2"},
    "benchmarks.__main__": {"benchmarks", "dn2"},
}

# package -> the only places that may import it
ONLY_IN = {
    "filelock": {"dn2.files"},
    "mlflow": {"benchmarks.tracking"},
    "matplotlib": {"benchmarks.figures"},
    "faiss": {"dn2.search.approximate", "dn2.kmeans"},
    "ray": {"benchmarks.executors.ray_cluster"},
    "joblib": {"benchmarks.executors.processes"},
    "optuna": {"benchmarks.sweep"},
    "click": {"benchmarks.commands", "benchmarks.__main__", "dn2.commands"},
    "subprocess": {"benchmarks.fetch", "benchmarks.provenance", "benchmarks.tracking"},
    "pooch": {"benchmarks.fetch.transfer"},
    "requests": {"benchmarks.fetch.transfer"},
    "urllib": {"benchmarks.tracking"},
    "starlette": {"dn2.serving"},
    "altair": {"benchmarks.report.document.vega"},
    "vl_convert": {"benchmarks.report.document.vega"},
    "jinja2": {"benchmarks.report.document.html_page"},
    "uvicorn": {"dn2.serving"},
}


def modules():
    for package in OURS:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (
                f"{node.module}.{alias.name}" for alias in node.names if node.module in OURS
            )


def within(name, places):
    return any(name == place or name.startswith(place + ".") for place in places)


def rule_of(module):
    return max((key for key in ALLOWED if within(module, {key})), key=len, default=None)


@pytest.mark.parametrize(("module", "path"), modules())
def test_imports_follow_the_table(module, path):
    if module in OURS:
        assert not [name for name in imports(path) if name.split(".")[0] in OURS]
        return
    rule = rule_of(module)
    assert rule is not None, f"{module} is in no row of the table: add one"
    for name in imports(path):
        if name.split(".")[0] in OURS and name not in OURS:
            assert within(name, ALLOWED[rule] | {rule}), f"{module} may not import {name}"
        for package, places in ONLY_IN.items():
            if within(name, {package}):
                assert within(module, places), f"only {places} may import {package}, not {module}"


def test_the_search_has_one_door():
    inner = {name for name, _ in modules() if name.startswith("dn2.search.")}
    for module, path in modules():
        if not within(module, {"dn2.search"}):
            assert not inner & set(imports(path)), f"{module} must import from dn2.search alone"


def test_every_row_of_the_table_has_a_file():
    names = {name for name, _ in modules()} | set(OURS)
    assert not [key for key in ALLOWED if key not in names]


def test_one_place_alone_asks_what_a_detector_can_do():
    for module, path in modules():
        if module.startswith("benchmarks") and module != "benchmarks.detectors.method":
            assert "inspect" not in set(imports(path)), module
            assert not re.search(
                r"\b(has|get)attr\((self\.)?_?(detector|method)\b", path.read_text()
            ), module


def test_no_file_name_stands_for_two_files():
    stems = Counter(path.stem for _, path in modules() if path.stem != "__init__")
    assert not {stem for stem, count in stems.items() if count > 1}


def test_tests_lie_in_folders_that_mirror_the_packages():
    support = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()}
    assert {"dn2", "baselines", "benchmarks", "support"} <= support
    packages = {path.parent.relative_to(ROOT) for _, path in modules()}
    for path in (ROOT / "tests").rglob("test_*.py"):
        folder = path.parent.relative_to(ROOT / "tests")
        assert folder in {*packages, Path(), Path("faults")}, f"{path} mirrors no package"
