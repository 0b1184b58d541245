"""What the README shows of code is true: its example of a detector obeys the laws."""

import re
import sys
import types
from pathlib import Path

import pytest

from benchmarks import detectors
from benchmarks.detectors import DETECTORS, DetectorEntry
from tests.benchmarks.detectors.test_detector_laws import LAWS

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def example(monkeypatch):
    code, entry = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    module = types.ModuleType("baselines.mean_distance")
    exec(code, vars(module))
    monkeypatch.setitem(sys.modules, "baselines.mean_distance", module)
    (added,) = eval("{" + entry + "}", {"DetectorEntry": DetectorEntry}).items()
    monkeypatch.setitem(DETECTORS, *added)
    return added[0]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_the_readme_s_detector_obeys_the_laws(example, law):
    law(example)


def test_it_has_the_parameters_that_the_readme_sets(example):
    assert detectors.detector_params(example, "", {"power": 1}) == {"power": 1.0}
