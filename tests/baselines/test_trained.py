"""What holds for each baseline that trains a network.

It trains, continues after it was killed, scores each image on its own, and refuses what it cannot
use.
"""

import re

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from untrained import fit_untrained

import baselines._training as loop
from baselines.deep_svdd import DeepSVDD
from baselines.geom import GEOM
from baselines.goad import GOAD
from baselines.mhrot import MHRot

COMMON = {"device": "cpu"}
BASELINES = {
    "deep_svdd": lambda **params: DeepSVDD(
        **{"epochs": 2, "pretrain_epochs": 1, "batch_size": 4, **COMMON, **params}
    ),
    "geom": lambda **params: GEOM(**{"epochs": 2, "width": 1, **COMMON, **params}),
    "geom_rotation": lambda **params: GEOM(
        "rotation", **{"epochs": 2, "width": 1, "batch_size": 8, **COMMON, **params}
    ),
    "goad": lambda **params: GOAD(**{"epochs": 2, "width": 1, **COMMON, **params}),
    "mhrot": lambda **params: MHRot(**{"epochs": 2, "width": 1, **COMMON, **params}),
    "mhrot_high": lambda **params: MHRot(
        "high", **{"epochs": 2, "batch_size": 16, **COMMON, **params}
    ),
}
every_baseline = pytest.mark.parametrize("name", BASELINES)
LARGE = "mhrot_high"  # on images of 64 px: the same code, and seconds more
large_is_slow = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name == LARGE else ()) for name in BASELINES],
)
small_baselines = pytest.mark.parametrize(
    "name", ["deep_svdd", "geom_rotation", "goad", "mhrot"]
)  # the others cost seconds


def pictures(name, n=10, seed=0, channels=3):
    """Noise, brighter towards the bottom."""
    side = 64 if name == "mhrot_high" else 16
    noise = np.random.default_rng(seed).integers(0, 56, (n, side, side, channels))
    return (noise + np.linspace(0, 199, side)[:, None, None]).astype(np.uint8)


def weights(detector):
    return torch.cat(
        [weight.detach().reshape(-1) for weight in detector.network_.parameters()]
    ).numpy()


@large_is_slow
def test_training_changes_the_weights_and_scores_take_many_values(name):
    X = pictures(name)
    untrained, trained = fit_untrained(BASELINES[name](), X), BASELINES[name](epochs=1).fit(X)
    changed = weights(untrained) != weights(trained)
    assert changed.mean() > 0.9
    scores = trained.anomaly_score(pictures(name, 12, 1))
    assert len(np.unique(scores)) == 12


@large_is_slow
def test_an_images_score_does_not_depend_on_the_other_images(name):
    detector = BASELINES[name](epochs=1).fit(pictures(name))
    X = pictures(name, 9, 1)
    X[3] = 255 - X[3]
    scores = detector.anomaly_score(X)
    tolerance = 1e-5 * np.abs(scores).max()
    np.testing.assert_allclose(
        detector.anomaly_score(X[::-1])[::-1], scores, rtol=0, atol=tolerance
    )
    np.testing.assert_allclose(
        [detector.anomaly_score(x[None])[0] for x in X[:4]], scores[:4], rtol=0, atol=tolerance
    )


@large_is_slow
def test_a_killed_training_continues_to_the_same_scores(name, tmp_path, monkeypatch):
    """It is killed within an epoch: here, checkpoints and reports come after each batch."""
    X, path, calls = pictures(name, 6), tmp_path / "training.pt", []
    expected = BASELINES[name]().fit(X)
    monkeypatch.setattr(loop, "REPORT_SECONDS", 0)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)

    def killer(*report):
        calls.append(report)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        BASELINES[name]().fit(X, monitor=killer, checkpoint=path)
    assert path.exists()
    torch.manual_seed(99)  # no draw may come from the global generator
    continued = BASELINES[name]().fit(X, checkpoint=path)
    np.testing.assert_array_equal(weights(continued), weights(expected))
    np.testing.assert_array_equal(continued.anomaly_score(X), expected.anomaly_score(X))


@small_baselines
def test_another_configurations_checkpoint_is_not_continued(name, tmp_path):
    X, path = pictures(name), tmp_path / "training.pt"
    BASELINES[name](learning_rate=0.5e-3, epochs=1).fit(X, checkpoint=path)
    continued, fresh = (
        BASELINES[name](epochs=1).fit(X, checkpoint=checkpoint) for checkpoint in (path, None)
    )
    np.testing.assert_array_equal(weights(continued), weights(fresh))


@large_is_slow
@pytest.mark.parametrize("channels", [1, 3])
def test_ten_images_are_enough_and_neither_they_nor_global_settings_change(name, channels):
    X = pictures(name, 10, 0, channels)
    X.setflags(write=False)
    settings = (
        torch.get_num_threads,
        torch.is_grad_enabled,
        torch.get_default_dtype,
        torch.are_deterministic_algorithms_enabled,
    )
    before, state = [setting() for setting in settings], torch.get_rng_state()
    assert np.isfinite(BASELINES[name](epochs=1).fit(X).anomaly_score(X)).all()
    assert [setting() for setting in settings] == before
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.is_autocast_enabled("cpu")


@every_baseline
def test_a_learning_rate_that_is_far_too_high_is_an_error_that_names_the_epoch(name):
    with pytest.raises(
        loop.TrainingDivergedError,
        match=r"loss became (nan|inf) in epoch \d+ of [15]: lower learning_rate",
    ):
        BASELINES[name](learning_rate=1e30, epochs=5).fit(pictures(name))


@every_baseline
def test_what_it_cannot_use_is_refused(name):
    X, build = pictures(name), BASELINES[name]
    side = X.shape[1]
    for bad, words in (
        (X.astype(np.float32), "takes images as uint8 of 0 to 255, got float32"),
        (X.reshape(10, -1), "takes images of shape (n, h, w, 1 or 3), got (10, "),
        (X[..., :2], f"got (10, {side}, {side}, 2)"),
        (X[:, :, :-1], f"takes square images, got {side} x {side - 1}"),
        (X[:, :15, :15], "px a side, got 15 x 15"),
        (np.full_like(X, 7), "cannot learn from constant images, and all 10 training images are"),
        (X[:1], "needs at least 2 training images, got 1"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            build().fit(bad)
    with pytest.raises(ValueError, match="needs at least 2 training images, got 1"):
        build().check_rows(1)
    build().check_rows(2)
    with pytest.raises(NotFittedError, match="call fit before"):
        build().anomaly_score(X)
    detector = fit_untrained(build(), X)
    with pytest.raises(
        ValueError,
        match=re.escape(
            f"was fitted to images of shape ({side}, {side}, 3), got ({side}, {side}, 1)"
        ),
    ):
        detector.anomaly_score(X[..., :1])


@small_baselines
def test_only_the_images_that_were_drawn_matter(name):
    """Changing one of 8 images changes the result for exactly the 3 that were drawn."""
    X = pictures(name, 8)

    def trained(images):
        return weights(BASELINES[name](epochs=1, max_images=3).fit(images))

    expected, counting = trained(X), 0
    for row in range(8):
        changed = X.copy()
        changed[row] = 255 - changed[row]
        counting += not np.array_equal(trained(changed), expected)
    assert counting == 3
