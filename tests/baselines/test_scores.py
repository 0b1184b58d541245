"""Scores and losses of GEOM, GOAD and MHRot, compared with their formulas in NumPy."""

import copy

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from baselines import _prediction, geom
from baselines._transforms import Views, geometric_transformations, rotations, turns_and_shifts
from baselines.geom import GEOM
from baselines.goad import GOAD, centre_triplet_loss
from baselines.mhrot import MHRot, head_labels

SIDE = 16
TINY = {"width": 1, "epochs": 1, "device": "cpu", "precision": "float32"}


def pictures(n, seed=0):
    noise = np.random.default_rng(seed).integers(0, 56, (n, SIDE, SIDE, 3))
    return (noise + np.linspace(0, 199, SIDE)[:, None, None]).astype(np.uint8)


def outputs(forward, X, sources):
    """Return the network's own outputs for each view, (n, t, outputs) float64."""
    views = Views(torch.tensor(X), sources)
    with torch.inference_mode():
        raw = forward(views.make(torch.arange(len(views))))
    return raw.double().numpy().reshape(len(X), len(sources), -1)


@pytest.fixture(scope="module")
def rotation_geom():
    return GEOM("rotation", **TINY).fit(pictures(12))


def test_geoms_dirichlet_score_is_minus_the_papers_normality(rotation_geom):
    X, detector = pictures(5, 1), copy.copy(rotation_geom)
    # The concentrations are small, so that the 1 which is subtracted matters.
    detector.alpha_ = np.random.default_rng(0).uniform(0.2, 3, (4, 4))
    probabilities = softmax(outputs(detector.network_, X, rotations(SIDE)), -1)
    mixed = probabilities * (1 - 4 * geom.SMALLEST_PROBABILITY) + geom.SMALLEST_PROBABILITY
    normality = ((detector.alpha_ - 1) * np.log(mixed)).sum(-1).mean(-1)
    np.testing.assert_allclose(detector.anomaly_score(X), -normality, rtol=1e-4)


def test_geoms_dirichlets_are_fitted_to_the_training_images_one_per_transformation(rotation_geom):
    probabilities = softmax(outputs(rotation_geom.network_, pictures(12), rotations(SIDE)), -1)
    expected = geom.fit_dirichlet(np.log(probabilities).mean(0))
    np.testing.assert_allclose(rotation_geom.alpha_, expected, rtol=0.02)


def test_geoms_simple_score_is_minus_the_mean_probability_of_the_truth():
    detector, X = GEOM(score="simple", **TINY).fit(pictures(10)), pictures(4, 1)
    probabilities = softmax(outputs(detector.network_, X, geometric_transformations(SIDE)), -1)
    np.testing.assert_allclose(
        detector.anomaly_score(X), -probabilities[:, range(72), range(72)].mean(1), atol=1e-6
    )


def test_accuracy_is_the_fraction_of_recognised_transformations(rotation_geom):
    X = pictures(7, 2)
    scores, accuracy = rotation_geom.scores_and_accuracy(X)
    guesses = outputs(rotation_geom.network_, X, rotations(SIDE)).argmax(-1)
    np.testing.assert_allclose(accuracy, (guesses == np.arange(4)).mean(1))
    np.testing.assert_array_equal(scores, rotation_geom.anomaly_score(X))


def test_goads_score_is_the_sum_of_minus_log_probabilities_of_the_centres():
    detector, X = GOAD(**TINY).fit(pictures(10)), pictures(4, 1)
    sources = geometric_transformations(SIDE)
    centres = outputs(detector.network_.features, pictures(10), sources).mean(0)
    np.testing.assert_allclose(detector.centres_, centres, atol=1e-5)
    features = outputs(detector.network_.features, X, sources)
    distances = np.square(features[:, :, None] - centres).sum(-1)
    scores, accuracy = detector.scores_and_accuracy(X)
    np.testing.assert_allclose(
        scores, -log_softmax(-distances, -1)[:, range(72), range(72)].sum(1), rtol=1e-5
    )
    np.testing.assert_allclose(accuracy, (distances.argmin(-1) == np.arange(72)).mean(1))


