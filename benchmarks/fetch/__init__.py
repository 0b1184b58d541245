"""Get data sets and weights onto this machine. Only this package touches the network, and in it only `transfer`."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.contracts import Experiment, MissingDataError, Progress, Workspace
from benchmarks.datasets import is_on_disk, load_dataset
from benchmarks.fetch.data import fetch_dataset
from benchmarks.fetch.weights import fetch_weights
from dn2.encoders import MissingWeightsError, find_weights, get_encoder

__all__ = ["fetch_dataset", "fetch_needed", "fetch_weights"]


def fetch_needed(
    experiments: Sequence[Experiment], workspace: Workspace, progress: Progress
) -> dict[str, str]:
    """Fetch weights and data; of several encoders or data sets those that cannot be had are left out.

    Parameters
    ----------
    experiments : sequence of Experiment
    workspace : Workspace
        With a root, data is looked for there alone, and with a weights file, weights.
    progress : callable

    Returns
    -------
    dict
        Key of each cell that cannot run -> why.

    Raises
    ------
    MissingDataError, MissingWeightsError
        If that leaves nothing to run.
    """
    missing: dict[str, MissingDataError | MissingWeightsError] = {}
    for encoder in dict.fromkeys(
        name for experiment in experiments for name in experiment.encoders
    ):
        try:
            _ready_weights(encoder, workspace, progress)
        except MissingWeightsError as error:
            missing[encoder] = error
    needed = [
        experiment for experiment in experiments if not missing.keys() & set(experiment.encoders)
    ]
    for dataset in dict.fromkeys(experiment.dataset for experiment in needed):
        try:
            _ready_data(dataset, workspace, progress)
        except MissingDataError as error:
            missing[dataset] = error
    reasons = {
        experiment.key: str(missing[name])
        for experiment in experiments
        for name in (experiment.dataset, *experiment.encoders)
        if name in missing
    }
    if len(reasons) == len(experiments):
        raise next(iter(missing.values()))
    return reasons


def _ready_weights(encoder: str, workspace: Workspace, progress: Progress) -> None:
    try:
        find_weights(get_encoder(encoder), workspace.home / "weights", workspace.weights)
    except MissingWeightsError:
        if workspace.weights is not None:
            raise
        fetch_weights(encoder, home=workspace.home, progress=progress)


def _ready_data(dataset: str, workspace: Workspace, progress: Progress) -> None:
    if workspace.root is not None:
        load_dataset(dataset, home=workspace.home, root=workspace.root)
    elif not is_on_disk(dataset, home=workspace.home):
        fetch_dataset(dataset, home=workspace.home, progress=progress)
