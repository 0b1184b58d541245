"""Why an image is odd: its nearest normal images, and a heat map of where it differs from them.

The score compares features, which are the mean over all positions of the network's last feature
map. For the heat map the network yields a feature map as a second output: the last one before the
pooling with at least 14 x 14 positions. Each position is compared with the nearest position, at any
place, of the maps of the nearest normal images; the distances are smoothed a little.

That choice was measured, with discs painted into images: see docs/own-images.md. The very last map
has 7 x 7 positions, each of which sees most of the image; comparing the same place in both is no
good where objects do not stand still.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from dn2.crops import LeftOut, read_crop, reason_of
from dn2.engines import available_cores, compile_for_cpu
from dn2.features import NORMALIZATIONS
from dn2.images import VIEW, View
from dn2.squares import CROP

if TYPE_CHECKING:
    from dn2.image_detector import ImageDetector, ScoredImage
    from dn2.networks import Network

SIDES = range(14, 33)
"""How many positions wide the feature map should be: fewer are vague, more know too little."""

SAME_FEATURES = 1e-3
"""How far, relative to its length, the features of an unchanged normal image may be from before."""

KEPT_MAPS = 64  # of normal images, which are near to several

POSITION = NORMALIZATIONS["power"]
"""How a position is normalised, whatever the detector does: raw ones found a third as many discs.
"""


@dataclass(frozen=True)
class Near:
    """Show a normal image near an explained one.

    Attributes
    ----------
    path : str
    distance : float
        The squared distance of features.
    crop : ndarray of shape (224, 224, 3), uint8, or None
        What the network sees of it; None if its file is gone.
    missing : str
        Why there is none.
    """

    path: str
    distance: float
    crop: np.ndarray | None
    missing: str = ""


@dataclass(frozen=True)
class Explanation:
    """Say why an image has its score.

    Attributes
    ----------
    image : ScoredImage
    crop : ndarray of shape (224, 224, 3), uint8
        What the network sees of it.
    heat : ndarray of shape (224, 224), float32, or None
        From 0, as different as normal images are from each other, to 1. None if no normal image
        can be read, or the network has no feature map.
    nearest : tuple of Near
        The nearest first.
    """

    image: ScoredImage
    crop: np.ndarray
    heat: np.ndarray | None
    nearest: tuple[Near, ...]


def explain(
    detector: ImageDetector, images: Sequence[ScoredImage], left_out: list[LeftOut]
) -> Iterator[Explanation]:
    """Explain images that a detector has scored, one at a time. Imports no torch.

    Parameters
    ----------
    detector : ImageDetector
    images : sequence of ScoredImage
        Their paths are read again.
    left_out : list of LeftOut
        Takes those that are gone by now.
    """
    networks = [_Mapped(network) for network in detector.networks_]
    rows = {path: row for row, path in enumerate(detector.paths_)}
    known: OrderedDict[str, tuple[np.ndarray | str, list[np.ndarray | None]]] = OrderedDict()

    def normal(path: str) -> tuple[np.ndarray | str, list[np.ndarray | None]]:
        """Read a normal image: its crop, or why there is none, and its feature maps."""
        if path in known:
            known.move_to_end(path)
            return known[path]
        crop = read_or_say(path, detector.view)
        maps: list[np.ndarray | None] = []
        if not isinstance(crop, str):
            pairs = [network(crop) for network in networks]
            features = np.concatenate(
                [NORMALIZATIONS[detector.normalize](pair[0][None]) for pair in pairs], axis=1
            )[0]
            then = detector.features_[rows[path]]
            if np.linalg.norm(features - then) > SAME_FEATURES * np.linalg.norm(then):
                crop = "it has changed since"
            else:
                maps = [pair[1] for pair in pairs]
        known[path] = crop, maps
        if len(known) > KEPT_MAPS:
            known.popitem(last=False)
        return known[path]

    for image in images:
        crop = read_or_say(image.path, detector.view)
        if isinstance(crop, str):
            left_out.append(LeftOut(image.path, crop))
            continue
        read = [normal(near.path) for near in image.nearest]
        nearest = tuple(
            Near(near.path, near.distance, None, found)
            if isinstance(found, str)
            else Near(near.path, near.distance, found)
            for near, (found, _) in zip(image.nearest, read, strict=True)
        )
        maps = [maps for found, maps in read if not isinstance(found, str)]
        heat: np.ndarray | None = None
        for network, *others in zip(networks, *maps, strict=True) if maps else ():
            own = network(crop)[1]
            if own is None:
                continue
            part = difference(own, [other for other in others if other is not None])
            heat = part if heat is None else np.maximum(heat, part)
        yield Explanation(image, crop, heat, nearest)


def difference(own: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """Compute where a feature map differs from those of normal images: (224, 224) float32.

    Parameters
    ----------
    own : ndarray of shape (s, s, c)
    others : sequence of ndarray of shape (s, s, c)

    Returns
    -------
    ndarray
        0 where the map is as near as normal images' typically are to each other (or, with one
        normal image, as the map's nearer half); 1 where it is farthest, if that is farther than
        normal images are anywhere.
    """
    rows = [_positions(other) for other in others]
    distances = _smoothed(_to_nearest(_positions(own), np.concatenate(rows)))
    among = [distances]
    if len(rows) > 1:
        among = [
            _smoothed(_to_nearest(rows[i], np.concatenate(rows[:i] + rows[i + 1 :])))
            for i in range(len(rows))
        ]
    low = np.median(among)
    high = max(distances.max(), np.max(among))
    heat = np.clip((distances - low) / max(high - low, 1e-12), 0, 1).astype(np.float32)
    grid = Image.fromarray(heat)
    return np.clip(np.asarray(grid.resize((CROP, CROP), Image.Resampling.BICUBIC)), 0, 1)


def lay_over(crop: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Paint a heat map over a picture in grey: yellow where it differs, red where most: uint8."""
    grey = crop.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    strength = heat[..., None]
    colour = np.concatenate(
        [np.full_like(strength, 235), 200 * (1 - strength) ** 1.2, np.full_like(strength, 20)], 2
    )
    cover = 0.75 * np.clip(1.6 * (strength - 0.15), 0, 1)
    painted = (1 - cover) * grey[..., None] + cover * colour
    return np.rint(painted).clip(0, 255).astype(np.uint8)


