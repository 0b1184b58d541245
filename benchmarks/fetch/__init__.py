"""Get data sets and weights onto this machine.

    data.py      data sets: their sources, in the order in which they are tried
    weights.py   weights of encoders
    transfer.py  downloads and programs: only this file uses the network

A run that has everything on disk needs none of these files, so they are imported when something
is missing, or when a name of theirs is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.contracts import Experiment, MissingDataError, Progress, Workspace
from benchmarks.datasets import is_on_disk, load_dataset
from dn2.encoders import MissingWeightsError, find_weights, get_encoder

if TYPE_CHECKING:
    from benchmarks.fetch.data import fetch_dataset
    from benchmarks.fetch.weights import fetch_weights

__all__ = ["fetch_dataset", "fetch_needed", "fetch_weights"]


def __getattr__(name: str) -> Any:
    """Import `fetch_dataset` or `fetch_weights` when it is asked for."""
    if name == "fetch_dataset":
        from benchmarks.fetch.data import fetch_dataset

        return fetch_dataset
    if name == "fetch_weights":
        from benchmarks.fetch.weights import fetch_weights

        return fetch_weights
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def fetch_needed(
    experiments: Sequence[Experiment],
    workspace: Workspace,
    progress: Progress,
    check: Callable[[], None] = lambda: None,
) -> dict[str, str]:
    """Fetch the weights and data that are not on disk, and return which cells cannot run.

    Parameters
    ----------
    experiments : sequence of Experiment
    workspace : Workspace
        If it has a root, data is looked for there alone. If it has a weights file, so are weights.
    progress : callable
    check : callable
        Called before weights are fetched: what it raises costs no download.

    Returns
    -------
    dict
        Key of each cell that cannot run -> the reason.

    Raises
    ------
    MissingDataError, MissingWeightsError
        If no cell can run.
    """
    missing: dict[str, MissingDataError | MissingWeightsError] = {}
    for encoder in dict.fromkeys(
        name for experiment in experiments for name in experiment.encoders
    ):
        try:
            _ready_weights(encoder, workspace, progress, check)
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


def _ready_weights(
    encoder: str, workspace: Workspace, progress: Progress, check: Callable[[], None]
) -> None:
    try:
        find_weights(get_encoder(encoder), workspace.home / "weights", workspace.weights)
    except MissingWeightsError:
        if workspace.weights is not None:
            raise
        check()
        from benchmarks.fetch.weights import fetch_weights

        fetch_weights(encoder, home=workspace.home, progress=progress)


def _ready_data(dataset: str, workspace: Workspace, progress: Progress) -> None:
    if workspace.root is not None:
        load_dataset(dataset, home=workspace.home, root=workspace.root)
    elif not is_on_disk(dataset, home=workspace.home):
        from benchmarks.fetch.data import fetch_dataset

        fetch_dataset(dataset, home=workspace.home, progress=progress)
