"""What is asked for becomes cells: inputs, variants, presets, seeds; and what must be refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.contracts import UsageError, Workspace
from benchmarks.datasets import DATASETS, load_dataset
from benchmarks.detectors import (
    DETECTORS,
    SLOWER,
    beside_paper_settings,
    defaults,
    detector_params,
    draws,
    make_detector,
    slow_arithmetic,
)
from benchmarks.experiments import check_early, make_experiments, resolve, same_fit
from benchmarks.report.notes import budgets
from benchmarks.session import Session

CPU_GEOM = {
    "epochs": (2, 3),
    "width": (1, 4),
    "learning_rate": (3e-3, 1e-3),
    "schedule": ("cosine", "constant"),
    "max_images": (6000, 0),
}

TRAINED = [name for name, entry in DETECTORS.items() if entry.presets]


def cells(*detectors, **asked):
    return make_experiments(datasets=["synthetic"], detectors=detectors, **asked)


def test_the_baselines_are_trained_and_have_a_preset_for_a_laptop():
    assert TRAINED == ["geom", "deep_svdd", "goad", "mhrot"]
    assert all(set(DETECTORS[name].presets) == {"cpu"} and draws(name) for name in TRAINED)


@pytest.mark.parametrize("name", DETECTORS)
def test_every_variant_and_preset_sets_known_parameters(name):
    entry = DETECTORS[name]
    for variant in ("", *entry.variants):
        for preset in ("paper", "cpu"):
            assert detector_params(name, variant, {}, preset).keys() == defaults(name).keys()
    if entry.default_variant:
        assert detector_params(name, entry.default_variant, {}) == defaults(name)


@pytest.mark.parametrize("name", TRAINED)
def test_the_training_on_a_laptop_has_a_limit_of_images_through_a_network(name):
    views = {"geom": 72, "goad": 72, "mhrot": 36, "deep_svdd": 1}
    most = {"geom": 900_000, "goad": 1_300_000, "mhrot": 1_300_000, "deep_svdd": 180_000}
    for variant in ("", *DETECTORS[name].variants):
        for dataset in ("", *DETECTORS[name].for_dataset):
            params = detector_params(name, variant, {}, "cpu", dataset)
            n = 4 if params.get("transformations") == "rotation" else views[name]
            passed = (
                params["max_images"] * n * (params["epochs"] + params.get("pretrain_epochs", 0))
            )
            assert 0 < passed <= (5_400 if params.get("resolution") == "high" else most[name])
            if "width" in params:
                assert params["width"] == 1
                assert params["depth"] == 10
            assert DETECTORS[name].cpu_minutes > 0


def test_a_shortened_deep_svdd_still_drops_its_rate_and_learns_a_radius():
    params = detector_params("deep_svdd", "soft_boundary", {}, "cpu")
    assert 0 < params["drop_epoch"] < params["epochs"]
    assert 0 < params["pretrain_drop_epoch"] < params["pretrain_epochs"]
    assert params["warm_up_epochs"] < params["epochs"] / 2


def test_a_data_set_has_the_values_that_its_authors_give_for_it():
    goad = make_experiments(
        datasets=["cifar10", "fashion_mnist"], detectors=["goad"], presets=["paper", "cpu"]
    )
    assert [cell.detector_params["margin"] for cell in goad] == [0.1, 0.1, 1.0, 1.0]
    assert "margin" not in {name for cell in goad for name in beside_paper_settings(cell)}
    (asked,) = make_experiments(
        datasets=["fashion_mnist"], detectors=["goad"], params={"margin": [0.1]}
    )
    assert beside_paper_settings(asked) == {"margin": (0.1, 1.0)}
    paper, cpu = make_experiments(
        datasets=["cats_vs_dogs"], detectors=["geom"], presets=["paper", "cpu"]
    )
    assert paper.input == cpu.input == "pixels:64"
    assert (
        paper.detector_params["depth"],
        paper.detector_params["width"],
        beside_paper_settings(paper),
    ) == (16, 8, {})
    assert beside_paper_settings(cpu) == {**CPU_GEOM, "depth": (10, 16), "width": (1, 8)} | {
        "max_images": (1500, 0)
    }
    (small,) = make_experiments(datasets=["cats_vs_dogs"], detectors=["geom"], size=32)
    assert small.input == "pixels:32"


def test_data_sets_with_own_values_exist_and_set_known_parameters():
    for name, entry in DETECTORS.items():
        for dataset, changed in entry.for_dataset.items():
            assert dataset in DATASETS
            for preset in ("paper", "cpu"):
                assert (
                    detector_params(name, "", {}, preset, dataset).keys() == defaults(name).keys()
                )
            assert detector_params(name, "", {}, "paper", dataset) == {
                **defaults(name),
                **changed.params,
            }


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (
            ("mhrot", "low"),
            "the published settings; not as published: all of low resolution, which was never "
            "released",
        ),
        (("mhrot", "high"), "17 (WBC's smallest class) have 15 steps."),
        (
            ("geom", "dirichlet"),
            "the published settings; not as published: probabilities are kept above 0 before the "
            "logarithm.",
        ),
        (("geom", "simple"), "geom simple: the published settings."),
        (
            ("goad", ""),
            "the published settings; not as published: residual blocks keep the BatchNorm and "
            "ReLU ",
        ),
    ],
)
def test_what_is_not_as_published_is_said_of_the_published_settings_too(method, said):
    (cell,) = cells(method[0], variants=[method[1]])
    assert said in next(budgets([cell]))


def test_what_is_asked_for_beats_the_variants_preset_then_the_variant_then_the_preset():
    assert detector_params("geom", "", {}, "cpu")["epochs"] == 2
    assert detector_params("geom", "rotation", {})["epochs"] == 16
    assert detector_params("geom", "rotation", {}, "cpu")["epochs"] == 16
    assert detector_params("mhrot", "high", {}, "cpu")["epochs"] == 1
    assert detector_params("geom", "rotation", {"epochs": 5}, "cpu")["epochs"] == 5
    assert (
        detector_params("deep_svdd", "one_class_not_pretrained", {}, "cpu")["pretrain_epochs"] == 0
    )
    assert detector_params("deep_svdd", "one_class_not_pretrained", {}, "cpu")["epochs"] == 15


def test_a_preset_is_part_of_the_key_and_of_the_params_where_there_is_one():
    paper, cpu = cells("geom", presets=["paper", "cpu"])
    assert (paper.params["preset"], cpu.params["preset"]) == ("paper", "cpu")
    assert len({paper.key, cpu.key, cpu.with_params(**paper.detector_params).key}) == 3
    assert beside_paper_settings(paper) == {}
    assert beside_paper_settings(cpu) == CPU_GEOM
    for cell in cells("dn2", "ocsvm", "geom", presets=["cpu"])[:2]:
        assert cell.params["preset"] == "none"


def test_a_cell_of_dn2_has_the_key_it_had_before_there_were_presets():
    """Pinned: a run that is finished stays finished."""
    (cell,) = cells("dn2")
    assert cell.key == "cf7c9c4b116c40d2f519"


def test_an_unnamed_variant_is_the_default_one():
    assert [cell.variant for cell in cells("ocsvm", variants=["", "label_free", "oracle"])] == [
        "label_free",
        "oracle",
    ]
    assert [cell.variant for cell in cells("dn2")] == [""]


def test_detectors_on_pixels_get_pixels_of_the_size_asked_for():
    assert [cell.input for cell in cells("geom", "dn2")] == [
        "pixels",
        "features:efficientnet_lite0",
    ]
    assert [cell.input for cell in cells("geom", size=64)] == ["pixels:64"]
    assert [cell.input for cell in cells("mhrot", variants=["low", "high"])] == [
        "pixels",
        "pixels:256",
    ]
    encoders = ["efficientnet_lite0", "efficientnet_lite1"]
    assert len(cells("geom", "dn2", encoders=encoders)) == 1 + 2
    with pytest.raises(UsageError, match="encoder is for features, and geom looks at pixels"):
        cells("geom", encoders=encoders)
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
        (
            "geom",
            {"normalize": ["l2"]},
            "normalize is for features, and geom looks at pixels, got l2: leave it out",
        ),
        ("geom", {"presets": ["papr"]}, "unknown preset 'papr'. Did you mean paper"),
        ("dn2", {"presets": ["papr"]}, "unknown preset 'papr'. Did you mean paper"),
        (
            "dn2",
            {"presets": ["cpu"]},
            "dn2 trains nothing and has no presets, got cpu: leave it out",
        ),
        ("ocsvm", {"presets": ["cpu"]}, "ocsvm trains nothing"),
        ("geom", {"seeds": 0}, "seeds must be at least 1, got 0"),
        ("geom", {"seed": -1}, "seed must be at least 0, got -1"),
        ("geom", {"size": -1}, "size must be at least 0, got -1"),
        ("dn2", {"size": 32}, "size is for detectors on pixels, and dn2 has features, got 32"),
        ("dn2", {"variants": ["rotation"]}, "detector 'dn2' has no variants, got 'rotation'"),
        ("geom", {"variants": ["rotations"]}, "Did you mean rotation"),
        ("geom", {"params": {"epoch": [1]}}, "has no parameter 'epoch': it has transformations"),
        ("geom", {"params": {"epoch": [1]}}, "Did you mean epochs"),
        ("geom", {"params": {"device": ["cpu"]}}, "has no parameter 'device'"),
        ("geom", {"presets": []}, "preset needs at least one value"),
        (
            "ocsvm",
            {"params": {"nu": ["grid"]}},
            "'ocsvm label_free' chooses no point of a grid, got grid: .*--variant oracle",
        ),
        (
            "ocsvm",
            {"params": {"gamma": ["scale", "grid"]}, "variants": ["oracle", "label_free"]},
            "'ocsvm label_free' chooses",
        ),
        ("geom", {"protocol": "groups"}, "take one of dn2_group"),
    ],
)
def test_what_cannot_be_is_refused(detector, asked, complaint):
    with pytest.raises(UsageError, match=complaint):
        cells(detector, **asked)


def test_of_several_methods_each_gets_what_is_for_it():
    found = cells(
        "dn2",
        "ocsvm",
        "geom",
        normalize=["none", "l2"],
        params={"k": [1, 2], "nu": [0.1, 0.2], "epochs": [1]},
    )
    assert [
        (cell.detector, cell.normalize, cell.params.get("k"), cell.params.get("nu"))
        for cell in found
    ] == [
        ("dn2", "none", 1, None),
        ("dn2", "none", 2, None),
        ("dn2", "l2", 1, None),
        ("dn2", "l2", 2, None),
        ("ocsvm", "none", None, 0.1),
        ("ocsvm", "none", None, 0.2),
        ("geom", "none", None, None),
    ]
    assert found[-1].detector_params["epochs"] == 1
    with pytest.raises(UsageError, match="has no parameter 'kk'"):
        cells("dn2", "ocsvm", params={"kk": [1]})


def test_a_wrong_line_in_the_table_is_one_line(monkeypatch):
    monkeypatch.setitem(DETECTORS, "typo", replace(DETECTORS["dn2"], target="dn2.detector:DN3"))
    with pytest.raises(
        UsageError, match=r"DETECTORS\['typo'\] names 'dn2.detector:DN3', which cannot be imported"
    ):
        make_detector(cells("typo")[0])


def test_the_arithmetic_of_this_machine_is_part_of_a_trained_cells_key(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": False}, raising=False)
    dataset, [geom, dn2] = (
        load_dataset("synthetic", home=Path("nowhere")),
        cells("geom", "dn2", device="cpu"),
    )
    plain = resolve(geom, dataset, {})
    assert plain.resolved["arithmetic"] == "float32 on cpu"
    assert "arithmetic" not in resolve(dn2, dataset, {}).resolved
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    assert resolve(geom, dataset, {}).key != plain.key


@pytest.mark.parametrize(
    ("asked", "arithmetic", "said"),
    [
        ({"presets": ["cpu"]}, "float32 on cpu", "geom: this processor has no instructions for "),
        ({"presets": ["cpu"]}, "bfloat16 on cpu", None),
        ({"presets": ["cpu"]}, "float32 on cuda", None),
        ({"presets": ["paper"]}, "float32 on cpu", None),
        ({"presets": ["cpu"], "params": {"precision": ["float32"]}}, "float32 on cpu", None),
    ],
)
def test_a_preset_says_how_much_longer_it_takes_without_bfloat16(asked, arithmetic, said):
    cell, dn2 = cells("geom", "dn2", **asked)
    line = slow_arithmetic(replace(cell, resolved={"arithmetic": arithmetic}))
    if said is None:
        assert line is None
    else:
        minutes = DETECTORS["geom"].cpu_minutes
        assert line.startswith(said)
        assert line.endswith(
            f"some {SLOWER * minutes:.0f} minutes of CPU time instead of {minutes:g}"
        )
    assert slow_arithmetic(replace(dn2, resolved={})) is None


def test_a_session_says_so_once_for_each_detector(tmp_path, tracker, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    said = []
    session = Session(Workspace(tmp_path), tracker, say=said.append)
    made = cells("geom", "goad", presets=["cpu"], device="cpu")
    session.resolve(made)
    session.resolve(made)
    assert [line.split(":")[0] for line in said] == ["geom", "goad"]


def test_a_device_is_given_to_what_trains_and_is_part_of_no_key():
    dataset = load_dataset("synthetic", home=Path("nowhere"))
    for auto, on_cpu in zip(cells("geom", "dn2"), cells("geom", "dn2", device="cpu"), strict=True):
        assert (auto.device, on_cpu.device) == (None, "cpu")
        assert (on_cpu.key, on_cpu.params, on_cpu) == (auto.key, auto.params, auto)
        assert not beside_paper_settings(on_cpu)
        if not torch.cuda.is_available():
            assert resolve(on_cpu, dataset, {}).key == resolve(auto, dataset, {}).key
    assert make_detector(cells("geom", device="cpu")[0]).device == "cpu"
    assert make_detector(cells("geom")[0]).device is None


def test_a_device_that_is_not_there_is_refused_before_any_work(tmp_path):
    with pytest.raises(UsageError, match="unknown device 'cudda'"):
        check_early(cells("deep_svdd", device="cudda"), Workspace(tmp_path))
