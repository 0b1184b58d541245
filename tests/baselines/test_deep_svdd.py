"""Deep SVDD: normalisation, centre, losses and the two stages."""

import numpy as np
import pytest
import torch
from untrained import fit_untrained

import baselines._training as loop
from baselines._transforms import scale_pixels
from baselines.deep_svdd import DeepSVDD, contrast_normalise, push_from_zero

STILL = 1e-30  # a learning rate that moves no float32 weight
TINY = {"device": "cpu", "precision": "float32", "batch_size": 5}


def pictures(n, seed=0, side=16, channels=3):
    noise = np.random.default_rng(seed).integers(0, 56, (n, side, side, channels))
    return (noise + np.linspace(0, 199, side)[:, None, None]).astype(np.uint8)


def weights(network):
    return torch.cat([weight.detach().reshape(-1) for weight in network.parameters()]).numpy()


def by_hand(X):
    """Normalise the contrast of images (n, h, w, c), each over all its pixels and channels."""
    images = X.astype(np.float64)
    centred = images - images.mean((1, 2, 3), keepdims=True)
    return centred / np.abs(centred).mean((1, 2, 3), keepdims=True)


def test_contrast_normalisation_by_hand_in_any_scale():
    X = pictures(4)
    expected = by_hand(X).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(
        contrast_normalise(scale_pixels(torch.tensor(X))).numpy(), expected, atol=1e-5
    )
    tiny = contrast_normalise(torch.tensor([1.0, 2.0, 3.0, 6.0]).reshape(1, 1, 2, 2))
    np.testing.assert_allclose(tiny.flatten(), np.array([-2, -1, 0, 3]) / 1.5)


def test_a_constant_image_becomes_zero_and_is_scored():
    assert contrast_normalise(torch.full((1, 3, 4, 4), 0.7)).abs().max() == 0
    X = pictures(10)
    X[0] = 77
    detector = DeepSVDD(epochs=1, pretrain_epochs=1, **TINY).fit(X)
    assert np.isfinite(detector.anomaly_score(np.stack([X[0], X[1], np.zeros_like(X[0])]))).all()


def test_the_scale_is_two_numbers_of_the_training_images():
    X = pictures(12)
    detector = fit_untrained(DeepSVDD(pretrain_epochs=0, **TINY), X)
    expected = by_hand(X)
    np.testing.assert_allclose(detector.network_.scale, [expected.min(), expected.max()], rtol=1e-5)
    normal = detector.network_.normalise(scale_pixels(torch.tensor(X)))
    np.testing.assert_allclose([normal.min(), normal.max()], [0, 1], atol=1e-6)
    # The scale is not measured again on other images.
    assert detector.network_.normalise(scale_pixels(torch.tensor(pictures(50, 1)))).max() > 1


def test_coordinates_near_zero_are_pushed_away_with_their_sign():
    centre = torch.tensor([0.5, 0.05, -0.05, -0.5, 0.0, 0.1, -0.1, 0.0999])
    np.testing.assert_allclose(push_from_zero(centre), [0.5, 0.1, -0.1, -0.5, 0.1, 0.1, -0.1, 0.1])


@pytest.mark.parametrize(("side", "channels", "dimensions"), [(16, 3, 128), (28, 1, 32)])
def test_the_centre_is_the_mean_embedding_and_scores_are_squared_distances(
    side, channels, dimensions
):
    X, other = pictures(11, 0, side, channels), pictures(4, 1, side, channels)
    detector = fit_untrained(DeepSVDD(pretrain_epochs=1, **TINY), X)
    network = detector.network_
    with torch.inference_mode():
        embedded = (
            network.encoder(network.normalise(scale_pixels(torch.tensor(X)))).double().numpy()
        )
        tested = (
            network.encoder(network.normalise(scale_pixels(torch.tensor(other)))).double().numpy()
        )
    centre = embedded.mean(0)
    centre = np.where(np.abs(centre) < 0.1, np.where(centre < 0, -0.1, 0.1), centre)
    assert network.centre.shape == (dimensions,)
    np.testing.assert_allclose(network.centre, centre, atol=1e-5)
    np.testing.assert_allclose(
        detector.anomaly_score(other), ((tested - centre) ** 2).sum(1), rtol=1e-4
    )


def test_the_centre_stays_while_the_weights_move():
    X = pictures(12)
    before = fit_untrained(DeepSVDD(pretrain_epochs=1, **TINY), X).network_
    after = DeepSVDD(epochs=3, pretrain_epochs=1, **TINY).fit(X).network_
    assert torch.equal(before.centre, after.centre)
    assert not np.array_equal(weights(before), weights(after))


