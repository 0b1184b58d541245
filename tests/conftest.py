"""Fixtures that several files of tests share."""

import os
import tempfile
from pathlib import Path

import pytest
from loopback import fashion, programs, site

from benchmarks.fetch import fetch_weights

__all__ = ["fashion", "programs", "site"]

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when mlflow is imported
# Kept from one run of the tests to the next, so that the weights are fetched once.
SHARED_HOME = Path(os.environ.get("DN2_HOME") or Path(tempfile.gettempdir()) / f"dn2-tests-{os.getuid()}")


@pytest.fixture(scope="session")
def weights_home():
    """A home folder whose ``weights/`` has EfficientNet-Lite0."""
    fetch_weights("efficientnet_lite0", home=SHARED_HOME)
    return SHARED_HOME
