"""Fixtures that several files of tests share."""

import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest
import torch
from loopback import fashion, programs, site

from benchmarks.fetch import fetch_weights
from benchmarks.tracking import Tracker

__all__ = ["fashion", "programs", "site"]

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when mlflow is imported
# This folder is kept between runs of the tests, so that the weights are fetched once.
SHARED_HOME = Path(
    os.environ.get("DN2_HOME") or Path(tempfile.gettempdir()) / f"dn2-tests-{os.getuid()}"
)


def pytest_configure(config):
    """Give each of several workers one thread: more threads than cores mostly wait."""
    if hasattr(config, "workerinput"):
        os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def weights_home():
    """Make a home folder whose ``weights/`` has EfficientNet-Lite0."""
    fetch_weights("efficientnet_lite0", home=SHARED_HOME)
    return SHARED_HOME


@pytest.fixture(scope="session")
def make_store(tmp_path_factory):
    """Return a function that puts a tracking store without runs into a folder.

    The store is a copy, because making one takes seconds.
    """
    template = tmp_path_factory.mktemp("template") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(template.parent)
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        Tracker(f"sqlite:///{template}").connect()

    def make(folder):
        shutil.copy(template, folder / "mlflow.db")
        with sqlite3.connect(folder / "mlflow.db") as database:
            moved = "UPDATE experiments SET artifact_location = replace(artifact_location, ?, ?)"
            database.execute(moved, (str(template.parent), str(folder)))
        return f"sqlite:///{folder}/mlflow.db"

    return make


@pytest.fixture
def store(make_store, tmp_path, monkeypatch):
    """Work in a folder with a tracking store, as a user who has set no variable does."""
    for name in (
        "MLFLOW_RUN_ID",
        "MLFLOW_TRACKING_URI",
        "MLFLOW_EXPERIMENT_ID",
        "MLFLOW_EXPERIMENT_NAME",
    ):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "working directory"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return make_store(folder)


@pytest.fixture
def tracker(store):
    return Tracker(store).connect()
