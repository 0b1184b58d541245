"""The training loop: seeded, monitored, and able to continue after it was killed.

A training that continues from a checkpoint ends with the same weights, to the last bit. In reading
order: what a training is (`Training`), and the loop (`fit_network`, `_Run`).
"""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from baselines._checkpoint import are_finite, read_checkpoint, write_checkpoint
from baselines._networks import use_generator

Loss = Callable[[torch.Tensor, int], torch.Tensor]
"""From a batch's item numbers (b,), on the generator's device, and the epoch, counted from 1, to
the batch's mean loss."""

Monitor = Callable[[str, int, int, float, float], None]
"""Called as ``monitor(name, epoch, epochs, fraction, loss)``: epochs count from 1, ``fraction`` is
how much of this epoch is done, and ``loss`` is the mean over the epoch's items so far."""

REPORT_SECONDS = 1.0
CHECKPOINT_SECONDS = 60.0


class TrainingDivergedError(RuntimeError):
    """The loss, or a weight, is no longer a finite number."""


@dataclass(frozen=True)
class Training:
    """What a training goes over, and for how long.

    Attributes
    ----------
    name : str
        The name of the loss: ``loss`` or ``pretrain_loss``.
    items : int
        The number of items, which an epoch goes over once, in shuffled order: images, or views of
        images.
    batch_size, epochs : int
    learning_rate : callable
        From a time in epochs, counted from 0, to the rate. It depends on nothing else, so that a
        checkpoint needs no state of it.
    identity : str
        The hash of everything that the result follows from. A checkpoint with another identity is
        not continued.
    """

    name: str
    items: int
    batch_size: int
    epochs: int
    learning_rate: Callable[[float], float]
    identity: str

    @property
    def batches(self) -> int:
        """The number of batches in an epoch.

        The last batch may be smaller, but a single item joins the batch before it, because
        BatchNorm cannot normalise one vector.
        """
        whole, rest = divmod(self.items, self.batch_size)
        return max(1, whole + (rest > 1))

    def items_in(self, batch: int) -> int:
        """Return how many items the first ``batch`` batches hold."""
        return self.items if batch == self.batches else batch * self.batch_size


@dataclass
class Clock:
    """The CPU time of a fit, over all processes that worked on it.

    Attributes
    ----------
    started : float
        This process's CPU time when the fit began, in seconds.
    earlier : float
        The seconds that earlier processes spent on it before they ended.
    """

    started: float = field(default_factory=time.process_time)
    earlier: float = 0.0

    @property
    def seconds(self) -> float:
        """The CPU seconds, of all threads, that the fit has taken so far."""
        return self.earlier + time.process_time() - self.started


def fit_network(
    network: nn.Module,
    loss_of: Loss,
    optimizer: torch.optim.Optimizer,
    training: Training,
    generator: torch.Generator,
    *,
    monitor: Monitor | None = None,
    checkpoint: Path | None = None,
    clock: Clock | None = None,
) -> None:
    """Train a network in place, and leave it in evaluation mode.

    Parameters
    ----------
    network : torch.nn.Module
    loss_of : callable
        See `Loss`.
    optimizer : torch.optim.Optimizer
        Of the network's weights.
    training : Training
    generator : torch.Generator
        Draws shuffles and dropout; ``loss_of`` may draw from it too.
    monitor : callable, optional
        See `Monitor`. Called about once a second, and at the end of each epoch with fraction 1.
    checkpoint : Path, optional
        The training continues from this file if it holds this training's checkpoint. The file is
        written after each epoch, and once a minute within a long one.
    clock : Clock, optional
        Of the fit that this training is a part of. When continuing, it is given the time that
        earlier processes took.

    Raises
    ------
    TrainingDivergedError
        If the loss or a weight is not finite.
    """
    clock = clock or Clock()
    run = _Run(network, loss_of, optimizer, training, generator, monitor, checkpoint, clock)
    run.restore()
    use_generator(network, generator)
    with torch.inference_mode(False), torch.enable_grad():
        while run.epoch < training.epochs:
            network.train()
            run.finish_epoch()
    network.eval()


