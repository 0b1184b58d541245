"""From images to features: pixels, network, float32, streamed, in image order.

`Encoder` is a scikit-learn transformer around `load_extractor`, `encode` and `NORMALIZATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np

from dn2.encoders import (
    EncoderEntry,
    find_weights,
    get_encoder,
    load_encoder,
    weights_folder,
)
from dn2.engines import Engine, available_cores, load_engine
from dn2.parameters import Parameters, one_of
from dn2.sound import check_finite
from dn2.squares import CROP, SQUARES, resize_with_pil, to_square

if TYPE_CHECKING:
    import torch

PREPROCESSING = "resize 256 bilinear on integers, crop 224, mean and std of the encoder; 1"
"""Part of a feature's identity: change it whenever the pixels or their scale change."""

OTHER_SQUARES = {
    "pad": "pad to 224 with grey 127, bilinear on integers, mean and std of the encoder; 1",
    "squash": "squash to 224 bilinear on integers, mean and std of the encoder; 1",
}


def preprocessing(square: str = "crop") -> str:
    """Describe what is done to an image: part of a feature's identity.

    Parameters
    ----------
    square : {"crop", "pad", "squash"}
        See `dn2.squares`.
    """
    return OTHER_SQUARES.get(square, PREPROCESSING)


BATCH = 32

LARGEST_MATRIX = 128
"""Sides up to this are resized in the network. Beyond it, and for mixed sizes, PIL is as fast."""


class Extractor:
    """Hold a loaded encoder and the engine that runs it; see `load_extractor`.

    Parameters
    ----------
    encoder : EncoderEntry
    network : torch.nn.Module
        Maps (n, 3, 224, 224) to (n, width).
    engine, device : str, optional
        See `dn2.engines.load_engine`.
    threads : int, optional
        By default, the cores this process may use.
    square : {"crop", "pad", "squash"}
        How an image becomes a square: see `dn2.squares`.
    """

    def __init__(
        self,
        encoder: EncoderEntry,
        network: torch.nn.Module,
        engine: str | None = None,
        device: str | None = None,
        threads: int | None = None,
        square: str = "crop",
    ) -> None:
        self.encoder = encoder
        self.network = network
        self.engine = engine
        self.device = device
        self.threads = threads
        self.square = square
        self._engines: dict[tuple[int, int, int], Engine] = {}

    def engine_for(self, shape: tuple[int, int, int]) -> Engine:
        """Return the engine for images (height, width, channels), compiled at the first use."""
        if shape not in self._engines:
            import torch  # late: a saved detector starts without it

            from dn2.preprocessing import Normalize, Resize, ToFloat

            first = ToFloat() if shape == (CROP, CROP, 3) else Resize(*shape[:2])
            module = torch.nn.Sequential(
                first, Normalize(self.encoder.mean, self.encoder.std), self.network
            ).eval()
            self._engines[shape] = load_engine(
                self.engine, module, shape, self.device, self.threads
            )
        return self._engines[shape]


def load_extractor(
    name: str,
    weights: Path,
    engine: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    square: str = "crop",
) -> Extractor:
    """Load an encoder by name, ready for `encode`: see `Extractor`.

    Raises
    ------
    ValueError
        If the name is unknown or the file is not its weights.
    """
    network = load_encoder(name, weights)
    return Extractor(get_encoder(name), network, engine, device, threads, square)


