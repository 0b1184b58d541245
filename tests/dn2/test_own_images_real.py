"""Detectors of image files on real data: the rates they promise, and how they start. Slow."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.contracts import Workspace
from benchmarks.datasets import is_on_disk, load_dataset
from benchmarks.fetch import fetch_dataset
from benchmarks.inputs import load_input
from dn2 import Encoder, ImageDetector
from dn2.image_detector import Scores
from dn2.images import ALL_LEVELS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
DRAWS = 100
GOOD, NEW, ODD = 300, 150, 50
"""Normal images to fit to; normal and anomalous ones in the batch that is scored."""


@pytest.fixture(scope="module", params=["cifar10", "fashion_mnist"])
def classes(request, weights_home):
    """The features of each class: power-normalised, training and test images together."""
    if not is_on_disk(request.param, home=weights_home):
        fetch_dataset(request.param, home=weights_home)
    dataset = load_dataset(request.param, home=weights_home)
    X = load_input(dataset, "features:efficientnet_lite0", Workspace(weights_home))
    X = X.normalized("power")
    rng = np.random.default_rng(0)
    return [
        X[np.sort(rng.choice(np.flatnonzero(dataset.labels == label), 2000, replace=False))]
        for label in range(10)
    ]


@pytest.mark.parametrize("holdout", [0.0, 0.5], ids=["leave-one-out", "split"])
def test_the_rates_are_held_on_real_images(classes, holdout):
    """Each mean over the draws may exceed its rate by three standard errors."""
    rng = np.random.default_rng(1)
    alarms, discoveries, found = [], [], []
    for draw in range(DRAWS):
        label = draw % 10
        normal = rng.permutation(classes[label])[: GOOD + NEW]
        others = np.concatenate([classes[other][:200] for other in range(10) if other != label])
        batch = np.concatenate([normal[GOOD:], rng.permutation(others)[:ODD]])
        detector = ImageDetector(holdout=holdout, seed=draw)
        in_bank = np.ones(GOOD, dtype=bool)
        in_bank[: round(holdout * GOOD)] = False
        detector.levels_ = ALL_LEVELS
        detector._keep(tuple(map(str, range(GOOD))), normal[:GOOD], in_bank)
        images = detector.score_features([""] * len(batch), batch)
        scores = Scores(tuple(images), (), len(detector.calibration_))
        alarms.append(scores.flag(fpr=0.05)[:NEW].mean())
        flags = scores.flag(fdr=0.1)
        discoveries.append(flags[:NEW].sum() / max(flags.sum(), 1))
        found.append(flags[NEW:].mean())
    for realised, rate in ((alarms, 0.05), (discoveries, 0.1)):
        assert np.mean(realised) <= rate + 3 * np.std(realised) / np.sqrt(DRAWS)
    assert np.mean(alarms) > 0.03  # not held by flagging nothing
    assert np.mean(found) > 0.2


@pytest.fixture(scope="module")
def photos(tmp_path_factory, weights_home):
    """The class disc of the synthetic data set as files, and a detector of them."""
    from benchmarks.datasets import synthetic

    folder = tmp_path_factory.mktemp("photos")
    data = synthetic.generate()
    discs = data.images[data.labels == 0]
    for number, image in enumerate(discs[:60]):
        Image.fromarray(image).resize((300, 260)).save(folder / f"{number:02d}.png")
    paths = [str(path) for path in sorted(folder.glob("*.png"))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DN2_HOME", str(weights_home))
        ImageDetector().fit(paths[:40]).save(folder / "detector")
        features = Encoder(normalize="power").transform(paths)
    return folder / "detector", paths, features


def test_a_saved_detector_starts_within_two_seconds(photos):
    detector, paths, _ = photos
    code = "import sys; from dn2.commands import run_main; code = run_main(); "
    code += "sys.exit(9 if {'torch', 'timm', 'mlflow'} & set(sys.modules) else code)"
    command = [sys.executable, "-c", code, "score", str(detector), paths[50], "--json"]
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
        )
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["images"][0]["path"] == paths[50]
    assert min(seconds) < 2


def test_features_are_the_benchmarks(photos):
    import dn2

    detector, paths, features = photos
    loaded = dn2.load(detector)
    np.testing.assert_allclose(loaded.features_, features[:40], rtol=1e-5, atol=1e-6)
    scores = np.array([one.score for one in loaded.score(paths[40:]).images])
    expected = dn2.DN2(k=5).fit(features[:40]).anomaly_score(features[40:])
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_an_export_gives_the_same_features(photos, tmp_path, weights_home, monkeypatch):
    import onnxruntime

    import dn2
    from dn2.crops import read_crop
    from dn2.exporting import export_onnx

    detector, paths, features = photos
    monkeypatch.setenv("DN2_HOME", str(weights_home))
    assert export_onnx(dn2.load(detector), tmp_path / "net.onnx") == 1280
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    (found,) = session.run(None, {"images": np.stack([read_crop(path) for path in paths[:3]])})
    np.testing.assert_allclose(found, features[:3], rtol=1e-3, atol=1e-5)
