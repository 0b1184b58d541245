"""Run processes that can be killed or run in pairs, without five seconds of imports each.

Each is forked from one process that has imported torch, MLflow and this project, and has done
nothing else.
"""

import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.tracking.connection import SETTINGS

SUPPORT = Path(__file__).parent
OURS = (
    "benchmarks.session",
    "benchmarks.sweep",
    "benchmarks.fetch",
    "dn2.features",
    "dn2.detector",
    "mlflow_laws",
)
LATE = (
    "matplotlib.backends.backend_agg",
    "mlflow.store.tracking.sqlalchemy_store",
    "optuna.visualization",
    "pandas",
    "pyarrow.parquet",
    "pytest",
    "sklearn.ensemble",  # Optuna estimates importances with it
    "torch._dynamo",  # every torch optimizer imports it, and so does the export
    "torch.onnx",
)
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload([*OURS, *LATE])
TIMEOUT = 240


class Process:
    """Call a test file's function in a process of its own, working in ``folder``."""

    def __init__(self, folder, function, *args, **environment):
        self.files = [folder / f"{stream}-{os.urandom(4).hex()}" for stream in ("out", "err")]
        with pytest.MonkeyPatch.context() as patch:
            for name, value in SETTINGS.items():  # MLflow reads them when it is imported
                patch.setenv(name, value)
            patch.setenv("PYTHONPATH", f"{SUPPORT.parent.parent}{os.pathsep}{SUPPORT}")
            multiprocessing.forkserver.ensure_running()
        self.process = FORKED.Process(
            target=_call, args=(folder, self.files, environment, function, args)
        )
        self.process.start()

    def finish(self):
        """Wait for the end; return the exit code, and the text of stdout and stderr."""
        self.process.join(TIMEOUT)
        if self.process.is_alive():
            self.process.kill()
            raise AssertionError(
                f"still running after {TIMEOUT} s; "
                f"it wrote {[path.read_text() for path in self.files]}"
            )
        return self.process.exitcode, *(path.read_text() for path in self.files)


def _call(folder, files, environment, function, args):
    for descriptor, path in zip((1, 2), files, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), descriptor)
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]
    os.environ.update(environment)
    os.chdir(folder)
    sys.exit(function(*args))


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def after_call(owner, name, action, number=None):
    """Call ``action`` after each call of a method, or only after the call of this number."""
    original, calls = getattr(owner, name), []

    def wrapped(*args, **kwargs):
        result = original(*args, **kwargs)
        calls.append(name)
        if number in (None, len(calls)):
            action()
        return result

    setattr(owner, name, wrapped)


def toy_extractor(name, *_, **__):
    """Make an extractor whose features are some of the pixels: no network is built."""
    import dn2.features

    class Toy(dn2.features.Extractor):
        def engine_for(self, shape):
            return lambda batches: (
                batch.reshape(len(batch), -1)[:, : self.encoder.width].astype(np.float32)
                for batch in batches
            )

    return Toy(dn2.features.get_encoder(name), None)


def stored_features(home, weights_home):
    """Make a workspace that holds toy features of the synthetic data set.

    Tests that read them need no network.
    """
    import dn2.features
    from benchmarks.contracts import Workspace
    from benchmarks.datasets import load_dataset
    from benchmarks.inputs import load_input

    (home / "weights").symlink_to(weights_home / "weights")
    workspace = Workspace(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dn2.features, "load_extractor", toy_extractor)
        load_input(load_dataset("synthetic", home=home), "features:efficientnet_lite0", workspace)
    return workspace


def run_benchmarks(arguments, prepare=None):
    """Run ``python -m benchmarks`` with these arguments, after calling ``prepare``.

    Features come from `toy_extractor`. Shards are small, so that 240 images fill several.
    """
    import dn2.features
    import dn2.store
    from benchmarks.__main__ import run_main

    dn2.features.load_extractor = toy_extractor
    dn2.store.SHARD_ROWS = 64
    if prepare is not None:
        prepare()
    return run_main(list(arguments))
