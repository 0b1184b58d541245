"""GEOM: how badly a network that learnt to tell transformations apart tells them apart on this image.

Golan and El-Yaniv, "Deep Anomaly Detection Using Geometric Transformations", NeurIPS 2018 (1805.10917).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy.special import digamma, gammaln, polygamma
from torch.nn import functional as F

from baselines._inference import CompiledWideResNet
from baselines._networks import WideResNet, build_network
from baselines._prediction import judge_views, predict_views
from baselines._preparation import (
    autocast,
    check_parameters,
    check_ready,
    check_rows,
    name_arithmetic,
    pad_digits,
    pick_precision,
    prepare_training,
    to_device,
)
from baselines._training import Monitor, Training, fit_network, training_identity
from baselines._transforms import Views, geometric_transformations, rotations

MAX_CONCENTRATION = 1e6
"""Equal vectors have no finite maximum: their likelihood grows for ever with the concentration, so it ends here [our choice]."""

MIN_CONCENTRATION = 1e-8
TOLERANCE = 1e-9
MAX_STEPS = 500


def fit_dirichlet(mean_log: np.ndarray) -> np.ndarray:
    """Fit one Dirichlet a row: the alpha that maximises log G(sum alpha) - sum log G(alpha) + sum (alpha - 1) mean_log.

    Newton's steps, whose Hessian is diagonal plus a constant; where one leaves the positive numbers or lowers the likelihood,
    Minka's fixed-point step, which never does.

    Parameters
    ----------
    mean_log : ndarray of shape (rows, k)
        Means of the logarithms of probability vectors, natural, finite.

    Returns
    -------
    ndarray of shape (rows, k), float64
        In [1e-8, 1e6].

    Raises
    ------
    ValueError
        If a mean is not finite.
    """
    mean_log = np.asarray(mean_log, np.float64)
    if not np.isfinite(mean_log).all():
        raise ValueError(
            "the logarithms of a Dirichlet fit must be finite, but a probability was 0: clip probabilities first"
        )
    alpha = np.ones_like(mean_log)
    for _ in range(MAX_STEPS):
        newton = _newton_step(alpha, mean_log)
        valid = np.all(newton > 0, axis=1)
        newton = np.where(valid[:, None], newton, alpha)
        better = valid & (_log_likelihood(newton, mean_log) >= _log_likelihood(alpha, mean_log))
        step = np.where(better[:, None], newton, _fixed_point_step(alpha, mean_log))
        step = np.clip(step, MIN_CONCENTRATION, MAX_CONCENTRATION)
        settled = np.abs(step - alpha).max() <= TOLERANCE * np.abs(alpha).max()
        alpha = step
        if settled:
            break
    return alpha


def _log_likelihood(alpha: np.ndarray, mean_log: np.ndarray) -> np.ndarray:
    """For each row, a vector's mean log-likelihood, shape (rows,)."""
    return gammaln(alpha.sum(1)) - gammaln(alpha).sum(1) + ((alpha - 1) * mean_log).sum(1)


def _newton_step(alpha: np.ndarray, mean_log: np.ndarray) -> np.ndarray:
    total = alpha.sum(1, keepdims=True)
    gradient = digamma(total) - digamma(alpha) + mean_log
    diagonal, constant = -polygamma(1, alpha), polygamma(1, total)
    shared = (gradient / diagonal).sum(1, keepdims=True) / (
        1 / constant + (1 / diagonal).sum(1, keepdims=True)
    )
    return alpha - (gradient - shared) / diagonal


def _fixed_point_step(alpha: np.ndarray, mean_log: np.ndarray) -> np.ndarray:
    return _inverse_digamma(digamma(alpha.sum(1, keepdims=True)) + mean_log)


def _inverse_digamma(value: np.ndarray) -> np.ndarray:
    """Invert by five of Newton's steps from Minka's start, good to 14 digits (his appendix C)."""
    x = np.where(value >= -2.22, np.exp(np.minimum(value, 700)) + 0.5, -1 / (value - digamma(1.0)))
    for _ in range(5):
        x -= (digamma(x) - value) / polygamma(1, x)
    return x


