"""Read what a detector sees: pixels of the images, or features from the store.

An input has a name: ``pixels``, ``pixels:SIZE`` or ``features:ENCODER[+ENCODER...]``. Its identity
says what the name stands for today, and is part of a cell's key. `load_input` opens it as an array
that splits index with their rows: `Pixels` or `Rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.contracts import (
    Dataset,
    MissingDataError,
    Progress,
    SplitError,
    UsageError,
    Workspace,
    check_name,
)
from dn2.encoders import BadWeightsError, check_weights, find_weights, get_encoder
from dn2.engines import available_cores, engine_class
from dn2.sound import UnsoundFeaturesError, check_varied
from dn2.squares import CROP, RESIZE, describe_unseen, resize_whole, unseen
from dn2.store import FeatureStore

RESAMPLING = "the middle of the short side, Pillow's bilinear with antialiasing; 2"
"""The identity of resized pixels: change the number whenever the pixels change."""

OTHER_RESAMPLING = {
    "squash": "squares, Pillow's bilinear with antialiasing; 1",
    "pad": "padded with grey 127, Pillow's bilinear with antialiasing; 1",
}
"""The same for the squares that are not the usual ones of pixels."""


def own_fit(name: str) -> str:
    """Return how an input makes squares unless another way is asked for; empty if it makes none.

    Both features and pixels see the middle, as in the papers' code.
    """
    return "crop" if encoder_names(name) or pixel_size(name) is not None else ""


def encoder_names(name: str) -> list[str]:
    """List the encoders of an input: a and b for ``features:a+b``, none for ``pixels``.

    Raises
    ------
    UsageError
        If the name is neither ``features:`` with a list of names, nor ``pixels`` or
        ``pixels:SIZE``.
    """
    kind, _, encoders = name.partition(":")
    if kind == "pixels":
        pixel_size(name)
        return []
    if kind != "features" or not all(encoders.split("+")):
        raise UsageError(
            f"input '{name}' is not features:ENCODER[+ENCODER...] or pixels[:SIZE]: "
            f"`python -m benchmarks ls` lists the encoders."
        )
    return encoders.split("+")


def pixel_size(name: str) -> int | None:
    """Return the side that an input asks for: 32 for ``pixels:32``, None for ``pixels``.

    Without one, images keep their own size.

    Raises
    ------
    UsageError
        If the name is not ``pixels``, or ``pixels:`` and a positive whole number.
    """
    kind, colon, size = name.partition(":")
    if kind != "pixels" or (colon and not (size.isdecimal() and int(size) > 0)):
        raise UsageError(
            f"input '{name}' is not pixels or pixels:SIZE, such as pixels:32: "
            f"give a side of at least 1."
        )
    return int(size) if colon else None


def input_identity(name: str, workspace: Workspace, fit: str = "") -> dict[str, Any]:
    """Return what an input's name stands for today.

    For features: the digest of each encoder's weights, the preprocessing and the engine that runs
    the networks. For pixels: only how they are resized. ``fit`` is that of the cell: see
    `own_fit`.

    Raises
    ------
    UsageError
        If the name has another form, an encoder or engine is unknown, or a weights file does not
        fit its encoder.
    MissingWeightsError
        If an encoder's weights are not on this machine.
    """
    if not encoder_names(name):
        size = pixel_size(name)
        how = OTHER_RESAMPLING.get(fit, RESAMPLING)
        return {"preprocessing": "native size; 1" if size is None else f"{size} x {size}, {how}"}

    from dn2.features import preprocessing  # imports torch

    digests = {}
    try:
        for encoder_name in encoder_names(name):
            encoder = get_encoder(encoder_name)
            weights = find_weights(encoder, workspace.home / "weights", workspace.weights)
            digests[encoder_name] = check_weights(encoder, weights)
        engine = engine_class(workspace.engine, workspace.device)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return {"weights": digests, "preprocessing": preprocessing(fit or "crop"), "engine": engine}


@dataclass(frozen=True)
class Pixels:
    """Read a data set's images by rows: ``X[rows]`` decodes and resizes only those rows.

    Attributes
    ----------
    images : sequence of n uint8 arrays, (height, width) or (height, width, 3)
    shape : tuple of int
        (n, height, width, channels). There is 1 channel if all images are grey; otherwise there
        are 3, and the one of a grey image is repeated.
    fit : {"crop", "pad", "squash"}
        How images of another shape are resized.
    """

    images: Any
    shape: tuple[int, int, int, int]
    fit: str = "crop"

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Gather rows (n,): uint8 of shape (n, height, width, channels)."""
        equal = _equal_shape(self.images)
        if equal is not None and equal[:2] == self.shape[1:3]:
            return np.asarray(self.images[rows]).reshape(len(rows), *self.shape[1:])
        gathered = np.empty((len(rows), *self.shape[1:]), np.uint8)

        def put(place: int) -> None:
            row = int(rows[place])
            if _are_files(self.images):  # the decoded image is gone before the next
                gathered[place] = self.images.reduced(row, self._pixels)
            else:
                gathered[place] = self._pixels(Image.fromarray(self.images[row]))

        # Pillow releases the interpreter's lock. Each thread holds one image more in memory.
        with ThreadPoolExecutor() as pool:
            for _ in pool.map(put, range(len(rows))):
                pass
        return gathered

    def _pixels(self, image: Image.Image) -> np.ndarray:
        height, width = self.shape[1:3]
        if image.size != (width, height):
            # As in the code of GEOM and MHRot, unless another fit is asked for: the short side is
            # resized, and the middle cut out.
            image = resize_whole(image, height, self.fit)
        pixels = np.asarray(image)
        return pixels if pixels.ndim == 3 else pixels[..., None]  # one channel broadcasts to three


