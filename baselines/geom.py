"""GEOM: recognise which geometric transformation was applied to an image.

The worse a network does so that learnt it on normal images, the more anomalous the image. Golan and
El-Yaniv, "Deep Anomaly Detection Using Geometric Transformations", NeurIPS 2018 (1805.10917).

In reading order: the detector, and the Dirichlet distributions that it scores with
(`log_probabilities`, `fit_dirichlet`).
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from scipy.special import digamma, gammaln, polygamma
from torch import nn
from torch.nn import functional as F

from baselines._inference import CompiledWideResNet
from baselines._networks import WideResNet, draw_he_by_inputs
from baselines._parameters import (
    ABOVE_ZERO,
    AT_LEAST_ZERO,
    BATCH_SIZE,
    DEPTH,
    FRACTION_BELOW_ONE,
    MAX_IMAGES,
    ON_THIS_MACHINE,
    one_of,
    whole,
)
from baselines._prediction import Judge, predict_views
from baselines._trained import Objective, Preparation, TransformationBaseline
from baselines._transforms import Views, geometric_transformations, rotations

SMALLEST_PROBABILITY = 1e-7
"""Mixed into every softmax vector before the logarithm. A confident network gives probabilities
that are 0 in float32, and with few images it gives little else. The logarithm of 0 is the likely
cause of the "numerical issues" that are reported for GEOM. 1e-7 is the framework's epsilon in the
authors' code.