def encode(
    images: Sequence[np.ndarray],
    extractor: Extractor,
    rows: slice = slice(None),
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Encode images.

    Parameters
    ----------
    images : ndarray or sequence of ndarray, uint8
        Of shape (n, h, w) or (n, h, w, 3), or a sequence of (h, w) or (h, w, 3). Grey images are
        replicated to three channels. A lazy sequence gives arrays for all its slices, or, if sizes
        differ, lists.
    extractor : Extractor
    rows : slice
        Which images.
    progress : callable, optional
        Called as ``progress(done, total)``.

    Returns
    -------
    ndarray of shape (n, width), float32
        In image order; a row depends on its image alone.

    Raises
    ------
    ValueError
        If an image is not uint8, or not of these shapes.
    dn2.sound.UnsoundFeaturesError
        If a feature is NaN or infinite.
    """
    first = rows.indices(len(images))[0]
    total = len(range(*rows.indices(len(images))))
    features = np.empty((total, extractor.encoder.width), np.float32)
    done = 0
    for batch in encode_batches(images, extractor, rows):
        check_finite(batch, extractor.encoder.name, partial(_name_row, first + done))
        features[done : done + len(batch)] = batch
        done += len(batch)
        if progress is not None:
            progress(done, total)
    return features


def _name_row(first: int, row: int) -> str:
    return f"image {first + row}"


def encode_batches(
    images: Sequence[np.ndarray], extractor: Extractor, rows: slice = slice(None)
) -> Iterator[np.ndarray]:
    """Encode images and yield (at most 32, width) features at a time, in bounded memory."""
    start, stop, step = rows.indices(len(images))
    if step != 1:
        raise ValueError(
            f"rows must be a slice of step 1, got step {step}: encode a contiguous range"
        )
    starts = range(start, stop, BATCH)
    if not starts:
        return
    # Decided by the whole set, never by what else is in a batch: a slice of equal images is one
    # array, also of a lazy sequence.
    first = images[:1]
    if (
        isinstance(first, np.ndarray)
        and max(first.shape[1:3], default=0) <= LARGEST_MATRIX
        and extractor.square == "crop"
    ):
        _check(first[0], 0)
        shape = first.shape[1:] if first.ndim == 4 else (*first.shape[1:], 1)
        yield from extractor.engine_for(shape)(
            _equal_batches(images, starts, stop, first.shape[1:])
        )
    else:
        engine = extractor.engine_for((CROP, CROP, 3))
        with ThreadPoolExecutor(extractor.threads or available_cores()) as pool:
            yield from engine(_resized_batches(images, starts, stop, pool, extractor.square))


def _equal_batches(
    images: Sequence[np.ndarray], starts: range, stop: int, shape: tuple[int, ...]
) -> Iterator[np.ndarray]:
    """Slice batches (b, h, w, c) as they are; the network resizes them."""
    for start in starts:
        batch: Any = images[start : min(start + BATCH, stop)]
        if not isinstance(batch, np.ndarray) or batch.shape[1:] != shape:
            raise ValueError(
                f"images from row {start} must be an array of shape "
                f"(b, {', '.join(map(str, shape))}) like the first, got "
                f"{getattr(batch, 'shape', type(batch).__name__)}: give slices as lists if sizes "
                "differ"
            )
        yield batch if batch.ndim == 4 else batch[..., None]


def _resized_batches(
    images: Sequence[np.ndarray], starts: range, stop: int, pool: ThreadPoolExecutor, square: str
) -> Iterator[np.ndarray]:
    """Decode and resize in threads, one image a thread, one batch ahead of the network.

    A thread drops a large image before it takes the next, so that only a few of them are in memory
    at a time.
    """

    def pixels(row: int) -> np.ndarray:
        if hasattr(images, "reduced"):  # files: the decoded image is gone before the next
            made: np.ndarray = images.reduced(row, lambda image: to_square(image, square))
            return made
        image = images[row]
        _check(image, row)
        return resize_with_pil(image, square)

    def submit(start: int) -> Iterator[np.ndarray]:
        return pool.map(pixels, range(start, min(start + BATCH, stop)))

    ahead = submit(starts[0])
    for start in [*starts[1:], None]:
        current, ahead = ahead, submit(start) if start is not None else iter(())
        yield np.stack(list(current))


def _check(image: np.ndarray, row: int) -> None:
    shape = image.shape
    if (
        image.dtype != np.uint8
        or len(shape) not in (2, 3)
        or 0 in shape
        or (len(shape) == 3 and shape[2] != 3)
    ):
        raise ValueError(
            f"image {row} must be uint8 of shape (h, w) or (h, w, 3), got {image.dtype} {shape}: "
            "convert it to 0 to 255"
        )


def none(features: np.ndarray) -> np.ndarray:
    """Leave features as the network gives them, as the paper does (arXiv 2002.10445, section 3)."""
    return features


def l2(features: np.ndarray) -> np.ndarray:
    """Divide each row by its Euclidean length; a row of zeros stays zero.

    Parameters
    ----------
    features : ndarray of shape (..., d), float32

    Returns
    -------
    ndarray of shape (..., d), float32

    Examples
    --------
    >>> l2(np.array([[3.0, 4.0], [0.0, 0.0]], dtype=np.float32)).round(1).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    length = np.sqrt(np.einsum("...d,...d->...", features, features, dtype=np.float64))[..., None]
    # computed in float64 and rounded a piece at a time
    divided = np.empty(np.shape(features), np.float32)
    return np.divide(
        features,
        np.where(length > 0, length, 1.0),
        out=divided,
        dtype=np.float64,
        casting="same_kind",
    )


def power(features: np.ndarray) -> np.ndarray:
    """Take the signed square root of each coordinate, then `l2`.

    It damps the few large coordinates that rule a distance. Source: Perronnin, Sanchez and Mensink
    2010, "Improving the Fisher kernel", section 3.2.
    """
    roots = np.sqrt(np.abs(features))
    roots *= np.sign(features)
    return l2(roots)


NORMALIZATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": none,
    "l2": l2,
    "power": power,
}


