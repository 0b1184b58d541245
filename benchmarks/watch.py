"""What is seen of a training while it goes on: its losses in the tracking store, and the time left."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from benchmarks.cells import Cells
from benchmarks.contracts import Experiment, Progress, Split
from benchmarks.ledger import Ledger

STAGES = {"loss": "training", "pretrain_loss": "pretraining"}


class TrainingWatch:
    """Gives each training its monitor and its checkpoint.

    Parameters
    ----------
    disk : Cells
        Where checkpoints are.
    ledger : Ledger
        Told of each epoch's loss, as the metric ``loss/<split>`` with the epoch as step.
    progress : callable, optional
        Told of each stage in percent.
    """

    def __init__(self, disk: Cells, ledger: Ledger, progress: Progress | None) -> None:
        self.disk = disk
        self.ledger = ledger
        self.progress = progress

    def checkpoint(self, experiment: Experiment, split: Split) -> Path:
        """The file that a training on this split writes, and continues from."""
        return self.disk.checkpoint(experiment, split.name)

    def monitor(self, experiment: Experiment, split: Split) -> Callable[[str, int, int, float, float], None]:
        """The monitor of a training on this split, as `benchmarks.contracts.Detector` describes it."""

        def told(name: str, epoch: int, epochs: int, share: float, loss: float) -> None:
            if self.progress:
                what = f"{STAGES.get(name, name)} {experiment.method} on {experiment.dataset}, {split.name}, percent"
                self.progress(what, round(100 * (epoch - 1 + share) / epochs), 100)
            if share >= 1:
                self.ledger.log_loss(experiment, f"{name}/{split.name}", float(loss), int(epoch))

        return told


def one_at_a_time(progress: Progress | None) -> Progress | None:
    """Progress that several threads may report."""
    if progress is None:
        return None
    lock = threading.Lock()

    def report(what: str, done: int, total: int) -> None:
        with lock:
            progress(what, done, total)

    return report