Deviation: the authors do not clip. Mixed vectors still sum to 1, which the Dirichlet's maximum
likelihood needs."""

MIN_CONCENTRATION = 1e-8
MAX_CONCENTRATION = 1e6
"""For equal vectors the likelihood has no maximum: it grows with the concentration without end. So
the concentration ends here [our choice]."""

TOLERANCE = 1e-9
MAX_STEPS = 500


class GEOM(TransformationBaseline):
    """Deep anomaly detection by geometric transformations.

    A Wide ResNet learns on normal images which transformation it is shown. The normality of x is
    the mean over transformations t of ``sum_i (alpha_t,i - 1) log p_i(T_t x)``. This is the
    log-likelihood, up to a constant, under a Dirichlet distribution fitted to the training images'
    softmax vectors under t (section 4.2). The simple score takes the mean of ``p_t(T_t x)``
    instead. The anomaly score is minus the normality.

    Deviation: convolutions of stride 2 pad on both sides, those of the authors' framework on the
    right and below; Adam's epsilon is PyTorch's 1e-8, theirs 1e-7. Neither was compared.

    Parameters
    ----------
    transformations : {72, "rotation"}
        Flips x shifts x rotations (section 4.1), or only the 4 rotations, for which 16 epochs are
        usual.
    score : {"dirichlet", "simple"}
    epochs : int
        Each goes over all images under all transformations; ceil(200 / 72) = 3 (authors' code).
    batch_size : int
        Transformed images (section 5.2).
    learning_rate, weight_decay : float
        Of Adam (authors' code).
    schedule : {"constant", "cosine"}
        The learning rate stays, as in the authors' code, or falls to 0 along half a cosine.
    depth, width : int
        Of the Wide ResNet; 10 and 4 (section 5.2), 16 and 8 for 64 px images.
    dropout : float
        The fraction of activations that are dropped; the paper drops none.
    max_images : int
        Train and fit the Dirichlets on a seeded subset of this many images; 0 takes all.
    seed : int
        Of weights, shuffles and subset.
    device : str, optional
        ``cpu``, ``cuda`` or ``cuda:1``; by default CUDA if there is a CUDA device.
    precision : {"auto", "float32", "bfloat16"}
        Of convolutions and matrix products; auto takes bfloat16 where the device is fast at it.

    Attributes
    ----------
    network_ : WideResNet
    alpha_ : ndarray of shape (t, t), float64
        The concentrations of the Dirichlets, one per row; only with the Dirichlet score.
    """

    title = "GEOM"
    network_: WideResNet

    def __init__(
        self,
        transformations: Annotated[int | str, one_of(72, "rotation")] = 72,
        score: Annotated[str, one_of("dirichlet", "simple")] = "dirichlet",
        epochs: Annotated[int, whole(1)] = 3,
        batch_size: Annotated[int, BATCH_SIZE] = 128,
        learning_rate: Annotated[
            float, ABOVE_ZERO, {"search": {"low": 1e-4, "high": 1e-2, "log": True}}
        ] = 1e-3,
        schedule: Annotated[str, one_of("constant", "cosine")] = "constant",
        weight_decay: Annotated[
            float, AT_LEAST_ZERO, {"search": {"low": 1e-5, "high": 1e-2, "log": True}}
        ] = 5e-4,
        depth: Annotated[int, DEPTH] = 10,
        width: Annotated[int, whole(1)] = 4,
        dropout: Annotated[float, FRACTION_BELOW_ONE] = 0.0,
        max_images: Annotated[int, MAX_IMAGES] = 0,
        seed: Annotated[int, whole(0)] = 0,
        device: Annotated[str | None, ON_THIS_MACHINE] = None,
        precision: Annotated[str, ON_THIS_MACHINE] = "auto",
    ) -> None:
        self.transformations = transformations
        self.score = score
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.weight_decay = weight_decay
        self.depth = depth
        self.width = width
        self.dropout = dropout
        self.max_images = max_images
        self.seed = seed
        self.device = device
        self.precision = precision

    @property
    def chance(self) -> float:
        """The share of an image's transformations that guessing recognises."""
        return 1 / (4 if self.transformations == "rotation" else 72)

    def _sources(self, side: int) -> torch.Tensor:
        return (
            rotations(side)
            if self.transformations == "rotation"
            else geometric_transformations(side)
        )

    def _build(self, preparation: Preparation) -> WideResNet:
        side, channels = preparation.X.shape[2:]
        outputs = len(self._sources(side))
        return preparation.build(
            lambda: WideResNet(channels, outputs, self.depth, self.width, self.dropout),
            draw_he_by_inputs,
        )

    def _objective(self, network: nn.Module, preparation: Preparation) -> Objective:
        views = Views(preparation.images, self._sources(preparation.X.shape[1]))

        def loss_of(numbers: torch.Tensor, _epoch: int) -> torch.Tensor:
            with preparation.autocast():
                logits = network(views.make(numbers))
            return F.cross_entropy(logits, views.labels(numbers))

        return Objective(loss_of, len(views), self.batch_size)

    def _optimizer(self, network: nn.Module) -> torch.optim.Adam:
        return torch.optim.Adam(
            network.parameters(), self.learning_rate, weight_decay=self.weight_decay
        )

    def _summarise(self, preparation: Preparation) -> None:
        if self.score == "dirichlet":
            self.alpha_ = fit_dirichlet(self._mean_log_probabilities(preparation))

    def _mean_log_probabilities(self, preparation: Preparation) -> np.ndarray:
        """Average the logarithms of the training images' softmax vectors, (t, t) float64.

        There is one row per transformation.
        """
        X, device = preparation.X, preparation.device
        sources = self._sources(X.shape[1])
        sums = torch.zeros(len(sources), len(sources), dtype=torch.float64, device=device)
        compiled = CompiledWideResNet(self.network_, preparation.precision)
        for numbers, logits in predict_views(compiled, X, sources, device):
            transformations = torch.from_numpy(numbers % len(sources)).to(device)
            sums.index_add_(0, transformations, log_probabilities(logits.softmax(1)))
        return (sums / len(X)).cpu().numpy()

    def _judge(self) -> Judge:
        dirichlet = self.score == "dirichlet"
        excess = torch.tensor(self.alpha_ - 1, device=self._device) if dirichlet else None

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

        return judge

    def _pool(self, anomalies: np.ndarray) -> np.ndarray:
        return anomalies.mean(1)


def log_probabilities(probabilities: torch.Tensor) -> torch.Tensor:
    """Return natural logarithms of softmax vectors, finite; see `SMALLEST_PROBABILITY`.

    Parameters
    ----------
    probabilities : tensor of shape (b, k)

    Returns
    -------
    tensor of shape (b, k), float64
    """
    k = probabilities.shape[1]
    return (probabilities.double() * (1 - k * SMALLEST_PROBABILITY) + SMALLEST_PROBABILITY).log()


def fit_dirichlet(mean_log: np.ndarray) -> np.ndarray:
    """Fit one Dirichlet distribution per row by maximum likelihood.

    Its alpha maximises ``log G(sum alpha) - sum log G(alpha) + sum (alpha - 1) mean_log``, where G
    is the gamma function. The steps are Newton's, whose Hessian is diagonal plus a constant. Where
    Newton's step leaves the positive numbers or lowers the likelihood, Minka's fixed-point step,
    which never does, replaces it (Minka, "Estimating a Dirichlet distribution", 2000).

    Parameters
    ----------
    mean_log : ndarray of shape (rows, k)
        Means of the natural logarithms of probability vectors; finite.

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
            "the logarithms of a Dirichlet fit must be finite, but a probability was 0:"
            " clip probabilities first"
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
    """Return the mean log-likelihood of a vector for each row, shape (rows,)."""
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
    """Invert digamma to 14 digits, by five of Newton's steps from Minka's start (appendix C)."""
    x = np.where(value >= -2.22, np.exp(np.minimum(value, 700)) + 0.5, -1 / (value - digamma(1.0)))
    for _ in range(5):
        x -= (digamma(x) - value) / polygamma(1, x)
    return x