class _Mapped:
    """Run a network for its features and its feature map, one image at a time."""

    def __init__(self, network: Network) -> None:
        model = network.model()
        self._map = feature_map_of(model)
        if self._map is not None:
            model.add_outputs(self._map)
        self._compiled = compile_for_cpu(model, available_cores(), 1)

    def __call__(self, crop: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Compute the features (width,) and the feature map (s, s, c), if there is one."""
        found = self._compiled({0: crop[None]})
        features = found[0][0].copy()
        return features, None if self._map is None else _as_grid(found[1][0])


def feature_map_of(model: Any) -> Any:
    """Choose the output of a network's node that is its feature map, or None if none looks so.

    A feature map is (1, c, s, s), (1, s, s, c), or s x s tokens (1, t + s s, c) after t tokens
    that stand for the whole image.

    Parameters
    ----------
    model : openvino.Model
    """
    best, most = None, 1
    for node in model.get_ordered_ops():
        if node.get_type_name() in ("Constant", "Parameter", "Result", "Pad", "Convert"):
            continue
        output = node.output(0)
        shape = output.get_partial_shape()
        side = 0 if shape.is_dynamic else _side(tuple(shape.to_shape()))
        # the last of at least 14 x 14; in a network that has none, the last of the finest
        if side <= SIDES[-1] and min(side, SIDES[0]) >= most and side > 1:
            best, most = output, min(side, SIDES[0])
    return best


def _side(shape: tuple[int, ...]) -> int:
    """Tell how many positions wide a tensor is, if it is a feature map; 0 if it is none."""
    if len(shape) == 4 and shape[0] == 1 and (shape[2] == shape[3] or shape[1] == shape[2]):
        return shape[2]
    if len(shape) == 3 and shape[0] == 1:
        return _tokens_side(shape[1])
    return 0


def _tokens_side(tokens: int) -> int:
    """Tell the side of a square of tokens, of which at most 8 are for the whole image; or 0."""
    side = int(tokens**0.5)
    return side if tokens - side * side <= 8 else 0


def _as_grid(found: np.ndarray) -> np.ndarray:
    """Bring a feature map without its first axis into the shape (s, s, c)."""
    if found.ndim == 2:
        side = _tokens_side(len(found))
        return found[len(found) - side * side :].reshape(side, side, -1).copy()
    if found.shape[1] == found.shape[2]:
        return np.ascontiguousarray(found.transpose(1, 2, 0))
    return found.copy()


def _positions(grid: np.ndarray) -> np.ndarray:
    return POSITION(np.ascontiguousarray(grid.reshape(-1, grid.shape[2]), dtype=np.float32))


def _smoothed(distances: np.ndarray) -> np.ndarray:
    """Make a square of distances, each averaged with those around it, the nearer the more."""
    side = int(len(distances) ** 0.5)
    grid = np.pad(distances.reshape(side, side), 1, mode="edge")
    grid = (grid[:-2] + 2 * grid[1:-1] + grid[2:]) / 4
    return (grid[:, :-2] + 2 * grid[:, 1:-1] + grid[:, 2:]) / 4


def _to_nearest(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Compute each query's squared distance to its nearest row."""
    from dn2.search import Bank

    distances, _ = Bank(rows, device="numpy").nearest(queries, 1)
    return distances[:, 0]


def read_or_say(path: str, view: View = VIEW) -> np.ndarray | str:
    """Read a crop, or say why it cannot be read."""
    try:
        return read_crop(Path(path), path, view)
    except (OSError, ValueError) as error:
        return reason_of(error)
