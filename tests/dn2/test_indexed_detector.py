"""A detector with an approximate index: saved, loaded without building, equal scores, recall."""

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from dn2_servers import Dn2Server
from toy_encoder import write_pictures

from dn2 import ImageDetector, image_detector, saving
from dn2.calibration import p_values
from dn2.commands import run_main
from dn2.detector import mean_of_nearest
from dn2.images import ALL_LEVELS
from dn2.saving import BadDetectorError, change_detector, load
from dn2.search import Bank, approximate, nearest

ROOT = Path(__file__).parent.parent.parent
N = 1200
KINDS = ("hnsw", "ivf")


@pytest.fixture(scope="module")
def pictures(home):
    return write_pictures(home / "good", 40)


@pytest.fixture(scope="module")
def encoded(pictures):
    """The networks, and features of N images: of a few pictures, and mixtures of two."""
    few = ImageDetector("toy").fit(pictures)
    rng = np.random.default_rng(0)
    a, b = few.features_[rng.integers(0, 40, (2, N))]
    share = rng.random((N, 1), np.float32)
    return few.networks_, share * a + (1 - share) * b + 0.01 * rng.random((N, 48), np.float32)


def fit(encoded, index, n=N, **params):
    """Fit to features, as `ImageDetector.fit` does to images."""
    detector = ImageDetector("toy", index=index, **params)
    detector.networks_, detector.levels_ = encoded[0], ALL_LEVELS
    in_bank = np.ones(n, dtype=bool)
    in_bank[: round(detector.holdout * n)] = False
    detector._keep(tuple(f"/good/{i}.png" for i in range(n)), encoded[1][:n], in_bank)
    return detector


@pytest.fixture(scope="module", params=KINDS)
def fitted(request, encoded):
    return fit(encoded, request.param)


@pytest.fixture
def saved(fitted, tmp_path):
    fitted.save(tmp_path / "saved")
    return tmp_path / "saved"


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def values(scores):
    return [(one.score, one.p_value, one.nearest) for one in scores.images]


@pytest.mark.parametrize("mapped_from", [1, 2**26])
def test_a_loaded_detector_builds_nothing_and_scores_equally(
    fitted, saved, pictures, monkeypatch, mapped_from
):
    monkeypatch.setattr(saving, "MAPPED_BYTES", mapped_from)
    monkeypatch.setattr(approximate.KINDS[fitted.index], "build", None)
    loaded = load(saved)
    assert (loaded.index, loaded.recall_) == (fitted.index, fitted.recall_)
    assert isinstance(loaded.features_, np.memmap) == (mapped_from == 1)
    expected = values(fitted.score(pictures))
    assert values(loaded.score(pictures)) == expected
    assert [values(loaded.score([path]))[0] for path in pictures] == expected
    loaded.save(saved.with_name("again"))
    assert values(load(saved.with_name("again")).score(pictures)) == expected


def test_distances_are_measured_and_p_values_come_from_the_same_index(fitted, encoded, pictures):
    found = fitted.score(pictures)
    queries = ImageDetector("toy").fit(pictures).features_
    for one, query in zip(found.images, queries, strict=True):
        rows = [int(near.path.split("/")[-1][:-4]) for near in one.nearest]
        true = ((encoded[1][rows].astype(float) - query) ** 2).sum(axis=1)
        np.testing.assert_allclose([near.distance for near in one.nearest], true, rtol=1e-6)
    alone = Bank(encoded[1], index=fitted.index, device="numpy").nearest(
        encoded[1], 5, exclude_self=True
    )
    np.testing.assert_array_equal(fitted.calibration_, mean_of_nearest(alone[0]))
    scores = np.array([one.score for one in found.images])
    np.testing.assert_array_equal(
        [one.p_value for one in found.images], p_values(scores, fitted.calibration_)
    )