class Encoder(Parameters):
    """Turn images into features, as a scikit-learn transformer.

    It learns nothing from images: `fit` does nothing, and `transform` needs no `fit`. The network
    is loaded by the first `transform` and kept; copies and pickles leave it out. Encoders of the
    same parameters share the network that was loaded last.

    Parameters
    ----------
    name : str, default "efficientnet_lite0"
        One of `dn2.encoders.ENCODERS`, or ``timm:<name>``.
    normalize : {"none", "l2", "power"}, default "none"
        What is done to each feature: see `NORMALIZATIONS`.
    weights : str or Path, optional
        The checkpoint. By default it is looked for in ``weights`` in DN2_HOME (by default ``dn2``
        in the user's cache folder), and in torch's cache.
    engine, device, threads : optional
        See `dn2.engines.load_engine`.
    square : {"crop", "pad", "squash"}, default "crop"
        How an image becomes a square: see `dn2.squares`.

    Examples
    --------
    >>> Encoder(normalize="l2").set_params(name="resnet18").name
    'resnet18'

    With the weights on disk::

        train = Encoder().transform(["normal/1.jpg", "normal/2.jpg"])
        scores = DN2().fit(train).anomaly_score(Encoder().transform(["new.jpg"]))
    """

    def __init__(
        self,
        name: str = "efficientnet_lite0",
        normalize: Annotated[str, one_of(NORMALIZATIONS)] = "none",
        weights: str | Path | None = None,
        engine: str | None = None,
        device: str | None = None,
        threads: int | None = None,
        square: Annotated[str, one_of(SQUARES)] = "crop",
    ) -> None:
        self.name = name
        self.normalize = normalize
        self.weights = weights
        self.engine = engine
        self.device = device
        self.threads = threads
        self.square = square

    def fit(self, X: object = None, y: object = None) -> Self:  # noqa: ARG002 - nothing to learn
        """Check the parameters, and do nothing else.

        Raises
        ------
        ValueError
            If there is no such encoder or normalisation.
        """
        self.check_params()
        get_encoder(self.name)
        return self

    def transform(
        self,
        X: Sequence[np.ndarray] | Sequence[str | Path],
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Encode images.

        Parameters
        ----------
        X : sequence of path, or of ndarray; or ndarray of shape (n, h, w) or (n, h, w, 3)
            Arrays are uint8, (h, w) or (h, w, 3). A column of a data frame will do.
        progress : callable, optional
            Called as ``progress(done, total)``.

        Returns
        -------
        ndarray of shape (n, width), float32
            In image order; a row depends on its image alone.

        Raises
        ------
        dn2.encoders.MissingWeightsError
            If the weights are not on disk: the message says how to get them.
        dn2.images.CorruptImageError
            If a file is not a whole image.
        ValueError
            If a parameter is unknown, the weights are not this encoder's, or an array is no image.
        """
        self.fit()
        return NORMALIZATIONS[self.normalize](
            encode(_opened(X), self._extractor(), progress=progress)
        )

    def fit_transform(self, X: Sequence[Any], y: object = None) -> np.ndarray:  # noqa: ARG002
        """Encode images: see `transform`."""
        return self.transform(X)

    def get_feature_names_out(self, input_features: object = None) -> np.ndarray:  # noqa: ARG002
        """Name the features: the encoder's name and a number, (width,).

        Examples
        --------
        >>> Encoder("resnet18").get_feature_names_out()[:2].tolist()
        ['resnet18_0', 'resnet18_1']
        """
        width = get_encoder(self.name).width
        return np.array([f"{self.name}_{column}" for column in range(width)], dtype=object)

    def _extractor(self) -> Extractor:
        """Load the network, unless it is the one that was loaded last."""
        asked = (self.name, self.weights, self.engine, self.device, self.threads, self.square)
        loaded: tuple[tuple[Any, ...], Extractor] | None = self.__dict__.get("_loaded")
        if loaded is None or loaded[0] != asked:
            file = None if self.weights is None else Path(self.weights)
            path = find_weights(get_encoder(self.name), weights_folder(), file)
            changed = path.stat().st_mtime_ns
            extractor = _loaded_last(
                self.name, path, self.engine, self.device, self.threads, self.square, changed
            )
            self._loaded = loaded = (asked, extractor)
        return loaded[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.get_params()  # a compiled network cannot be sent to another process

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(),
            input_tags=InputTags(two_d_array=False, three_d_array=True, string=True),
            requires_fit=False,
        )


@lru_cache(maxsize=1)
def _loaded_last(
    name: str,
    weights: Path,
    engine: str | None,
    device: str | None,
    threads: int | None,
    square: str,
    changed: int,  # noqa: ARG001 - a file that changed is another one
) -> Extractor:
    """Load an encoder, or take the one that was loaded last.

    A search over parameters makes a copy of the pipeline for each fit: loading and compiling takes
    seconds each time.
    """
    return load_extractor(name, weights, engine, device, threads, square)


def _opened(X: Sequence[Any]) -> Sequence[np.ndarray]:
    """Return images as arrays: paths are opened lazily."""
    if isinstance(X, str | bytes | Path):
        raise ValueError(f"images must be a sequence of paths or arrays, got {X!r}: give a list")
    if hasattr(X, "to_numpy"):  # of pandas: its rows have names
        X = X.to_numpy()
    if len(X) and isinstance(X[0], str | Path):
        if not all(isinstance(path, str | Path) for path in X):
            raise ValueError("images must be all paths or all arrays, got both: convert them first")
        from dn2.images import ImageFiles  # late: arrays need no decoder

        return ImageFiles([Path(path) for path in X])
    return X