@dataclass
class _Run:
    """A training in progress: what it works on, and how far it has come."""

    network: nn.Module
    loss_of: Loss
    optimizer: torch.optim.Optimizer
    training: Training
    generator: torch.Generator
    monitor: Monitor | None
    checkpoint: Path | None
    clock: Clock
    epoch: int = 0  # finished epochs
    batch: int = 0  # finished batches of the current epoch
    loss_sum: float = 0.0  # over the items of the current epoch
    before_shuffle: torch.Tensor | None = None  # the generator's state, within an epoch
    reported: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)

    def restore(self) -> None:
        """Continue from the checkpoint, if there is one of this training."""
        state = read_checkpoint(self.checkpoint, self.training.identity, self.training.name)
        if state is None:
            return
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.epoch, self.batch, self.loss_sum = state["epoch"], state["batch"], state["loss_sum"]
        self.before_shuffle = state["before_shuffle"]
        self.clock.earlier = state.get("cpu_seconds", 0.0)  # of an older version, none

    def finish_epoch(self) -> None:
        """Run the remaining batches of the current epoch."""
        batches = self.training.batches
        order = self._shuffle()
        total = torch.tensor(self.loss_sum, dtype=torch.float64, device=order.device)
        while self.batch < batches:
            numbers = order[
                self.training.items_in(self.batch) : self.training.items_in(self.batch + 1)
            ]
            loss = self._step(numbers)
            total += loss.double() * len(numbers)
            self.batch += 1
            if self.batch < batches and time.monotonic() - self.reported < REPORT_SECONDS:
                continue
            self.loss_sum = total.item()  # waits for the device, so not after every batch
            self._report()
            if self.batch < batches and time.monotonic() - self.saved >= CHECKPOINT_SECONDS:
                self._save()
        self.epoch, self.batch, self.loss_sum, self.before_shuffle = self.epoch + 1, 0, 0.0, None
        self._save()

    def _shuffle(self) -> torch.Tensor:
        """Draw the epoch's order of items; when continuing within an epoch, draw the same again."""
        now = self.generator.get_state()
        continued = self.before_shuffle is not None
        if self.before_shuffle is not None:
            self.generator.set_state(self.before_shuffle)
        else:
            self.before_shuffle = now
        order = torch.randperm(
            self.training.items, generator=self.generator, device=self.generator.device
        )
        if continued:
            self.generator.set_state(now)
        return order

    def _step(self, numbers: torch.Tensor) -> torch.Tensor:
        rate = self.training.learning_rate(self.epoch + self.batch / self.training.batches)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss_of(numbers, self.epoch + 1)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _report(self) -> None:
        self.reported = time.monotonic()
        name, epoch, epochs = self.training.name, self.epoch + 1, self.training.epochs
        seen = self.training.items_in(self.batch)
        if not math.isfinite(self.loss_sum):
            raise TrainingDivergedError(
                f"the {name} became {self.loss_sum} in epoch {epoch} of {epochs}:"
                " lower learning_rate, or look at the images"
            )
        if self.monitor is not None:
            self.monitor(name, epoch, epochs, seen / self.training.items, self.loss_sum / seen)

    def _save(self) -> None:
        self.saved = time.monotonic()
        if not are_finite(self.network.state_dict()):
            # The loss is that of the weights before the last step, and was finite.
            raise TrainingDivergedError(
                f"a weight became NaN or infinite in epoch {self.epoch + (self.batch > 0)} of"
                f" {self.training.epochs}: lower learning_rate, or look at the images"
            )
        if self.checkpoint is None:
            return
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "before_shuffle": self.before_shuffle,
            "epoch": self.epoch,
            "batch": self.batch,
            "loss_sum": self.loss_sum,
            "cpu_seconds": self.clock.seconds,
        }
        try:
            write_checkpoint(self.checkpoint, self.training.identity, self.training.name, state)
        except OSError as error:  # the training is worth more than its checkpoint
            warnings.warn(
                f"{self.checkpoint} cannot be written ({error.strerror or error}): the training"
                " goes on, but could not be continued if it were killed now",
                stacklevel=2,
            )


def half_cosine(first: float, last: float, done: float) -> float:
    """Return the learning rate when a fraction ``done`` of a training is over.

    It falls from ``first`` to ``last`` along half a cosine.
    """
    return last + (first - last) * (1 + math.cos(math.pi * done)) / 2


def training_identity(detector: object, X: np.ndarray, *arithmetic: Any) -> str:
    """Hash everything that a training's result follows from.

    That is the detector's class and parameters, the images, and the device and precision, which are
    given as ``arithmetic``.
    """
    params = {name: value for name, value in vars(detector).items() if not name.endswith("_")}
    text = json.dumps(
        [type(detector).__name__, params, X.shape, list(map(str, arithmetic))], sort_keys=True
    )
    digest = hashlib.sha256(text.encode())
    digest.update(np.ascontiguousarray(X).data)
    return digest.hexdigest()
