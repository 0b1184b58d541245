"""DN2 on image files: fit to normal images, score new ones, save, load, add and remove.

detector = ImageDetector().fit(paths)
detector.save("detector")

detector = dn2.load("detector")     # imports no torch
scores = detector.score(new_paths)
flags = scores.flag(fpr=0.05)
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import numpy as np

from dn2.calibration import (
    check_rate,
    flag_by_fdr,
    flag_by_fpr,
    images_needed,
    p_values,
    smallest_rate,
)
from dn2.crops import LeftOut, Source, are_the_same, as_list, name_of
from dn2.detector import mean_of_nearest
from dn2.engines import available_cores
from dn2.features import NORMALIZATIONS
from dn2.images import MOST_PIXELS, View
from dn2.levels import learn_levels
from dn2.networks import convert, encode_sources
from dn2.parameters import Parameters, Rule, one_of, whole
from dn2.search import Bank, leave_out
from dn2.sound import check_varied
from dn2.squares import SQUARES

if TYPE_CHECKING:
    from dn2.search import Built

IMAGE_INDEXES = ("exact", "hnsw", "ivf")
"""How a detector finds its nearest images: those of `dn2.search.INDEXES` that measure distances.

A saved detector has its features on disk, so codes in place of them (``pq``) would save nothing.
"""

MOST_CALIBRATED = 10_000
"""Normal images that an approximate index is calibrated with, drawn from all if there are more.

Their p-values hold as well, the smallest being 1 / 10,001; a million would take hours.
"""

RECALL_IMAGES = 200
"""Of these, how many are searched exactly, too, to measure what the index misses."""

MOST_NEAREST = 10
"""How many of an image's nearest normal images are named, at most."""

SEARCHED_TOGETHER = 512
"""Images: a product of fewer keeps all cores busy for longer than it takes."""

UNNAMED = re.compile(r"image \d+")
"""How an image without a path is called: see `dn2.crops.name_of`."""

Progress = Callable[[int, int], None]

FRACTION = Rule(
    "a fraction in [0, 1)",
    lambda value: isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1,
)


@dataclass(frozen=True)
class Neighbour:
    """Name a normal image near a scored one: its path, and the squared distance of features."""

    path: str
    distance: float


@dataclass(frozen=True)
class ScoredImage:
    """Hold what is known of one image.

    Attributes
    ----------
    path : str
        As it was given.
    score : float
        The mean squared distance to the k nearest normal images: higher is more anomalous.
    p_value : float
        The share of normal images that look at least as odd: see `dn2.calibration`.
    nearest : tuple of Neighbour
        The nearest first; k, but at most 10.
    """

    path: str
    score: float
    p_value: float
    nearest: tuple[Neighbour, ...]


@dataclass(frozen=True)
class Scores:
    """Hold the scores of a batch of images.

    Attributes
    ----------
    images : tuple of ScoredImage
        In the order they were given.
    left_out : tuple of LeftOut
        Those that could not be read.
    n_calibration : int
        With how many normal images p-values were made.
    """

    images: tuple[ScoredImage, ...]
    left_out: tuple[LeftOut, ...]
    n_calibration: int

    def flag(self, *, fpr: float | None = None, fdr: float | None = None) -> np.ndarray:
        """Tell which images are anomalous: bool, (len(images),).

        Parameters
        ----------
        fpr : float, optional
            The false-alarm rate: at most this share of the normal images are flagged, on average.
        fdr : float, optional
            The false-discovery rate: at most this share of what is flagged is normal, on average.

        Raises
        ------
        ValueError
            Unless exactly one rate is given, between 0 and 1, and there are enough calibration
            images for it.
        """
        if (fpr is None) == (fdr is None):
            raise ValueError("give either fpr or fdr, got " + ("none" if fpr is None else "both"))
        p = np.array([image.p_value for image in self.images])
        if fdr is not None:
            check_rate_and_images("fdr", fdr, self.n_calibration)
            return flag_by_fdr(p, fdr)
        assert fpr is not None
        check_rate_and_images("fpr", fpr, self.n_calibration)
        return flag_by_fpr(p, fpr)