def load_pixels(dataset: Dataset, name: str, fit: str = "") -> Pixels:
    """Open a data set's images as `Pixels`, reading only the headers of image files.

    Raises
    ------
    UsageError
        If the images have several sizes and the name asks for none.
    """
    size = pixel_size(name)
    images: Any = dataset.images
    equal = _equal_shape(images)
    if equal is not None:
        shapes = {equal}
    elif _are_files(images):
        shapes = set(images.shapes())
    else:
        shapes = {image.shape for image in images}
    sizes = sorted({shape[:2] for shape in shapes})
    if size is None and len(sizes) > 1:
        smallest, largest = (f"{height} x {width}" for height, width in (sizes[0], sizes[-1]))
        raise UsageError(
            f"{dataset.name} has images of {len(sizes)} sizes, {smallest} to {largest}, "
            f"and input 'pixels' needs one: resize them, such as --size 64."
        )
    height, width = (size, size) if size is not None else sizes[0]
    channels = max(shape[2] if len(shape) == 3 else 1 for shape in shapes)
    return Pixels(images, (len(dataset.labels), height, width, channels), fit or "crop")


def describe_view(dataset: Dataset, name: str, fit: str = "") -> list[str]:
    """Say what a detector does not see of the images, a line each; nothing of square ones.

    Of image files only the headers are read.

    Parameters
    ----------
    dataset : Dataset
    name : str
        An input's.
    fit : str
        See `own_fit`.
    """
    lines = []
    if _are_files(dataset.images):
        lines += _levels(dataset.images)
    how = fit or own_fit(name)
    if how:
        margin = CROP / RESIZE if encoder_names(name) else 1.0
        shares = _unseen(dataset.images, how, margin)
        if any(shares):
            lines.append(describe_unseen(how, shares))
    return lines


def _levels(files: Any) -> list[str]:
    """Say which levels of 16-bit grey are black and white, if a range was learnt."""
    from dn2.images import ALL_LEVELS

    black, white = files.view.levels
    if (black, white) == ALL_LEVELS:
        return []
    return [
        f"of 16-bit grey, level {black:,} becomes black and {white:,} white, as the training "
        "images have it"
    ]


def _unseen(images: Any, how: str, margin: float) -> list[float]:
    """Compute `dn2.squares.unseen` of each image that is no square, and 0 for the others.

    It is empty if one cannot be read: what reads the images says so.
    """
    equal = _equal_shape(images)
    if equal is not None:
        shapes = [equal] * len(images)
    elif _are_files(images):
        try:
            shapes = images.shapes()
        except (OSError, ValueError):
            return []
    else:
        shapes = [image.shape for image in images]
    return [unseen(height, width, how, margin) for height, width, *_ in shapes]


def _are_files(images: Any) -> bool:
    """Tell whether images are `dn2.images.ImageFiles`: a run on arrays imports no decoder."""
    return hasattr(images, "reduced")


def _equal_shape(images: Any) -> tuple[int, ...] | None:
    """Return the shape that all images share, if their sequence slices to an array; else None.

    Image files give None, because they would have to be decoded.
    """
    first = None if _are_files(images) else images[:1]
    return first.shape[1:] if isinstance(first, np.ndarray) else None