def test_the_recall_is_the_share_of_the_nearest_that_is_found(encoded, monkeypatch):
    found = approximate.HNSW.find

    def every_second_is_missed(self, queries, k):
        nodes = found(self, queries, 2 * k)
        return np.concatenate([nodes[:, :1], nodes[:, 1::2]], axis=1)[:, :k]

    monkeypatch.setattr(image_detector, "RECALL_IMAGES", N)
    honest = fit(encoded, "hnsw")
    monkeypatch.setattr(approximate.HNSW, "find", every_second_is_missed)
    worse = fit(encoded, "hnsw")
    assert 0.95 < honest.recall_ <= 1
    assert worse.recall_ == pytest.approx(0.6, abs=0.03)  # the 1st, 3rd and 5th of five
    assert fit(encoded, "hnsw", 900).recall_ == 1
    assert fit(encoded, "exact").recall_ is None


@pytest.mark.parametrize("holdout", [0, 0.5])
def test_of_very_many_images_some_are_drawn_for_the_calibration(encoded, monkeypatch, holdout):
    monkeypatch.setattr(image_detector, "MOST_CALIBRATED", 100)
    few, exact = (fit(encoded, index, holdout=holdout) for index in ("hnsw", "exact"))
    assert len(few.calibration_) == 100
    assert len(exact.calibration_) == N * (holdout or 1)
    assert np.isin(few.calibration_, exact.calibration_).mean() > 0.9
    other = fit(encoded, "hnsw", holdout=holdout, seed=1)
    assert not np.array_equal(few.calibration_, other.calibration_)


def test_the_exact_calibration_is_that_of_each_row_without_itself(encoded):
    rows = np.concatenate([encoded[1][:300], encoded[1][:20]])  # copies hide each other
    detector = fit((encoded[0], rows), "exact", 320, k=3)
    distances, _ = nearest(rows, rows, 3, exclude_self=True, device="numpy")
    np.testing.assert_array_equal(detector.calibration_, mean_of_nearest(distances))
    assert detector.n_copies_ == 40


def test_adding_and_removing_build_it_again(fitted, saved, pictures, encoded, monkeypatch):
    change_detector(saved, lambda loaded: loaded.add(pictures[:3]))
    change_detector(saved, lambda loaded: loaded.remove(["/good/7.png", "/good/8.png"]))
    changed = load(saved)
    rows = np.concatenate([encoded[1], fitted_features(pictures[:3])])
    fresh = fit((encoded[0], np.delete(rows, [7, 8], 0)), fitted.index, N + 1)
    np.testing.assert_array_equal(changed.calibration_, fresh.calibration_)
    assert changed.recall_ == fresh.recall_
    expected, found = values(fresh.score(pictures[:9])), values(changed.score(pictures[:9]))
    assert [one[:2] for one in found] == [one[:2] for one in expected]
    assert [one[0] for one in found[:3]] != [one[0] for one in values(fitted.score(pictures[:3]))]
    graphs = [path.name for path in saved.glob("index-*")]
    assert graphs == [manifest_of(saved)["graph"]]


def fitted_features(paths):
    return ImageDetector("toy", k=1).fit(paths).features_