def check_rate_and_images(name: str, rate: float, n: int) -> None:
    """Raise ValueError if a rate is none, or n calibration images are too few for it."""
    check_rate(name, rate)
    if n < images_needed(rate):
        raise ValueError(
            f"{name} {rate:g} needs at least {images_needed(rate):,} calibration images, got {n}: "
            f"give more normal images, or allow a rate of {smallest_rate(n)} or more"
        )


class ImageDetector(Parameters):
    """Score image files by the mean squared distance to their k nearest normal images.

    It is `dn2.DN2` on features of a pretrained network, together with the network and with a
    calibration: see `dn2.calibration`. The defaults won in validation.

    Parameters
    ----------
    encoder : str, default "efficientnet_lite0"
        See `dn2.encoders.get_encoder`. Several, joined by ``+``, stand side by side.
    normalize : {"none", "l2", "power"}, default "power"
        What is done to each feature: see `dn2.features.NORMALIZATIONS`.
    k : int, default 5
        How many neighbours.
    holdout : float, default 0
        The fraction of the normal images to hold out of the bank for the calibration. With 0 each
        image is scored against all others (leave-one-out).
    seed : int, default 0
        Of the choice of those held out.
    weights : str or Path, optional
        The encoder's checkpoint. By default it is looked for in DN2_HOME.
    index : {"exact", "hnsw", "ivf"}, default "exact"
        How the nearest images are found. The others are for hundreds of thousands of images: they
        miss a few of the nearest, and measure those that they find as exactly. See
        `dn2.search.nearest`. A bank of fewer than 1,000 images is searched exactly.
    square : {"crop", "pad", "squash"}, default "crop"
        How an image becomes a square: see `dn2.squares`.
    most_pixels : int
        Larger image files are not decoded.

    Attributes
    ----------
    networks_ : tuple of Network
    levels_ : tuple of int
        The levels of 16-bit grey that become black and white: see `dn2.levels`.
    unseen_ : tuple of float
        Of each normal image that `fit` read, what its square leaves out: see `dn2.squares.unseen`.
    features_ : ndarray of shape (n, d), float32
        Of all normal images.
    paths_ : tuple of n str
        Absolute, or ``image 1`` where no path was given: of those added later the numbers go on.
    in_bank_ : ndarray of shape (n,), bool
        False for those held out.
    calibration_ : ndarray of shape (n_calibration,), float32
        Scores of normal images: of all that `holdout` names, but of at most 10,000 with an
        approximate index.
    recall_ : float or None
        The share of the k nearest images that an approximate index finds, measured on up to 200 of
        these. None with the index ``exact``.
    n_copies_ : int
        How many of these equal another normal image. Copies make normal images look less odd than
        they are, and p-values too small.
    left_out_ : tuple of LeftOut
        Files given to `fit` that could not be read.
    """

    def __init__(
        self,
        encoder: str = "efficientnet_lite0",
        normalize: Annotated[str, one_of(NORMALIZATIONS)] = "power",
        k: Annotated[int, whole(1)] = 5,
        holdout: Annotated[float, FRACTION] = 0.0,
        seed: Annotated[int, whole(0)] = 0,
        weights: str | Path | None = None,
        index: Annotated[str, one_of(IMAGE_INDEXES)] = "exact",
        square: Annotated[str, one_of(SQUARES)] = "crop",
        most_pixels: Annotated[int, whole(1)] = MOST_PIXELS,
    ) -> None:
        self.encoder = encoder
        self.normalize = normalize
        self.k = k
        self.holdout = holdout
        self.seed = seed
        self.weights = weights
        self.index = index
        self.square = square
        self.most_pixels = most_pixels

    @property
    def view(self) -> View:
        """How image files are looked at."""
        return View(self.square, self.levels_, self.most_pixels)

    def fit(
        self,
        X: Iterable[Source],
        y: object = None,  # noqa: ARG002 - there are no labels
        *,
        progress: Progress | None = None,
    ) -> Self:
        """Encode normal images, keep them, and calibrate.

        Parameters
        ----------
        X : iterable of path, bytes or ndarray
            Image files, their contents, or uint8 arrays (h, w) or (h, w, 3).
        y : ignored
        progress : callable, optional
            Called as ``progress(done, total)``.

        Raises
        ------
        dn2.encoders.MissingWeightsError
            If the weights are not on disk: the message says how to get them.
        ValueError
            If a parameter is wrong, or there are too few images for k and holdout.
        dn2.images.ImageMemoryError
            If there is too little memory for an image. So for all that reads images.
        dn2.sound.UnsoundFeaturesError
            If features are NaN, infinite, or the same for images that differ.
        """
        self.check_params()
        X = as_list(X)
        self.check_count(len(X))
        names = self.encoder.split("+")
        if self.weights is not None and len(names) > 1:
            raise ValueError(
                f"weights are of one encoder, got {len(names)} encoders: put their weights into "
                "DN2_HOME instead"
            )
        file = None if self.weights is None else Path(self.weights)
        self.networks_ = tuple(convert(name, file) for name in names)
        self.levels_ = learn_levels(X, available_cores(), View(most_pixels=self.most_pixels)).levels
        paths, features, self.left_out_, self.unseen_ = self._encode(X, progress)
        self.check_count(len(paths), self.left_out_)
        self._check_varied(X, features)
        in_bank = np.ones(len(paths), dtype=bool)
        held = round(self.holdout * len(paths))
        in_bank[np.random.default_rng(self.seed).permutation(len(paths))[:held]] = False
        self._keep(paths, features, in_bank)
        return self

    def check_count(self, n: int, left_out: Sequence[LeftOut] = ()) -> None:
        """Raise ValueError if n normal images are too few for k and holdout.

        The error names the first of those that could not be read.
        """
        unread = ""
        if left_out:
            first = left_out[0]
            unread = f" that can be read, and {len(left_out)} that cannot ({first.path}: "
            unread += f"{first.reason})"
        held = round(self.holdout * n)
        if self.holdout and not (held and n - held >= self.k):
            raise ValueError(
                f"k={self.k} with holdout={self.holdout:g} needs at least {self.k} images in the "
                f"bank and 1 held out, got {n} in all{unread}: give more normal images, or lower k"
            )
        if n <= self.k and not self.holdout:
            raise ValueError(
                f"k={self.k} needs at least {self.k + 1} normal images, got {n}{unread}: give more "
                "normal images" + (", or lower k" if self.k > 1 and n > 1 else "")
            )

    def score(self, X: Iterable[Source], *, progress: Progress | None = None) -> Scores:
        """Score images; a score depends on its image alone.

        Parameters
        ----------
        X : iterable of path, bytes or ndarray
        progress : callable, optional
            Called as ``progress(done, total)``.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        """
        self._check_fitted()
        X = as_list(X)
        images: list[ScoredImage] = []
        left_out: list[LeftOut] = []
        names: list[str] = []
        features: list[np.ndarray] = []
        for batch in encode_sources(X, self.networks_, self.normalize, progress, self.view):
            left_out += batch.left_out
            names += [name_of(X[row], row) for row in batch.rows]
            features.append(batch.features)
            if len(names) >= SEARCHED_TOGETHER:
                images += self.score_features(names, np.concatenate(features))
                names, features = [], []
        if names:
            images += self.score_features(names, np.concatenate(features))
        return Scores(tuple(images), tuple(left_out), len(self.calibration_))

    def score_features(self, names: Sequence[str], features: np.ndarray) -> list[ScoredImage]:
        """Score features (m, d) that were made by `encode`."""
        if not len(features):
            return []
        distances, rows = self._bank.nearest(features, self.k)
        scores = mean_of_nearest(distances)
        p = p_values(scores, self.calibration_)
        shown = min(self.k, MOST_NEAREST)
        return [
            ScoredImage(
                name,
                float(scores[i]),
                float(p[i]),
                tuple(
                    Neighbour(self._bank_paths[row], float(distance))
                    for row, distance in zip(rows[i, :shown], distances[i, :shown], strict=True)
                ),
            )
            for i, name in enumerate(names)
        ]

    def add(self, X: Iterable[Source], *, progress: Progress | None = None) -> tuple[LeftOut, ...]:
        """Put further normal images into the bank, such as false alarms, and calibrate again.

        The images that are there are not encoded again.

        Returns
        -------
        tuple of LeftOut
            Those that could not be read; ``image 2`` is the second of X.

        Raises
        ------
        ValueError
            If a path is in the detector already.
        """
        self._check_fitted()
        X = as_list(X)
        known = set(self.paths_).intersection(
            _stored_path(one) for one in X if isinstance(one, str | Path)
        )
        if known:
            raise ValueError(
                f"{min(known)} is in the detector already: remove it first, or leave it out"
            )
        numbers = [int(name[6:]) for name in self.paths_ if UNNAMED.fullmatch(name)]
        paths, features, left_out, _ = self._encode(X, progress, max(numbers, default=0))
        self._keep(
            self.paths_ + paths,
            np.concatenate([self.features_, features]),
            np.concatenate([self.in_bank_, np.ones(len(paths), dtype=bool)]),
        )
        return left_out

    def remove(self, names: Iterable[str]) -> tuple[str, ...]:
        """Take images out of the bank and the calibration, and calibrate again.

        Parameters
        ----------
        names : iterable of str
            Paths, or the end of one, such as a file's name, if only one image's path ends so.

        Returns
        -------
        tuple of str
            The paths that were removed.

        Raises
        ------
        ValueError
            If a name fits none or several images, or too few would be left.
        """
        self._check_fitted()
        rows = sorted({self._find(name) for name in names})
        stays = np.ones(len(self.paths_), dtype=bool)
        stays[rows] = False
        in_bank = self.in_bank_[stays]
        needed = self.k if self.holdout else self.k + 1
        if in_bank.sum() < needed or (self.holdout and in_bank.all()):
            raise ValueError(
                f"removing {len(rows)} of {len(stays)} images leaves too few for k={self.k}: add "
                "others first"
            )
        removed = tuple(self.paths_[row] for row in rows)
        paths = tuple(self.paths_[row] for row in np.flatnonzero(stays))
        self._keep(paths, self.features_[stays], in_bank)
        return removed

    def copies(self) -> tuple[str, ...]:
        """Name the normal images whose features equal those of an earlier one."""
        self._check_fitted()
        seen: set[bytes] = set()
        found = []
        for path, row in zip(self.paths_, self.features_, strict=True):
            digest = hashlib.blake2b(row.tobytes(), digest_size=16).digest()
            if digest in seen:
                found.append(path)
            seen.add(digest)
        return tuple(found)

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Save into a folder: see `dn2.saving.save_detector`."""
        from dn2.saving import save_detector

        self._check_fitted()
        save_detector(self, Path(path), force=force)

    @property
    def built(self) -> Built | None:
        """What an approximate index made of the bank; None where it is searched exactly."""
        return self._bank.built

    def _encode(
        self, X: Sequence[Source], progress: Progress | None, last: int = 0
    ) -> tuple[tuple[str, ...], np.ndarray, tuple[LeftOut, ...], tuple[float, ...]]:
        """Encode normal images: names, features, what could not be read, what is not seen.

        Those without a name get numbers, from the one after ``last`` on.
        """
        width = sum(network.width for network in self.networks_)
        features = np.empty((len(X), width), np.float32)
        names: list[str] = []
        left_out: list[LeftOut] = []
        unseen: list[float] = []
        for batch in encode_sources(X, self.networks_, self.normalize, progress, self.view):
            features[len(names) : len(names) + len(batch.rows)] = batch.features
            names += [_stored_name(X[row], last + row) for row in batch.rows]
            left_out += batch.left_out
            unseen += batch.unseen
        if len(names) < len(X):
            features = features[: len(names)].copy()
        return tuple(names), features, tuple(left_out), tuple(unseen)

    def _check_varied(self, X: Sequence[Source], features: np.ndarray) -> None:
        """Refuse an encoder, or one of several, that gives different images the same features."""
        start = 0
        for network in self.networks_:
            own = features[:, start : start + network.width]
            check_varied([own], network.name, lambda: are_the_same(X, self.view))
            start += network.width

    def _keep(self, paths: tuple[str, ...], features: np.ndarray, in_bank: np.ndarray) -> None:
        """Keep normal images, make the bank of those in it, and calibrate."""
        bank = self._make_bank(features, in_bank)
        chosen = np.flatnonzero(~in_bank if self.holdout else in_bank)
        if self.index != "exact" and len(chosen) > MOST_CALIBRATED:
            drawn = np.random.default_rng(self.seed).permutation(len(chosen))[:MOST_CALIBRATED]
            chosen = chosen[np.sort(drawn)]
        own = None if self.holdout else np.searchsorted(np.flatnonzero(in_bank), chosen)
        queries = features if len(chosen) == len(features) else features[chosen]
        distances = _nearest_others(bank, queries, self.k, own)
        recall = None
        if self.index != "exact":
            some = np.linspace(0, len(chosen) - 1, min(len(chosen), RECALL_IMAGES)).astype(int)
            assert bank.rows is not None
            exact = _nearest_others(
                Bank(bank.rows, device="numpy", copy=False),
                queries[some],
                self.k,
                None if own is None else own[some],
            )
            # (of images that are equally near, any will do)
            recall = float((distances[some] <= exact[:, -1:]).mean())
        self._restore(paths, features, in_bank, mean_of_nearest(distances), bank, recall)
        self.n_copies_ = int((distances[:, 0] == 0).sum())

    def _make_bank(
        self, features: np.ndarray, in_bank: np.ndarray, built: Built | None = None
    ) -> Bank:
        """Make the bank of the images that are in it; of a map of features, an index needs no copy.

        The exact search reads all rows each time, so it has them in memory.
        """
        rows = features if in_bank.all() else features[in_bank]
        return Bank(rows, index=self.index, device="numpy", copy=self.index == "exact", built=built)

    def _restore(
        self,
        paths: tuple[str, ...],
        features: np.ndarray,
        in_bank: np.ndarray,
        calibration: np.ndarray,
        bank: Bank,
        recall: float | None,
    ) -> None:
        """Take what was learned, now or earlier."""
        self.paths_, self.features_, self.in_bank_ = paths, features, in_bank
        self.calibration_, self._bank, self.recall_ = calibration, bank, recall
        self._bank_paths = [paths[row] for row in np.flatnonzero(in_bank)]

    def _find(self, name: str) -> int:
        """Find the row of an image by its path or by the end of it."""
        whole = _stored_path(name)
        if whole in self.paths_:
            return self.paths_.index(whole)
        ends = [row for row, path in enumerate(self.paths_) if f"/{path}".endswith(f"/{name}")]
        if len(ends) == 1:
            return ends[0]
        if ends:
            raise ValueError(
                f"{name} fits {len(ends)} images, such as {self.paths_[ends[0]]} and "
                f"{self.paths_[ends[1]]}: give more of the path"
            )
        # No similar name is proposed: that would be another image.
        raise ValueError(f"{name} is not in the detector: `dn2 info --images` lists them")

    def _check_fitted(self) -> None:
        if not hasattr(self, "features_"):
            from sklearn.exceptions import NotFittedError  # late: it takes a second

            raise NotFittedError("ImageDetector has no normal images yet: call fit first")


def _nearest_others(bank: Bank, queries: np.ndarray, k: int, own: np.ndarray | None) -> np.ndarray:
    """Find the squared distances (n, k) to the nearest rows, but for each query's own, if any."""
    if own is None:
        return bank.nearest(queries, k)[0]
    distances: np.ndarray = leave_out(*bank.nearest(queries, k + 1), own)[0]
    return distances


def _stored_name(source: Source, row: int) -> str:
    """Name a normal image so that it is found from any working directory."""
    return _stored_path(source) if isinstance(source, str | Path) else name_of(source, row)


def _stored_path(path: str | Path) -> str:
    return os.path.normpath(Path(path).absolute())
