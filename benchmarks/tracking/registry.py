"""A detector in MLflow's model registry, from where `mlflow models serve` takes it."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dn2
from benchmarks.contracts import UsageError
from benchmarks.tracking.connection import (
    check_store,
    errors_in_one_line,
    find_store,
    import_mlflow,
)
from dn2.saving import load, read_manifest

DETECTORS = "dn2-detectors"
"""The experiment that models are logged to: the one of the benchmark holds its cells alone."""

NEEDED = ("mlflow", "numpy", "pillow", "openvino", "filelock")
"""What a model needs besides the package `dn2`, which it carries; with an index also faiss."""


@dataclass(frozen=True)
class Registered:
    """Name a version of a registered model.

    Attributes
    ----------
    name : str
    version : int
    alias : str
        Empty if it has none.
    store : str
        The tracking store that has it.
    """

    name: str
    version: int
    alias: str
    store: str

    @property
    def uri(self) -> str:
        """Its address: what `mlflow models serve -m` takes."""
        return f"models:/{self.name}" + (f"@{self.alias}" if self.alias else f"/{self.version}")


def register(detector: Path, name: str, alias: str = "", uri: str | None = None) -> Registered:
    """Log a detector as a model and register it.

    Parameters
    ----------
    detector : Path
        The folder of a saved detector.
    name : str
        Of the registered model; a further version is made if it exists.
    alias : str
        Given to this version, and taken from another that has it.
    uri : str, optional
        The store: see `find_store`.

    Raises
    ------
    UsageError
        If there can be no model or version of such a name.
    FileNotFoundError, dn2.saving.BadDetectorError
        If there is no whole detector.
    TrackingError
        If the store refuses.
    """
    _check_names(name, alias)
    load(detector)
    manifest = read_manifest(detector)
    needed = [*NEEDED, *(["faiss-cpu"] if "graph" in manifest else [])]
    store = find_store(uri)
    with errors_in_one_line(store, f"register the model {name}"):
        mlflow = import_mlflow()
        check_store(store)
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

        signature = ModelSignature(
            inputs=Schema([ColSpec("string", "image")]),
            params=ParamSchema([ParamSpec(rate, "double", None) for rate in ("fpr", "fdr")]),
        )
        with (
            _at(mlflow, store),
            warnings.catch_warnings(record=True),
            redirect_stderr(io.StringIO()),  # MLflow prints its progress; errors are raised
        ):
            warnings.simplefilter("ignore")  # that there are no type hints, no example
            _make_model(mlflow.MlflowClient(), name)  # a bad name is told before anything is logged
            mlflow.set_experiment(DETECTORS)
            model = mlflow.pyfunc.log_model(
                name="detector",
                python_model=str(Path(__file__).with_name("served_detector.py")),
                artifacts={"detector": str(detector)},
                code_paths=[str(Path(dn2.__file__).parent)],
                pip_requirements=[f"{package}=={version(package)}" for package in needed],
                signature=signature,
                registered_model_name=name,
                metadata={"dn2": manifest["dn2"], "sha256": manifest["sha256"]},
                params={what: manifest[what] for what in ("encoder", "normalize", "k", "n_images")},
            )
            number = int(model.registered_model_version)
            if alias:
                mlflow.MlflowClient().set_registered_model_alias(name, alias, str(number))
    return Registered(name, number, alias, store)


def _check_names(name: str, alias: str) -> None:
    """Raise UsageError where MLflow would refuse a name, an alias only when all is uploaded."""
    if not name.strip() or set("/:") & set(name):
        raise UsageError(f"--name must not be empty nor contain '/' or ':', got '{name}'.")
    if not re.fullmatch(r"[\w-]{0,255}", alias):
        raise UsageError(
            f"--alias must be up to 255 letters, digits, - and _, got '{alias}': choose another."
        )
    if re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE):
        raise UsageError(f"--alias must not be 'latest' nor a version, got '{alias}': MLflow says.")


def _make_model(client: Any, name: str) -> None:
    """Make a registered model unless there is one of that name."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


@contextmanager
def _at(mlflow: Any, store: str) -> Iterator[None]:
    """Make a store MLflow's own while this lasts: models are logged through its globals alone.

    MLflow's `set_experiment` writes a variable that another store would not know.
    """
    names = "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"
    before, kept = mlflow.get_tracking_uri(), {name: os.environ.pop(name, None) for name in names}
    mlflow.set_tracking_uri(store)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
        for name, value in kept.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