@pytest.mark.parametrize("stem", ["index", "index_centre"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_index_is_refused(saved, stem, damage):
    (path,) = saved.glob(f"{stem}-*")
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[:-1] if damage == "cut" else content)
    says = {"flip": "was altered", "cut": "is cut short", "gone": "is missing"}[damage]
    with pytest.raises(BadDetectorError, match=rf"{stem}-.* {says}"):
        load(saved)


def rewrite(folder, change, content=None):
    """Change the manifest, and perhaps the index, as somebody would who knows the digests."""
    manifest = manifest_of(folder)
    change(manifest)
    if content is not None:
        (folder / manifest["graph"]).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        manifest["files"][manifest["graph"]] = {"bytes": len(content), "sha256": digest}
    manifest["sha256"] = saving._digest(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_an_index_of_other_rows_or_none_at_all_is_refused(fitted, saved, encoded, tmp_path):
    other = fit(encoded, fitted.index, 1100)
    other.save(tmp_path / "other")
    graph = (tmp_path / "other" / manifest_of(tmp_path / "other")["graph"]).read_bytes()
    for content in (graph, b"no index"):
        rewrite(saved, lambda manifest: None, content)
        with pytest.raises(BadDetectorError, match=r"does not describe a detector"):
            load(saved)


def test_without_an_index_older_programs_can_read_it(encoded, fitted, saved, tmp_path, pictures):
    exact = fit(encoded, "exact")
    exact.save(tmp_path / "exact")
    assert (manifest_of(tmp_path / "exact")["format"], manifest_of(saved)["format"]) == (1, 2)
    rewrite(tmp_path / "exact", lambda manifest: manifest.pop("index"))  # as they wrote it
    assert load(tmp_path / "exact").index == "exact"
    assert values(load(tmp_path / "exact").score(pictures)) == values(exact.score(pictures))
    rewrite(saved, lambda manifest: manifest.update(index="pq"))
    with pytest.raises(BadDetectorError, match="index 'pq' is unknown"):
        load(saved)


def test_another_process_scores_equally_without_torch(fitted, saved, pictures):
    code = (
        "import sys; from dn2.commands import run_main; code = run_main()\n"
        "sys.exit(9 if {'torch', 'timm', 'mlflow', 'sklearn'} & set(sys.modules) else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "score", str(saved), "--json", *pictures],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    )
    assert done.returncode == 0, done.stderr
    expected = {one.path: one for one in fitted.score(pictures).images}
    told = json.loads(done.stdout)["images"]
    assert len(told) == len(expected)
    for one in told:
        assert one["score"] == pytest.approx(expected[one["path"]].score, rel=1e-6)
        assert one["p_value"] == expected[one["path"]].p_value
        assert one["nearest"][4]["path"] == expected[one["path"]].nearest[4].path


@pytest.mark.slow
def test_a_server_scores_equally_without_torch(fitted, saved, pictures, tmp_path):
    server = Dn2Server(saved, tmp_path)
    try:
        files = [(Path(path).name, Path(path).read_bytes()) for path in pictures]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(server.score, [[file] for file in files] + [files] * 8))
        about = server.ask("GET", "/version")[1]["detector"]
    finally:
        server.stop()
    expected = [one.score for one in fitted.score(pictures).images]
    assert {status for status, _ in answers} == {200}
    alone = [body["images"][0]["score"] for _, body in answers[: len(files)]]
    np.testing.assert_allclose(alone, expected, rtol=1e-6)
    for _, body in answers[len(files) :]:
        np.testing.assert_allclose([one["score"] for one in body["images"]], expected, rtol=1e-6)
    assert (about["index"], about["recall"]) == (fitted.index, fitted.recall_)
    assert server.output.read_text() == "heavy: faiss\n"


def test_the_commands_say_what_the_index_does(saved, fitted, pictures, tmp_path, capsys):
    assert run_main(["info", str(saved)]) == 0
    told = f"{fitted.index} found {fitted.recall_:.1%} of the 5 nearest of 200 normal images"
    assert told in capsys.readouterr().out
    assert run_main(["add", str(saved), pictures[5]]) == 0
    assert f"the index {fitted.index} is built again" in capsys.readouterr().err
    few = [*pictures, "--encoder", "toy", "--index", fitted.index, "--out", str(tmp_path / "few")]
    assert run_main(["fit", *few]) == 0
    told = f"of 40 images the search is exact: {fitted.index} is used from 1,000 on"
    assert f"note: {told}" in capsys.readouterr().err
    assert run_main(["info", str(tmp_path / "few")]) == 0
    assert told in capsys.readouterr().out
    assert run_main(["add", str(tmp_path / "few"), *write_pictures(tmp_path / "more", 1, 90)]) == 0
    assert "built" not in capsys.readouterr().err
    assert run_main(["score", str(tmp_path / "few"), pictures[0]]) == 0
