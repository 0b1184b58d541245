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
from PIL import Image

from benchmarks.contracts import Dataset, Progress, UsageError, Workspace, check_name
from dn2.images import ImageFiles

RESAMPLING = "squares, Pillow's bilinear with antialiasing; 1"
"""Part of the identity of resized pixels: change it whenever the pixels change."""


@dataclass(frozen=True)
class Pixels:
    """A data set's images as an array that is read by rows: ``X[rows]`` decodes and resizes those, and no other.

    Attributes
    ----------
    images : sequence of n uint8 arrays, (height, width) or (height, width, 3)
    shape : tuple of int
        (n, height, width, channels): 1 channel if all images are grey, else 3, grey ones being replicated.
    """

    images: Any
    shape: tuple[int, int, int, int]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Gather rows (n,): uint8 of shape (n, height, width, channels)."""
        equal = _equal_shape(self.images)
        if equal is not None and equal[:2] == self.shape[1:3]:
            return np.asarray(self.images[rows]).reshape(len(rows), *self.shape[1:])
        gathered = np.empty((len(rows), *self.shape[1:]), np.uint8)

        def put(place: int) -> None:
            gathered[place] = self._pixels(self.images[int(rows[place])])

        with (
            ThreadPoolExecutor() as pool
        ):  # Pillow releases the interpreter's lock; one image a thread is held besides
            for _ in pool.map(put, range(len(rows))):
                pass
        return gathered

    def _pixels(self, image: np.ndarray) -> np.ndarray:
        height, width = self.shape[1:3]
        if image.shape[:2] != (height, width):
            image = np.asarray(
                Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
            )
        return (
            image if image.ndim == 3 else image[..., None]
        )  # a single channel is broadcast to three


def pixel_size(name: str) -> int | None:
    """The side that an input's name asks for: ``pixels:32`` gives 32, ``pixels`` None, the images' own size.

    Raises
    ------
    UsageError
        If it is not ``pixels``, or ``pixels:`` and a positive whole number.
    """
    kind, colon, size = name.partition(":")
    if kind != "pixels" or (colon and not (size.isdecimal() and int(size) > 0)):
        raise UsageError(
            f"input '{name}' is not pixels or pixels:SIZE, such as pixels:32: give a side of at least 1."
        )
    return int(size) if colon else None


def pixels_identity(name: str) -> dict[str, Any]:
    """What the input's name stands for today; no weights are part of it."""
    size = pixel_size(name)
    return {"preprocessing": "native size; 1" if size is None else f"{size} x {size}, {RESAMPLING}"}


def load_pixels(dataset: Dataset, name: str) -> Pixels:
    """Open a data set's images as `Pixels`. Files are not decoded: their headers tell sizes and channels.

    Raises
    ------
    UsageError
        If the images have several sizes and the name asks for none.
    """
    size, images = pixel_size(name), dataset.images
    equal = _equal_shape(images)
    if equal is not None:
        shapes = {equal}
    else:
        shapes = set(
            images.shapes() if isinstance(images, ImageFiles) else [image.shape for image in images]
        )
    sizes = sorted({shape[:2] for shape in shapes})
    if size is None and len(sizes) > 1:
        smallest, largest = (f"{height} x {width}" for height, width in (sizes[0], sizes[-1]))
        raise UsageError(
            f"{dataset.name} has images of {len(sizes)} sizes, {smallest} to {largest}, and input 'pixels' needs one: "
            "resize them, such as --size 64."
        )
    height, width = (size, size) if size is not None else sizes[0]
    channels = max(shape[2] if len(shape) == 3 else 1 for shape in shapes)
    return Pixels(images, (len(dataset.labels), height, width, channels))


def _equal_shape(images: Any) -> tuple[int, ...] | None:
    """The shape of all images of an array, or of what slices to one; None of files, of which none is decoded to know."""
    first = None if isinstance(images, ImageFiles) else images[:1]
    return first.shape[1:] if isinstance(first, np.ndarray) else None


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
        return Rows(
            [self.parts[i] for i in chosen],
            self.normalize,
            names,
            [self.rates[i] for i in chosen if self.rates],
        )

    def normalized(self, name: str) -> Rows:
        """The same features under one of `dn2.features.NORMALIZATIONS`; UsageError if there is none of that name."""
        from dn2.features import NORMALIZATIONS

        return replace(
            self, normalize=NORMALIZATIONS[check_name(name, NORMALIZATIONS, "normalisation")]
        )


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


def load_input(
    dataset: Dataset, name: str, workspace: Workspace, progress: Progress | None = None
) -> Input:
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

    from dn2.features import none

    parts = [_features(dataset, encoder, workspace, progress) for encoder in encoder_names(name)]
    rates = [part.images_per_second for part in parts]
    return Rows(parts, none, encoder_names(name), rates)


def feature_store(dataset: Dataset, encoder_name: str, workspace: Workspace) -> Any:
    """The store that holds, or will hold, the features of a data set by one encoder: a `dn2.store.FeatureStore`."""
    from dn2.encoders import get_encoder
    from dn2.store import FeatureStore

    identity = input_identity(f"features:{encoder_name}", workspace)
    named = {
        "dataset": dataset.name,
        "encoder": encoder_name,
        "data": dataset.fingerprint,
        **identity,
    }
    return FeatureStore(
        workspace.home / "features", named, len(dataset.labels), get_encoder(encoder_name).width
    )


def _features(
    dataset: Dataset, encoder_name: str, workspace: Workspace, progress: Progress | None
) -> Any:
    store = feature_store(dataset, encoder_name, workspace)
    if not store.missing():
        store.fill(lambda _: ())  # nothing but the manifest, which a kill may have left out
    else:
        from dn2.encoders import find_weights, get_encoder
        from dn2.features import encode_batches, load_extractor

        weights = find_weights(
            get_encoder(encoder_name), workspace.home / "weights", workspace.weights
        )
        extractor = load_extractor(encoder_name, weights, workspace.engine, workspace.device)
        what = f"{encoder_name} on {dataset.name}, images"
        store.fill(
            lambda rows: encode_batches(dataset.images, extractor, rows),
            None if progress is None else lambda done, total: progress(what, done, total),
        )
    return store.open()