@dataclass(frozen=True)
class Rows:
    """Read features by rows: ``X[rows]`` gathers, normalises and joins those of each encoder.

    Attributes
    ----------
    parts : sequence of n x d_i float32 arrays
        The features of one encoder each, memory-mapped: only the rows asked for are held.
    normalize : callable
        Normalises the features of one encoder.
    names : sequence of str
        The encoders of the parts.
    rates : sequence of float
        Images a second at which each part was encoded just now; 0 for one that was stored.
    """

    parts: Sequence[Any]
    normalize: Callable[[np.ndarray], np.ndarray]
    names: Sequence[str]
    rates: Sequence[float] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """The number of rows, and the width of all parts together."""
        return len(self.parts[0]), sum(part.shape[1] for part in self.parts)

    @property
    def images_per_second(self) -> float | None:
        """How fast the features were extracted just now; None if some were stored already."""
        return 1 / sum(1 / rate for rate in self.rates) if self.rates and all(self.rates) else None

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Gather rows of any shape (...): float32 of shape (..., d)."""
        parts = self.apart(rows)
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)

    def apart(self, rows: np.ndarray) -> list[np.ndarray]:
        """Gather rows of each encoder: float32 arrays of shape (..., d_i)."""
        if len(self.parts) == 1:
            return [self._gather(self.parts[0], rows)]
        with ThreadPoolExecutor(available_cores()) as pool:
            return list(pool.map(self._gather, self.parts, repeat(rows)))

    def _gather(self, part: Any, rows: np.ndarray) -> np.ndarray:
        return self.normalize(np.asarray(part[rows]))

    def only(self, names: Sequence[str]) -> Rows:
        """Return the input made of some of the encoders, in the order given."""
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
        """Return the same features under one of `dn2.features.NORMALIZATIONS`.

        Raises
        ------
        UsageError
            If there is no normalisation of that name.
        """
        from dn2.features import NORMALIZATIONS  # imports torch

        check_name(name, NORMALIZATIONS, "normalisation")
        return replace(self, normalize=NORMALIZATIONS[name])


Input = Rows | Pixels
"""An array that a split's rows index."""


def load_input(
    dataset: Dataset,
    name: str,
    workspace: Workspace,
    progress: Progress | None = None,
    fit: str = "",
) -> Input:
    """Open an input, computing first the features that the store does not hold yet.

    Parameters
    ----------
    dataset : Dataset
    name : str
        ``features:ENCODER[+ENCODER...]``, ``pixels`` or ``pixels:SIZE``.
    workspace : Workspace
    progress : callable, optional
        Called with the number of images encoded, for each encoder.
    fit : str
        How images become squares; empty for the input's own way: see `own_fit`.

    Returns
    -------
    Pixels or Rows
        Features are not normalised: see `Rows.normalized`.

    Raises
    ------
    UsageError, MissingWeightsError
    MissingDataError
        If weights cannot be used: damaged, of another architecture, with NaN in them.
    SplitError
        If features are NaN, infinite, or the same for images that differ.
    """
    names = encoder_names(name)
    if not names:
        return load_pixels(dataset, name, fit)

    from dn2.features import none  # imports torch

    found = [_sound_features(dataset, encoder, workspace, progress, fit) for encoder in names]
    return Rows([part for part, _ in found], none, names, [rate for _, rate in found])


def feature_store(
    dataset: Dataset, encoder_name: str, workspace: Workspace, fit: str = ""
) -> FeatureStore:
    """Return the store that holds, or will hold, one encoder's features of a data set."""
    identity = input_identity(f"features:{encoder_name}", workspace, fit)
    named = {
        "dataset": dataset.name,
        "encoder": encoder_name,
        "data": dataset.fingerprint,
        **identity,
    }
    width = get_encoder(encoder_name).width
    return FeatureStore(workspace.home / "features", named, len(dataset.labels), width)


def _sound_features(
    dataset: Dataset,
    encoder_name: str,
    workspace: Workspace,
    progress: Progress | None,
    fit: str,
) -> tuple[Any, float]:
    """Open one encoder's features, as `_features`; refuse those that say nothing of images."""
    try:
        features, rate = _features(dataset, encoder_name, workspace, progress, fit)
        check_varied(features.shards, encoder_name, lambda: _are_the_same(dataset.images))
    except BadWeightsError as error:
        raise MissingDataError(str(error)) from error
    except UnsoundFeaturesError as error:
        raise SplitError(f"{dataset.name}: {error}") from error
    return features, rate


def _are_the_same(images: Any) -> bool:
    """Tell whether all images of a data set are equal."""
    return all(np.array_equal(images[row], images[0]) for row in range(1, len(images)))


def _features(
    dataset: Dataset,
    encoder_name: str,
    workspace: Workspace,
    progress: Progress | None,
    fit: str,
) -> tuple[Any, float]:
    """Open one encoder's features as an array, computing first those that are missing.

    The second value is how many images a second were encoded, and 0 if none was missing.
    """
    store = feature_store(dataset, encoder_name, workspace, fit)
    if not store.missing():
        store.fill(lambda _: ())  # writes only the manifest, in case a killed process did not
        return store.open(), 0.0

    from dn2.features import encode_batches, load_extractor  # imports torch

    encoder = get_encoder(encoder_name)
    weights = find_weights(encoder, workspace.home / "weights", workspace.weights)
    if progress:
        progress(f"compiling {encoder_name}", 0, 0)
    extractor = load_extractor(
        encoder_name, weights, workspace.engine, workspace.device, square=fit or "crop"
    )
    what = f"{encoder_name} on {dataset.name}, images"
    store.fill(
        lambda rows: encode_batches(dataset.images, extractor, rows),
        None if progress is None else lambda done, total: progress(what, done, total),
    )
    opened = store.open()
    return opened, opened.images_per_second
