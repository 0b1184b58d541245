"""What is asked for becomes cells: inputs, variants, presets, seeds; and what must be refused."""

from pathlib import Path

import pytest
import torch

from benchmarks.contracts import UsageError, Workspace
from benchmarks.datasets import load_dataset
from benchmarks.detectors import DETECTORS, beside_paper_settings, detector_params, same_fit
from benchmarks.experiments import check_early, make_experiments, resolve

TRAINED = [name for name, entry in DETECTORS.items() if entry.presets]


def cells(*detectors, **asked):
    return make_experiments(datasets=["synthetic"], detectors=detectors, **asked)


def test_the_rivals_are_trained_and_have_a_preset_for_a_laptop():
    assert TRAINED == ["geom", "deep_svdd", "goad", "mhrot"]
    assert all(set(DETECTORS[name].presets) == {"cpu"} and DETECTORS[name].draws for name in TRAINED)


@pytest.mark.parametrize("name", DETECTORS)
def test_every_variant_and_preset_sets_known_parameters(name):
    entry = DETECTORS[name]
    for variant in ("", *entry.variants):
        for preset in ("paper", "cpu"):
            assert detector_params(name, variant, {}, preset).keys() == entry.defaults.keys()
    if entry.default_variant:
        assert detector_params(name, entry.default_variant, {}) == dict(entry.defaults)


@pytest.mark.parametrize("name", ["geom", "goad", "mhrot"])
def test_the_laptops_budget_is_sixty_thousand_images_through_a_network(name):
    views = {"geom": 72, "goad": 72, "mhrot": 36}
    for variant in ("", *DETECTORS[name].variants):
        params = detector_params(name, variant, {}, "cpu")
        n = 4 if params.get("transformations") == "rotation" or params.get("resolution") == "high" else views[name]
        assert 0 < params["max_images"] * n * params["epochs"] <= 60_000


def test_what_is_asked_for_beats_the_variants_preset_which_beats_the_variant_which_beats_the_preset():
    assert detector_params("geom", "", {}, "cpu")["epochs"] == 1
    assert detector_params("geom", "rotation", {})["epochs"] == 16
    assert detector_params("geom", "rotation", {}, "cpu")["epochs"] == 3
    assert detector_params("geom", "rotation", {"epochs": 5}, "cpu")["epochs"] == 5
    assert detector_params("deep_svdd", "one_class_not_pretrained", {}, "cpu")["pretrain_epochs"] == 0
    assert detector_params("deep_svdd", "one_class_not_pretrained", {}, "cpu")["epochs"] == 15


def test_a_preset_is_part_of_the_key_and_of_the_params_where_there_is_one():
    paper, cpu = cells("geom", presets=["paper", "cpu"])
    assert (paper.params["preset"], cpu.params["preset"]) == ("paper", "cpu")
    assert len({paper.key, cpu.key, cpu.with_params(**paper.detector_params).key}) == 3
    assert beside_paper_settings(paper) == {}
    assert beside_paper_settings(cpu) == {"epochs": (1, 3), "max_images": (833, 0)}
    for cell in cells("dn2", "ocsvm", "geom", presets=["cpu"])[:2]:
        assert cell.params["preset"] == "none"


def test_a_cell_of_dn2_has_the_key_it_had_before_there_were_presets():
    """Pinned: a run that is finished stays finished."""
    (cell,) = cells("dn2")
    assert cell.key == "cf7c9c4b116c40d2f519"


def test_an_unnamed_variant_is_the_default_one():
    assert [cell.variant for cell in cells("ocsvm", variants=["", "label_free", "oracle"])] == ["label_free", "oracle"]
    assert [cell.variant for cell in cells("dn2")] == [""]


def test_detectors_on_pixels_get_pixels_of_the_size_asked_for():
    assert [cell.input for cell in cells("geom", "dn2")] == ["pixels", "features:efficientnet_lite0"]
    assert [cell.input for cell in cells("geom", size=64)] == ["pixels:64"]
    assert [cell.input for cell in cells("mhrot", variants=["low", "high"])] == ["pixels", "pixels:256"]
    encoders = ["efficientnet_lite0", "efficientnet_lite1"]
    assert len(cells("geom", encoders=encoders)) == 1
    assert len(cells("dn2", encoders=encoders, normalize=["none", "l2"])) == 4


def test_seeds_are_cells_of_detectors_that_draw_and_of_no_other():
    found = cells("dn2", "ocsvm", "dn2_kmeans", "geom", seed=3, seeds=2)
    assert [(cell.detector, cell.seed) for cell in found] == [
        ("dn2", 3),
        ("ocsvm", 3),
        ("dn2_kmeans", 3),
        ("dn2_kmeans", 4),
        ("geom", 3),
        ("geom", 4),
    ]
    assert len({cell.key for cell in found}) == 6
    assert len(same_fit(found)) == 6


def test_whole_numbers_are_fractions_where_the_default_is_one():
    assert cells("ocsvm", params={"nu": [1]})[0].key == cells("ocsvm", params={"nu": [1.0]})[0].key


@pytest.mark.parametrize(
    ("detector", "asked", "complaint"),
    [
        ("geom", {"normalize": ["l2"]}, "normalize is for features, and geom looks at pixels, got l2: leave it out"),
        ("geom", {"presets": ["papr"]}, "unknown preset 'papr'. Did you mean paper"),
        ("dn2", {"presets": ["papr"]}, "unknown preset 'papr'. Did you mean paper"),
        ("dn2", {"presets": ["cpu"]}, "dn2 trains nothing and has no presets, got cpu: leave it out"),
        ("ocsvm", {"presets": ["cpu"]}, "ocsvm trains nothing"),
        ("geom", {"seeds": 0}, "seeds must be at least 1, got 0"),
        ("geom", {"seed": -1}, "seed must be at least 0, got -1"),
        ("geom", {"size": -1}, "size must be at least 0, got -1"),
        ("dn2", {"size": 32}, "size is for detectors on pixels, and dn2 has features, got 32"),
        ("dn2", {"variants": ["rotation"]}, "detector 'dn2' has no variants, got 'rotation'"),
        ("geom", {"variants": ["rotations"]}, "Did you mean rotation"),
        ("geom", {"params": {"epoch": [1]}}, "has no parameter 'epoch': it has transformations"),
        ("geom", {"presets": []}, "preset needs at least one value"),
        ("geom", {"protocol": "groups"}, "take one of dn2_group"),
    ],
)
def test_what_cannot_be_is_refused(detector, asked, complaint):
    with pytest.raises(UsageError, match=complaint):
        cells(detector, **asked)


def test_the_arithmetic_of_this_machine_is_part_of_a_trained_cells_key(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": False}, raising=False)
    dataset, [geom, dn2] = load_dataset("synthetic", home=Path("nowhere")), cells("geom", "dn2", device="cpu")
    plain = resolve(geom, dataset, {})
    assert plain.resolved["arithmetic"] == "float32 on cpu"
    assert "arithmetic" not in resolve(dn2, dataset, {}).resolved
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    assert resolve(geom, dataset, {}).key != plain.key


def test_a_device_that_is_not_there_is_refused_before_any_work(tmp_path):
    with pytest.raises(UsageError, match="unknown device 'cudda'"):
        check_early(cells("deep_svdd", device="cudda"), Workspace(tmp_path))