def test_pretraining_is_where_the_training_starts_from():
    X = pictures(12)
    plain, pretrained = (
        fit_untrained(DeepSVDD(pretrain_epochs=epochs, **TINY), X).network_ for epochs in (0, 2)
    )
    assert not np.array_equal(weights(plain), weights(pretrained))


def test_each_stage_has_its_own_weight_decay(monkeypatch):
    decays = []
    original = torch.optim.Adam.__init__

    def noted(self, params, lr, **more):
        decays.append(more["weight_decay"])
        original(self, params, lr, **more)

    monkeypatch.setattr(torch.optim.Adam, "__init__", noted)
    DeepSVDD(epochs=1, pretrain_epochs=1, weight_decay=0.25, pretrain_weight_decay=0.5, **TINY).fit(
        pictures(5)
    )
    assert decays == [0.5, 0.25]


def losses(X, **params):
    reports = []
    DeepSVDD(pretrain_epochs=0, **params).fit(X, monitor=lambda *report: reports.append(report))
    return [report[4] for report in reports if report[3] == 1]


def test_the_first_losses_by_hand():
    """No weight moves, and there is one batch.

    The loss is the mean squared distance, or 1 / nu times it while the radius is 0.
    """
    X = pictures(10)
    still = {**TINY, "batch_size": 10, "learning_rate": STILL, "epochs": 2, "weight_decay": 0.0}
    plain = losses(X, **still)
    assert plain[0] == pytest.approx(plain[1], rel=1e-5)
    np.testing.assert_allclose(
        losses(X, objective="soft_boundary", nu=0.25, **still), np.array(plain) / 0.25, rtol=1e-5
    )


def test_the_radius_is_the_batchs_quantile_after_the_warm_up():
    X = pictures(10)
    still = {
        **TINY,
        "batch_size": 10,
        "learning_rate": STILL,
        "weight_decay": 0.0,
        "pretrain_epochs": 0,
    }
    cold = DeepSVDD("soft_boundary", epochs=2, warm_up_epochs=2, **still).fit(X).network_
    warm = DeepSVDD("soft_boundary", epochs=3, warm_up_epochs=2, nu=0.3, **still).fit(X).network_
    assert cold.radius == 0
    warm.train()  # as in the training: the batch is normalised by its own statistics
    with torch.no_grad():
        distances = warm(scale_pixels(torch.tensor(X))).sqrt().numpy()
    assert warm.radius.item() == pytest.approx(np.quantile(distances, 0.7), rel=1e-4)
    radius, nu = warm.radius.item(), 0.3
    expected = radius**2 + np.maximum(0, distances**2 - radius**2).mean() / nu
    last = losses(
        X,
        objective="soft_boundary",
        epochs=4,
        warm_up_epochs=2,
        nu=nu,
        **{k: v for k, v in still.items() if k != "pretrain_epochs"},
    )
    assert last[3] == pytest.approx(expected, rel=1e-4)


def test_the_learning_rate_drops_to_a_tenth():
    rate = DeepSVDD(learning_rate=1e-4)._rate(50)
    np.testing.assert_allclose([rate(0), rate(49.9), rate(50), rate(149)], [1e-4, 1e-4, 1e-5, 1e-5])


@pytest.mark.parametrize("objective", ["one_class", "soft_boundary"])
@pytest.mark.parametrize("call", range(1, 7))
def test_killed_in_either_stage_it_continues_to_the_same_weights(
    monkeypatch, tmp_path, objective, call
):
    # On a busy machine an epoch can take a second, and would report in its middle.
    monkeypatch.setattr(loop, "REPORT_SECONDS", 3600)
    X, path, reports = pictures(11), tmp_path / "training.pt", []

    def build():
        return DeepSVDD(objective, epochs=3, pretrain_epochs=3, warm_up_epochs=1, **TINY)

    def killer(*report):
        reports.append(report)
        if len(reports) == call:
            raise KeyboardInterrupt

    expected = build().fit(X)
    with pytest.raises(KeyboardInterrupt):
        build().fit(X, monitor=killer, checkpoint=path)
    again = []
    continued = build().fit(X, monitor=lambda *report: again.append(report), checkpoint=path)
    assert reports[:-1] + again == reports[:-1] + [
        (name, e, 3, 1.0, loss) for name, e, _, _, loss in again
    ]
    assert [report[:2] for report in reports[:-1] + again] == [
        (name, e) for name in ("pretrain_loss", "loss") for e in (1, 2, 3)
    ]
    np.testing.assert_array_equal(weights(continued.network_), weights(expected.network_))
    np.testing.assert_array_equal(continued.anomaly_score(X), expected.anomaly_score(X))
