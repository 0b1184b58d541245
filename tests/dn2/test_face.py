"""What `import dn2` gives, and what it does not cost."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import dn2

ROOT = Path(__file__).parent.parent.parent
HEAVY = "{'torch', 'faiss', 'sklearn', 'scipy', 'timm', 'torchvision', 'PIL'}"


def run(code):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_name_of_the_face_is_what_it_says():
    for name in dn2.__all__:
        assert name in dir(dn2)
        assert getattr(dn2, name) is not None
    from dn2.detector import DN2
    from dn2.features import Encoder
    from dn2.search import nearest

    assert (dn2.DN2, dn2.Encoder, dn2.nearest) == (DN2, Encoder, nearest)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'dn2' has no attribute 'DN3'"):
        dn2.DN3  # noqa: B018
    with pytest.raises(ImportError, match="DN3"):
        from dn2 import DN3  # noqa: F401


def test_type_checkers_see_the_same_face():
    stub = (ROOT / "dn2/__init__.pyi").read_text()
    named = {line.split(" as ")[1] for line in stub.splitlines() if " as " in line}
    assert named | {"__version__"} == set(dn2.__all__)
    assert (ROOT / "dn2/py.typed").exists()


def test_the_version_is_that_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert dn2.__version__ == project["version"]


def test_importing_costs_little():
    code = f"""
import sys, time
start = time.perf_counter()
import dn2
dir(dn2)
print(time.perf_counter() - start)
assert not ({HEAVY} | {{'numpy'}}) & set(sys.modules)
"""
    assert min(float(run(code)) for _ in range(3)) < 0.3


def test_no_torch_before_the_first_search():
    run(
        f"""
import sys
import numpy as np
from dn2 import DN2, DN2Plus, GroupDN2, KMeansDN2, nearest
rows = np.eye(9, dtype=np.float32)
print(DN2(), KMeansDN2(), GroupDN2(pool="max"))
fitted = DN2(k=2).fit(rows)
DN2Plus().fit(rows)
GroupDN2().fit(rows.reshape(3, 3, 9))
assert not {HEAVY} & set(sys.modules), {HEAVY} & set(sys.modules)
fitted.anomaly_score(rows)
assert "torch" in sys.modules
"""
    )
