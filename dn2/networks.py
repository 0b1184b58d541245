"""An encoder as a file that needs neither torch nor timm: converted once, then run by OpenVINO.

`convert` makes a `Network` of an encoder's name and weights, and needs torch. All that follows does
not: `encode_sources` streams images through one or several networks, in bounded memory.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from dn2.crops import DECODED_SIDE, CropBatch, LeftOut, Source, name_of, read_crops
from dn2.encoders import check_weights, find_weights, get_encoder, load_encoder, weights_folder
from dn2.engines import Engine, available_cores, compile_openvino, convert_to_openvino
from dn2.features import NORMALIZATIONS, preprocessing
from dn2.images import ALL_LEVELS, VIEW, View
from dn2.sound import check_finite
from dn2.squares import CROP


def crops_of(view: View = VIEW) -> str:
    """Describe how images become crops: part of what a saved detector's features depend on."""
    levels = ""
    if view.levels != ALL_LEVELS:
        levels = f"; of 16-bit grey, {view.levels[0]} is black and {view.levels[1]} white"
    return (
        f"{preprocessing(view.square)}; a JPEG decoded at a reduced size of {DECODED_SIDE} or more"
        + levels
    )


SHAPE = (CROP, CROP, 3)


@dataclass(frozen=True)
class Network:
    """Hold an encoder as OpenVINO's two files, pixels' scale included.

    It maps crops (1, 224, 224, 3) uint8 to features (1, width) float32.

    Attributes
    ----------
    name : str
        The encoder's.
    digest : str
        The SHA-256 of the weights it was made of.
    width : int
    graph, constants : bytes
        What OpenVINO writes as ``.xml`` and ``.bin``.
    """

    name: str
    digest: str
    width: int
    graph: bytes
    constants: bytes

    def model(self) -> Any:
        """Read the network as an ``openvino.Model``.

        Raises
        ------
        ValueError
            If OpenVINO cannot read it, or it does not map a crop to such features.
        """
        import openvino

        shapes = {"input": [1, *SHAPE], "output": [1, self.width]}
        try:
            model = openvino.Core().read_model(self.graph, self.constants)
            for side, shape in shapes.items():
                found = getattr(model, side)().partial_shape  # raises unless there is one
                if not found.compatible(openvino.PartialShape(shape)):
                    raise ValueError(f"its {side} is {found}, not {shape}")
        except Exception as error:  # OpenVINO's own are plain RuntimeErrors of several lines
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise ValueError(
                f"the network {self.name} cannot be read by OpenVINO {openvino.get_version()} "
                f"({lines[-1] if lines else type(error).__name__}): copy the detector again from "
                "where it was made, or fit"
            ) from None
        return model

    @cached_property
    def engine(self) -> Engine:
        """The network, compiled for all cores at its first use."""
        return compile_openvino(self.model(), SHAPE, available_cores())

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("engine", None)  # a compiled network cannot be sent to another process
        return state


def convert(name: str, weights: Path | None = None) -> Network:
    """Load an encoder and convert it.

    Raises
    ------
    dn2.encoders.MissingWeightsError
        If the weights are not on disk.
    ValueError
        If the name is unknown, or the file is not its weights.
    """
    import openvino
    import torch

    from dn2.preprocessing import Normalize, ToFloat

    entry = get_encoder(name)
    path = find_weights(entry, weights_folder(), weights)
    digest = check_weights(entry, path)
    network = torch.nn.Sequential(
        ToFloat(), Normalize(entry.mean, entry.std), load_encoder(name, path)
    ).eval()
    model = convert_to_openvino(network, SHAPE)
    model.reshape([1, *SHAPE])
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "network.xml"
        openvino.save_model(model, graph, compress_to_fp16=False)
        return Network(
            name, digest, entry.width, graph.read_bytes(), graph.with_suffix(".bin").read_bytes()
        )


@dataclass(frozen=True)
class EncodedBatch:
    """Hold the features of a batch.

    Attributes
    ----------
    rows : tuple of int
        Which images of all they belong to.
    features : ndarray of shape (len(rows), width), float32
        Normalised; of several networks side by side.
    left_out : tuple of LeftOut
        The batch's images that could not be read.
    unseen : tuple of float
        What the square of each image leaves out: see `dn2.squares.unseen`.
    """

    rows: tuple[int, ...]
    features: np.ndarray
    left_out: tuple[LeftOut, ...]
    unseen: tuple[float, ...]


def encode_sources(
    sources: Sequence[Source],
    networks: Sequence[Network],
    normalize: str,
    progress: Callable[[int, int], None] | None = None,
    view: View = VIEW,
) -> Iterator[EncodedBatch]:
    """Encode images, a batch at a time; a row depends on its image alone.

    Parameters
    ----------
    sources : sequence of path, bytes or ndarray
    networks : sequence of Network
        Their features are normalised apart and put side by side, so that squared distances add.
    normalize : str
        One of `dn2.features.NORMALIZATIONS`.
    progress : callable, optional
        Called as ``progress(done, total)``.
    view : View, optional
        How files are looked at.

    Raises
    ------
    dn2.images.ImageMemoryError
        If there is too little memory for an image.
    dn2.sound.UnsoundFeaturesError
        If a feature is NaN or infinite.
    """
    waiting: deque[CropBatch] = deque()  # read, and not encoded yet
    done = 0

    def crops() -> Iterator[np.ndarray]:
        for batch in read_crops(sources, available_cores(), view):
            waiting.append(batch)
            if batch.rows:
                yield batch.crops

    def finish(features: np.ndarray) -> EncodedBatch:
        nonlocal done
        batch = waiting.popleft()
        done += len(batch.rows) + len(batch.left_out)
        if progress is not None:
            progress(done, len(sources))
        return EncodedBatch(batch.rows, features, batch.left_out, batch.unseen)

    nothing = np.empty((0, sum(network.width for network in networks)), np.float32)
    streams = [
        network.engine(stream)
        for network, stream in zip(networks, _branches(crops(), len(networks)), strict=True)
    ]
    normalise = NORMALIZATIONS[normalize]
    for parts in zip(*streams, strict=True):
        while not waiting[0].rows:
            yield finish(nothing)
        names = partial(_name_in, sources, waiting[0].rows)
        for network, part in zip(networks, parts, strict=True):
            check_finite(part, network.name, names)
        yield finish(np.concatenate([normalise(part) for part in parts], axis=1))
    while waiting:
        yield finish(nothing)


def _name_in(sources: Sequence[Source], rows: Sequence[int], place: int) -> str:
    return name_of(sources[rows[place]], rows[place])


def _branches(stream: Iterator[np.ndarray], n: int) -> list[Iterator[np.ndarray]]:
    """Copy a stream; a batch is kept until all have it, while `itertools.tee` keeps 57 of them."""
    queues: list[deque[np.ndarray]] = [deque() for _ in range(n)]

    def branch(own: deque[np.ndarray]) -> Iterator[np.ndarray]:
        while True:
            if not own:
                batch = next(stream, None)
                if batch is None:
                    return
                for queue in queues:
                    queue.append(batch)
            yield own.popleft()

    return [branch(queue) for queue in queues]
