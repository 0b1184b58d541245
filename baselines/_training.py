"""The one training loop: seeded, watched, and continued to the same weights after it was killed."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from baselines._networks import use_generator


def training_identity(detector: object, X: np.ndarray, *arithmetic: Any) -> str:
    """Hash what a training's result follows from: the detector, its parameters, the images, the device and the precision."""
    params = {name: value for name, value in vars(detector).items() if not name.endswith("_")}
    text = json.dumps(
        [type(detector).__name__, params, X.shape, list(map(str, arithmetic))], sort_keys=True
    )
    digest = hashlib.sha256(text.encode())
    digest.update(np.ascontiguousarray(X).data)
    return digest.hexdigest()


def write_checkpoint(path: Path, identity: str, stage: str, state: dict[str, Any]) -> None:
    """Write by temporary name and rename, so that the file is whole at any moment."""
    temporary = path.with_name(path.name + ".tmp")
    torch.save({"identity": identity, "stage": stage, **state}, temporary)
    temporary.replace(path)


def read_checkpoint(path: Path | None, identity: str, stage: str) -> dict[str, Any] | None:
    """Read the state of this stage of this training; None if there is no file, or it is damaged or another training's."""
    if path is None or not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, pickle.UnpicklingError):
        return None  # truncated, or no checkpoint at all: start anew
    fits = (
        isinstance(state, dict)
        and state.get("identity") == identity
        and state.get("stage") == stage
    )
    return state if fits else None


Monitor = Callable[[str, int, int, float, float], None]
"""Called as ``monitor(name, epoch, epochs, share, loss)``: epochs count from 1, ``share`` is how much of this one is done, and
``loss`` the mean over its batches so far."""

REPORT_SECONDS = 1.0
CHECKPOINT_SECONDS = 60.0


class TrainingDivergedError(RuntimeError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class Training:
    """What one training goes over, and for how long.

    Attributes
    ----------
    name : str
        Of the loss: ``loss`` or ``pretrain_loss``.
    items : int
        What an epoch goes over once, in shuffled order: images, or views of images.
    batch_size, epochs : int
    learning_rate : callable
        The rate at a time in epochs from 0; a function of it alone, so that it needs no state.
    identity : str
        What the result follows from; a checkpoint with another is not continued.
    """

    name: str
    items: int
    batch_size: int
    epochs: int
    learning_rate: Callable[[float], float]
    identity: str

    @property
    def batches(self) -> int:
        """How many batches an epoch has. The last may be smaller, but a single item joins the batch before it."""
        whole, rest = divmod(self.items, self.batch_size)
        return max(1, whole + (rest > 1))  # BatchNorm cannot normalise one vector

    def items_in(self, batch: int) -> int:
        """Return how many items the first ``batch`` batches hold."""
        return self.items if batch == self.batches else batch * self.batch_size


def fit_network(
    network: nn.Module,
    loss_of: Callable[[torch.Tensor, int], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    training: Training,
    generator: torch.Generator,
    *,
    monitor: Monitor | None = None,
    checkpoint: Path | None = None,
) -> None:
    """Train in place; the network is left in evaluation mode.

    Parameters
    ----------
    loss_of : callable
        The mean loss of a batch, from item numbers (b,) on the generator's device and the epoch from 1.
    generator : torch.Generator
        Shuffles and drops out; may be drawn from by ``loss_of`` too.
    monitor : callable, optional
        Called about once a second, and at each epoch's end with share 1.
    checkpoint : Path, optional
        Continued from if it is this training's; written after each epoch, and each minute of a long one.

    Raises
    ------
    TrainingDivergedError
        If the loss is not finite.
    """
    run = _Run(network, loss_of, optimizer, training, generator, monitor, checkpoint)
    run.restore()
    use_generator(network, generator)
    with torch.inference_mode(False), torch.enable_grad():
        while run.epoch < training.epochs:
            network.train()
            run.finish_epoch()
    network.eval()


@dataclass
class _Run:
    """A training under way: what it works on, and how far it is."""

    network: nn.Module
    loss_of: Callable[[torch.Tensor, int], torch.Tensor]
    optimizer: torch.optim.Optimizer
    training: Training
    generator: torch.Generator
    monitor: Monitor | None
    checkpoint: Path | None
    epoch: int = 0  # whole ones done
    batch: int = 0  # of the present epoch, done
    loss_sum: float = 0.0  # over the items of the present epoch
    before_shuffle: torch.Tensor | None = None  # the generator's state, if inside an epoch
    told: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)

    def finish_epoch(self) -> None:
        """Run the batches of an epoch that are left."""
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
            if self.batch < batches and time.monotonic() - self.told < REPORT_SECONDS:
                continue
            self.loss_sum = total.item()  # waits for the device, hence not at every batch
            self._tell()
            if self.batch < batches and time.monotonic() - self.saved >= CHECKPOINT_SECONDS:
                self._save()
        self.epoch, self.batch, self.loss_sum, self.before_shuffle = self.epoch + 1, 0, 0.0, None
        self._save()

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

    def _shuffle(self) -> torch.Tensor:
        """Draw the epoch's order of items; when continuing inside an epoch, the same again."""
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

    def _tell(self) -> None:
        self.told = time.monotonic()
        name, epoch, epochs = self.training.name, self.epoch + 1, self.training.epochs
        seen = self.training.items_in(self.batch)
        if not math.isfinite(self.loss_sum):
            raise TrainingDivergedError(
                f"the {name} became {self.loss_sum} in epoch {epoch} of {epochs}: lower learning_rate, or look at the images"
            )
        if self.monitor is not None:
            self.monitor(name, epoch, epochs, seen / self.training.items, self.loss_sum / seen)

    def _save(self) -> None:
        self.saved = time.monotonic()
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
        }
        write_checkpoint(self.checkpoint, self.training.identity, self.training.name, state)
