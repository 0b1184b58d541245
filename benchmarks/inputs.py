"""What a detector eats: ``features:<encoder>[+<encoder>...]``, computed once per data set and read from the store ever after; or
``pixels``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import numpy as np

from benchmarks.contracts import Dataset, Progress, UsageError, Workspace
from benchmarks.names import check_name
from benchmarks.pixels import Pixels, load_pixels, pixel_size, pixels_identity


@dataclass(frozen=True)
class Rows:
    """An input as an array that is read by rows: ``X[rows]`` gathers them, normalises each encoder's apart, and joins them.

    Attributes
    ----------
    parts : sequence of n x d_i float32 arrays
        Features of one encoder each, memory-mapped; only the rows asked for are ever held.
    normalize : callable
    names : sequence of str
        The encoders of the parts.
    rates : sequence of float
        How many images a second each of them took, from the stores' manifests; empty if that is not known.
    """

    parts: Sequence[Any]
    normalize: Callable[[np.ndarray], np.ndarray]
    names: Sequence[str]
    rates: Sequence[float] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, and width over all parts."""
        return len(self.parts[0]), sum(part.shape[1] for part in self.parts)

    @property
    def images_per_second(self) -> float | None:
        """How fast the features were extracted, one encoder after the other."""
        return 1 / sum(1 / rate for rate in self.rates) if self.rates and all(self.rates) else None

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Gather rows of any shape (...): returns float32 of shape (..., d)."""
        parts = self.apart(rows)
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)

    def apart(self, rows: np.ndarray) -> list[np.ndarray]:
        """Gather rows of each encoder: float32 arrays of shape (..., d_i)."""
        if len(self.parts) == 1:
            return [self._gather(self.parts[0], rows)]

        from dn2.engines import available_cores

        with ThreadPoolExecutor(available_cores()) as pool:
            return list(pool.map(self._gather, self.parts, repeat(rows)))

    def _gather(self, part: Any, rows: np.ndarray) -> np.ndarray:
        return self.normalize(np.asarray(part[rows]))

    def only(self, names: Sequence[str]) -> Rows:
        """The input of some of its encoders, in the order given."""
        if tuple(names) == tuple(self.names):
            return self
        chosen = [self.names.index(name) for name in names]
        return Rows([self.parts[i] for i in chosen], self.normalize, names, [self.rates[i] for i in chosen if self.rates])

    def normalized(self, name: str) -> Rows:
        """The same features under one of `dn2.normalize.NORMALIZATIONS`; UsageError if there is none of that name."""
        from dn2.normalize import NORMALIZATIONS

        return replace(self, normalize=NORMALIZATIONS[check_name(name, NORMALIZATIONS, "normalisation")])


Input = Rows | Pixels
"""What is indexed by a split's rows."""


def encoder_names(name: str) -> list[str]:
    """The encoders of an input's name: ``features:a+b`` gives a and b, ``pixels`` none.

    Raises
    ------
    UsageError
        If it is neither ``features:`` and a list of names, nor ``pixels`` or ``pixels:SIZE``.
    """
    kind, _, encoders = name.partition(":")
    if kind == "pixels":
        pixel_size(name)
        return []
    if kind != "features" or not all(encoders.split("+")):
        raise UsageError(
            f"input '{name}' is not features:ENCODER[+ENCODER...] or pixels[:SIZE]: `python -m benchmarks ls` has encoders."
        )
    return encoders.split("+")


def input_identity(name: str, workspace: Workspace) -> dict[str, Any]:
    """What an input's name stands for today: each encoder's weights by digest, the preprocessing, how the network runs.

    Of pixels, only how they are resized.

    Raises
    ------
    UsageError
        If the input is not of the known form, an encoder or engine is unknown, or a weights file is not what its encoder needs.
    MissingWeightsError
        If an encoder's weights are not on this machine.
    """
    if not encoder_names(name):
        return pixels_identity(name)

    from dn2 import encoders, engines, features

    digests = {}
    try:
        for encoder_name in encoder_names(name):
            encoder = encoders.get_encoder(encoder_name)
            weights = encoders.find_weights(encoder, workspace.home / "weights", workspace.weights)
            digests[encoder_name] = encoders.check_weights(encoder, weights)
        engine = engines.engine_class(workspace.engine, workspace.device)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return {"weights": digests, "preprocessing": features.PREPROCESSING, "engine": engine}


def load_input(dataset: Dataset, name: str, workspace: Workspace, progress: Progress | None = None) -> Input:
    """Read an input's rows, features as they are stored, computing first whatever the store does not hold yet.

    Parameters
    ----------
    dataset : Dataset
    name : str
        ``features:<encoder>[+<encoder>...]``, ``pixels`` or ``pixels:SIZE``.
    workspace : Workspace
    progress : callable, optional
        Told of each encoder's images done and to do.

    Raises
    ------
    UsageError, MissingWeightsError
    """
    if not encoder_names(name):
        return load_pixels(dataset, name)

    from dn2.normalize import none

    parts = [_features(dataset, encoder, workspace, progress) for encoder in encoder_names(name)]
    rates = [part.images_per_second for part in parts]
    return Rows(parts, none, encoder_names(name), rates)


def feature_store(dataset: Dataset, encoder_name: str, workspace: Workspace) -> Any:
    """The store that holds, or will hold, the features of a data set by one encoder: a `dn2.store.FeatureStore`."""
    from dn2.encoders import get_encoder
    from dn2.store import FeatureStore

    identity = input_identity(f"features:{encoder_name}", workspace)
    named = {"dataset": dataset.name, "encoder": encoder_name, "data": dataset.fingerprint, **identity}
    return FeatureStore(workspace.home / "features", named, len(dataset.labels), get_encoder(encoder_name).width)


def _features(dataset: Dataset, encoder_name: str, workspace: Workspace, progress: Progress | None) -> Any:
    store = feature_store(dataset, encoder_name, workspace)
    if not store.missing():
        store.fill(lambda _: ())  # nothing but the manifest, which a kill may have left out
    else:
        from dn2.encoders import find_weights, get_encoder
        from dn2.features import encode_batches, load_extractor

        weights = find_weights(get_encoder(encoder_name), workspace.home / "weights", workspace.weights)
        extractor = load_extractor(encoder_name, weights, workspace.engine, workspace.device)
        what = f"{encoder_name} on {dataset.name}, images"
        store.fill(
            lambda rows: encode_batches(dataset.images, extractor, rows),
            None if progress is None else lambda done, total: progress(what, done, total),
        )
    return store.open()