SMALLEST_PROBABILITY = 1e-7
"""Mixed into every softmax vector before the logarithm. A confident network gives probabilities that are 0 in float32, and with
few images there is little else: log 0, the likely cause of the "numerical issues" that are reported for GEOM. 1e-7 is the
framework's epsilon in the authors' code.
Deviation: the authors do not clip. The vectors still sum to 1, which the Dirichlet's maximum likelihood needs."""


class GEOM:
    """Deep anomaly detection by geometric transformations.

    A Wide ResNet learns on normal images alone which transformation it is shown. Normality of x is the mean over
    transformations t of ``sum_i (alpha_t,i - 1) log p_i(T_t x)``, the log-likelihood, up to a constant, under a Dirichlet fitted
    to the training images' softmax vectors under t (section 4.2); the simple score is the mean ``p_t(T_t x)``.

    Parameters
    ----------
    transformations : {72, "rotation"}
        Flips x shifts x rotations (section 4.1), or the 4 rotations alone, for which 16 epochs are usual.
    score : {"dirichlet", "simple"}
    epochs : int
        Each goes over all images under all transformations; ceil(200 / 72) = 3 (authors' code).
    batch_size : int
        Transformed images (section 5.2).
    learning_rate, weight_decay : float
        Of Adam (authors' code).
    depth, width : int
        Of the Wide ResNet; 10 and 4 (section 5.2), 16 and 8 for 64 px images.
    dropout : float
        As a fraction; the paper has none.
    max_images : int
        Train and fit the Dirichlets on a seeded subset of so many images; 0 takes all.
    seed : int
        Of weights, shuffles and subset.
    device : str, optional
        ``cpu``, ``cuda`` or ``cuda:1``; by default CUDA if there is one.
    precision : {"auto", "float32", "bfloat16"}
        Of convolutions and products; auto takes bfloat16 where the device is fast at it.

    Attributes
    ----------
    network_ : WideResNet
    alpha_ : ndarray of shape (t, t), float64
        The Dirichlets, with the Dirichlet score only.
    """

    def __init__(
        self,
        transformations: int | str = 72,
        score: str = "dirichlet",
        epochs: int = 3,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        weight_decay: float = 5e-4,
        depth: int = 10,
        width: int = 4,
        dropout: float = 0.0,
        max_images: int = 0,
        seed: int = 0,
        device: str | None = None,
        precision: str = "auto",
    ) -> None:
        self.transformations = transformations
        self.score = score
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.depth = depth
        self.width = width
        self.dropout = dropout
        self.max_images = max_images
        self.seed = seed
        self.device = device
        self.precision = precision

    def arithmetic(self) -> str:
        """Say what this machine computes in, which the scores depend on; see `baselines._preparation.name_arithmetic`."""
        return name_arithmetic(self.device, self.precision)

    def check_rows(self, n: int) -> None:
        """Refuse a training set from which neither the network nor the Dirichlets can be learnt.

        Raises
        ------
        ValueError
            If n is under 2, or a parameter is out of range.
        """
        check_parameters(self, "GEOM")
        check_rows(n, 2, "GEOM")

    def fit(
        self, X: np.ndarray, *, monitor: Monitor | None = None, checkpoint: Path | None = None
    ) -> GEOM:
        """Train on normal images.

        Parameters
        ----------
        X : ndarray of shape (n, side, side, c), uint8
            28 px images are padded to 32 with zeros.
        monitor : callable, optional
            Called as ``monitor("loss", epoch, epochs, share, loss)``.
        checkpoint : Path, optional
            Continued from, and written as the training goes on.

        Raises
        ------
        ValueError
            If the images or a parameter cannot be used.
        TrainingDivergedError
            If the loss is not finite.
        """
        shape = X.shape[1:]
        X, device, precision, start = prepare_training(self, X, "GEOM")
        X = pad_digits(X)
        sources = self._sources(X.shape[1])
        network = build_network(
            lambda: WideResNet(X.shape[3], len(sources), self.depth, self.width, self.dropout),
            device,
            start,
        )
        views = Views(to_device(X, device), sources)

        def loss_of(numbers: torch.Tensor, _epoch: int) -> torch.Tensor:
            with autocast(device, precision):
                logits = network(views.make(numbers))
            return F.cross_entropy(logits, views.labels(numbers))

        identity = training_identity(self, X, device.type, precision)
        training = Training(
            "loss",
            len(views),
            self.batch_size,
            self.epochs,
            lambda _time: self.learning_rate,
            identity,
        )
        optimizer = torch.optim.Adam(
            network.parameters(), self.learning_rate, weight_decay=self.weight_decay
        )
        shuffling = torch.Generator(device).manual_seed(self.seed)
        fit_network(
            network, loss_of, optimizer, training, shuffling, monitor=monitor, checkpoint=checkpoint
        )
        self.network_, self.shape_ = network, shape
        if self.score == "dirichlet":
            self.alpha_ = fit_dirichlet(self._mean_log_probabilities(X, sources))
        return self

    def anomaly_score(self, X: np.ndarray) -> np.ndarray:
        """Score images: higher is more anomalous.

        Parameters
        ----------
        X : ndarray of shape (n, side, side, c), uint8

        Returns
        -------
        ndarray of shape (n,), float64

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If the images are not of the training images' shape.
        """
        return self.scores_and_accuracy(X)[0]

    def scores_and_accuracy(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the anomaly scores, and of each image the share of recognised transformations, in one pass; both (n,)."""
        check_ready(self, X, "GEOM")
        X = pad_digits(X)
        device = next(self.network_.parameters()).device
        excess = torch.tensor(self.alpha_ - 1, device=device) if self.score == "dirichlet" else None

        def judge(
            logits: torch.Tensor, transformations: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            probabilities = logits.softmax(1)
            if excess is None:
                normality = probabilities.gather(1, transformations[:, None])[:, 0]
            else:
                normality = (excess[transformations] * log_probabilities(probabilities)).sum(1)
            # The paper's score is a normality; ours is higher for anomalies.
            return -normality, logits.argmax(1) == transformations

        compiled = CompiledWideResNet(self.network_, pick_precision(self.precision, device))
        anomalies, accuracies = judge_views(compiled, judge, X, self._sources(X.shape[1]), device)
        return anomalies.mean(1), accuracies.mean(1)

    def _sources(self, side: int) -> torch.Tensor:
        """Return the transformations, shape (t, side * side)."""
        return (
            rotations(side)
            if self.transformations == "rotation"
            else geometric_transformations(side)
        )

    def _mean_log_probabilities(self, X: np.ndarray, sources: torch.Tensor) -> np.ndarray:
        """For each transformation, the mean over images of the logarithm of the softmax vector, shape (t, t), float64."""
        device = next(self.network_.parameters()).device
        sums = torch.zeros(len(sources), len(sources), dtype=torch.float64, device=device)
        compiled = CompiledWideResNet(self.network_, pick_precision(self.precision, device))
        for numbers, logits in predict_views(compiled, X, sources, device):
            transformations = torch.from_numpy(numbers % len(sources)).to(device)
            sums.index_add_(0, transformations, log_probabilities(logits.softmax(1)))
        return (sums / len(X)).cpu().numpy()


def log_probabilities(probabilities: torch.Tensor) -> torch.Tensor:
    """Natural logarithm of softmax vectors (b, k), none of which is 0 any more, float64; see `SMALLEST_PROBABILITY`."""
    k = probabilities.shape[1]
    return (probabilities.double() * (1 - k * SMALLEST_PROBABILITY) + SMALLEST_PROBABILITY).log()