@pytest.mark.parametrize("margin", [0.1, 1.0])
def test_goads_triplet_loss_by_hand(margin):
    features = np.random.default_rng(0).normal(size=(4, 5, 3))
    centres = features.mean(0)
    terms = []
    for image in features:
        for m, f in enumerate(image):
            distances = ((f - centres) ** 2).sum(1)
            terms.append(max(0.0, distances[m] + margin - np.delete(distances, m).min()))
    assert np.mean(terms) > 0
    assert centre_triplet_loss(torch.tensor(features), margin).item() == pytest.approx(
        np.mean(terms)
    )


def test_goads_loss_is_the_weighted_sum_of_three():
    X, reports = pictures(3), []
    detector = GOAD(learning_rate=1e-30, batch_size=3, margin=3.0, **TINY).fit(
        X, monitor=lambda *report: reports.append(report[4])
    )
    # In training mode, as for the one batch; a rate of 1e-30 moves no float32 weight.
    network = detector.network_.train()
    views = Views(torch.tensor(X), geometric_transformations(SIDE))
    with torch.no_grad():
        features = network.features(views.make(torch.arange(216)))
        classified = -log_softmax(network.head(features).double().numpy(), -1)[
            np.arange(216), np.arange(216) % 72
        ].mean()
        triplet = centre_triplet_loss(features.reshape(3, 72, -1), 3.0).item()
    assert triplet > 1
    expected = classified + 0.1 * triplet + 10 * features.square().mean().item()
    np.testing.assert_allclose(reports[-1], expected, rtol=1e-4)


def test_goads_triplet_loss_reaches_the_centres_too():
    features = torch.randn(
        4, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True
    )
    assert torch.autograd.gradcheck(lambda f: centre_triplet_loss(f, 0.1), features)


@pytest.mark.parametrize("n", [1, 9, 20])
def test_a_network_sees_batches_of_one_size_only(n, monkeypatch):
    """Another size may choose other kernels, which round differently."""
    monkeypatch.setattr(_prediction, "CHUNK_IMAGES", 16)
    sizes, numbers = [], []

    def forward(x):
        sizes.append(len(x))
        return x.mean((1, 2, 3))

    for some, _ in _prediction.predict_views(
        forward, pictures(n), rotations(SIDE), torch.device("cpu")
    ):
        numbers += some.tolist()
    assert set(sizes) == {_prediction.BATCH_CPU}
    assert numbers == list(range(4 * n))


def mhrot_reference(logits):
    scores, rights = np.zeros(len(logits)), np.zeros(len(logits))
    for t in range(36):
        truth = (t // 9, 4 + t // 3 % 3, 7 + t % 3)
        for (start, stop), true in zip(((0, 4), (4, 7), (7, 10)), truth, strict=True):
            head = logits[:, t, start:stop]
            scores -= softmax(head, -1)[:, true - start]
            rights += head.argmax(-1) == true - start
    return scores, rights / 108


@pytest.mark.parametrize(("resolution", "side", "crop"), [("low", 16, 0), ("high", 64, 56)])
def test_mhrots_score_is_minus_the_sum_of_three_probabilities(resolution, side, crop):
    rng = np.random.default_rng(0)
    train, X = (rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8) for n in (3, 2))
    detector = MHRot(resolution, depth=10, **TINY).fit(train)
    scores, accuracy = detector.scores_and_accuracy(X)
    expected, rights = mhrot_reference(outputs(detector.network_, X, turns_and_shifts(side, crop)))
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    np.testing.assert_allclose(accuracy, rights)


def test_the_heads_labels_are_rotation_vertical_and_horizontal_shift():
    labels = torch.stack(head_labels(torch.arange(36)), 1)
    assert len(np.unique(labels.numpy(), axis=0)) == 36
    assert labels.amax(0).tolist() == [3, 2, 2]


def test_mhrots_rate_falls_by_a_cosine():
    rate = MHRot(learning_rate=0.1, epochs=16)._rate
    np.testing.assert_allclose([rate(0), rate(8), rate(16)], [0.1, 0.05, 1e-6], rtol=1e-4)
