"""Run the code of docs/extend.md: its four extensions obey the laws of their tables."""

import importlib
import json
import re
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision

import dn2.encoders
from benchmarks import detectors, protocols
from benchmarks.__main__ import run_main
from benchmarks.datasets import DATASETS, catalogue, load_dataset
from benchmarks.detectors import DETECTORS, method
from benchmarks.protocols import PROTOCOLS
from dn2 import Encoder
from dn2.encoders import ENCODERS, load_encoder
from dn2.outside import import_outside
from tests.benchmarks.datasets import test_datasets as dataset_laws
from tests.benchmarks.detectors.test_detector_laws import LAWS
from tests.benchmarks.protocols import test_protocols as protocol_laws

PAGE = (Path(__file__).parent.parent / "docs" / "extend.md").read_text(encoding="utf-8")
SECTIONS = {
    title: re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for title, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
}
SYNTHETIC = ("--dataset", "synthetic")
ONE_CLASS = (*SYNTHETIC, "--classes", "disc")
PROTOCOL_LAWS = [
    protocol_laws.test_laws,
    protocol_laws.test_the_seed_determines_the_draw_and_global_state_is_untouched,
    protocol_laws.test_no_draw_depends_on_the_order_or_number_of_classes_asked_for,
    protocol_laws.test_every_parameter_has_a_default_and_definitions_fit_a_line,
]


@pytest.fixture
def add(monkeypatch):
    """Add what a section shows to a table, as a reader would: a module, and an entry."""

    def add_section(title, table, names, module_name=""):
        code, entry = SECTIONS[title]
        scope = dict(names)
        if module_name:
            module = types.ModuleType(module_name)
            exec(code, vars(module))
            monkeypatch.setitem(sys.modules, module_name, module)
            scope |= vars(module)
        ((name, added),) = eval("{" + entry + "}", scope).items()
        monkeypatch.setitem(table, name, added)
        return name

    return add_section


@pytest.fixture
def detector(add):
    return add("A detector", DETECTORS, vars(detectors), "baselines.mean_distance")


@pytest.fixture
def protocol(add):
    return add("A protocol", PROTOCOLS, vars(protocols), "benchmarks.protocols.several_normal")


@pytest.fixture
def dataset(add):
    return add("A data set", DATASETS, vars(catalogue), "benchmarks.datasets.digits")


@pytest.fixture
def encoder(add):
    return add("An encoder", ENCODERS, vars(dn2.encoders))


@pytest.fixture
def run(store, weights_home, monkeypatch):
    """Do what `python -m benchmarks run` does, in a folder of its own."""
    monkeypatch.setenv("DN2_HOME", str(weights_home))
    return lambda *arguments, verb="run": run_main([verb, *arguments])


@pytest.fixture
def write(store, monkeypatch):
    """Write the file that a section shows into the working directory, as a reader would."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    cached = (
        import_outside,
        method._outside_entry,
        method.load_class,
        dn2.encoders._outside_encoder,
    )

    def forget():
        for name in {"mean_distance", "digits", "my_encoder"} - before:
            sys.modules.pop(name, None)
        for function in cached:
            function.cache_clear()
        importlib.invalidate_caches()

    def write_file(title, name, change=lambda code: code):
        Path(name).write_text(change(SECTIONS[title][0]))
        forget()  # as another process would

    yield write_file
    forget()


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_the_detector_obeys_the_laws(detector, law):
    law(detector)


def test_the_detector_has_the_parameter_that_the_page_sets(detector, run):
    assert detectors.detector_params(detector, "", {"power": 1}) == {"power": 1.0}
    small = ("--dataset", "synthetic", "--classes", "disc")
    assert run("--detector", detector, "--set", "power=1,2", *small) == 0


@pytest.mark.parametrize("law", PROTOCOL_LAWS, ids=lambda law: law.__name__)
def test_the_protocol_obeys_the_laws(protocol, law):
    law(protocol)


@pytest.mark.parametrize("n_normal", [1, 2, 3])
def test_the_protocol_is_what_its_definition_says(protocol, n_normal):
    labels, is_train = protocol_laws.LABELS, protocol_laws.IS_TRAIN
    for split in protocol_laws.splits_of(protocol, n_normal=n_normal):
        number = protocol_laws.CLASSES.index(split.class_name)
        normal = {(number + after) % 4 for after in range(n_normal)}
        assert set(labels[split.train]) == normal
        assert len(split.train) == sum(is_train & [label in normal for label in labels])
        assert split.is_anomaly.tolist() == [label not in normal for label in labels[split.test]]


def test_the_protocol_refuses_two_classes(protocol):
    with pytest.raises(ValueError, match="n_normal=2 of 2 classes leaves none"):
        list(PROTOCOLS[protocol].function(*protocol_laws.FEW, ("cat", "dog")))


def test_the_protocol_gets_its_parameter_by_set(protocol, run, capfd):
    assert run(*SYNTHETIC, "--protocol", protocol, "--set", "n_normal=3", "--json") == 0
    (ran,) = json.loads(capfd.readouterr().out)["runs"]
    assert ran["params"]["n_normal"] == 3
    assert {split["n_train"] for split in ran["splits"]} == {120}
    assert run(*SYNTHETIC, "--protocol", protocol, "--set", "n_normal=1,2") == 2
    assert "--set n_normal takes one value, got 1,2" in capfd.readouterr().err
    assert run(*SYNTHETIC, "--protocol", protocol, "--set", "n_normals=1") == 2
    assert "Did you mean n_normal?" in capfd.readouterr().err


def test_the_data_set_obeys_the_laws(dataset, tmp_path):
    def loaded(name):
        return load_dataset(name, home=tmp_path)

    dataset_laws.test_a_data_set_keeps_its_contract(dataset, loaded)
    dataset_laws.test_a_fingerprint_is_of_images_labels_and_partition(dataset, loaded)
    dataset_laws.test_an_entry_is_filled_in(dataset)


def test_the_data_set_runs(dataset, run):
    """With a detector on pixels, so that no image is encoded."""
    assert run("--dataset", dataset, "--detector", "ocsvm", "--classes", "zero,one") == 0


def test_the_encoder_is_torchvisions(encoder):
    entry = ENCODERS[encoder]
    weights = torchvision.models.get_model_weights(encoder).IMAGENET1K_V1
    assert entry.source == f"url:{weights.url}"
    assert entry.filename == weights.url.rpartition("/")[2]
    assert entry.filename == f"{encoder}-{entry.sha256}.pth"
    assert entry.size_bytes / 2**20 == pytest.approx(weights.meta["_file_size"], abs=6e-3)
    transform = weights.transforms()
    assert (entry.mean, entry.std) == (tuple(transform.mean), tuple(transform.std))


def test_the_encoder_gives_features_of_the_width_that_it_states(encoder, tmp_path, monkeypatch):
    """With untrained weights, as nothing is downloaded here."""
    file = tmp_path / ENCODERS[encoder].filename
    torch.save(torchvision.models.get_model(encoder, weights=None).state_dict(), file)
    monkeypatch.setitem(ENCODERS, encoder, replace(ENCODERS[encoder], sha256=""))
    network = load_encoder(encoder, file)
    assert network(torch.zeros(1, 3, 224, 224)).shape == (1, ENCODERS[encoder].width)


def runs_of(capfd):
    return json.loads(capfd.readouterr().out)["runs"]


def test_a_detector_runs_without_an_edit(write, run, capfd):
    """A changed file is another detector, and an unchanged one is looked up."""
    write("A detector", "mean_distance.py")
    asked = (*ONE_CLASS, "--detector", "mean_distance:MeanDistance,dn2", "--json")
    assert run(*asked, "--set", "power=1,2") == 0
    first = runs_of(capfd)
    detectors = ["mean_distance:MeanDistance", "mean_distance:MeanDistance", "dn2"]
    assert [one["detector"] for one in first] == detectors
    assert [one["params"].get("power") for one in first] == [1.0, 2.0, None]
    assert all(one["rocauc"] > 0.7 for one in first)
    assert run(*asked) == 0
    assert [one["run_id"] for one in runs_of(capfd)] == [one["run_id"] for one in first[1:]]
    write("A detector", "mean_distance.py", lambda code: code + "# changed\n")
    assert run(*asked) == 0
    ours, dn2s = runs_of(capfd)
    assert ours["key"] not in {one["key"] for one in first}
    assert dn2s["key"] == first[-1]["key"]


def test_a_detector_on_pixels_says_so_in_its_class(write, run, capfd):
    code = "    input = 'pixels:8'\n\n    def __init__"
    flat = "X = X.reshape(len(X), -1)\n        self.mean_"
    write(
        "A detector",
        "mean_distance.py",
        lambda text: (
            text.replace("    def __init__", code)
            .replace("self.mean_ = ", f"{flat} = ")
            .replace(
                "        if X.shape[1]", "        X = X.reshape(len(X), -1)\n        if X.shape[1]"
            )
        ),
    )
    assert run(*ONE_CLASS, "--detector", "mean_distance:MeanDistance", "--json") == 0
    (ran,) = runs_of(capfd)
    assert ran["input"] == "pixels:8"
    assert 0 < ran["rocauc"] <= 1


def test_a_detector_is_swept_without_an_edit(write, run, capfd, tmp_path):
    write(
        "A detector",
        "mean_distance.py",
        lambda code: (
            "from typing import Annotated\n"
            + code.replace("power=2.0", 'power: Annotated[float, {"search": (1.0, 2.0)}] = 2.0')
        ),
    )
    small = ("--encoders", "efficientnet_lite0", "--normalize", "none", "--json")
    detector = ("--detector", "mean_distance:MeanDistance")
    storage = ("--storage", f"sqlite:///{tmp_path}/study.db")  # the home outlives the test
    assert run(*ONE_CLASS, *detector, *small, *storage, verb="sweep") == 0
    trials = json.loads(capfd.readouterr().out)["trials"]
    assert sorted(trial["params"]["power"] for trial in trials) == [1.0, 2.0]


@pytest.mark.slow
def test_a_detector_runs_without_an_edit_in_other_processes(write, run, capfd):
    write("A detector", "mean_distance.py")
    asked = (*SYNTHETIC, "--detector", "mean_distance:MeanDistance", "--json")
    assert run(*asked) == 0
    (here,) = runs_of(capfd)
    assert run(*asked, "--force", "--executor", "processes", "--workers", "2") == 0
    (there,) = runs_of(capfd)
    assert (there["key"], there["rocauc"]) == (here["key"], here["rocauc"])


def test_a_data_set_is_loaded_without_an_edit(write, run, capfd):
    write("A data set", "digits.py")
    asked = ("--dataset", "digits:load", "--detector", "ocsvm", "--classes", "zero", "--json")
    assert run(*asked) == 0
    (ran,) = runs_of(capfd)
    assert ran["dataset"] == "digits:load"
    assert ran["splits"][0]["n_test"] == 797
    assert run(*asked) == 0
    assert runs_of(capfd)[0]["run_id"] == ran["run_id"]
    write("A data set", "digits.py", lambda code: code.replace("1_000", "900"))
    assert run(*asked) == 0
    (changed,) = runs_of(capfd)
    assert changed["key"] != ran["key"]
    assert changed["splits"][0]["n_test"] == 897


def save_weights(seed):
    torch.manual_seed(seed)
    network = torchvision.models.shufflenet_v2_x0_5(weights=None)
    torch.save(network.state_dict(), "my_weights.pth")


def test_an_encoder_is_made_without_an_edit(write, run, capfd):
    """Its features are those of the network, and other weights are another encoder."""
    save_weights(0)
    write("An encoder", "my_encoder.py")
    asked = (*ONE_CLASS, "--encoder", "my_encoder:make", "--engine", "torch", "--json")
    assert run(*asked) == 0
    (ran,) = runs_of(capfd)
    assert ran["input"] == "features:my_encoder:make"
    images = load_dataset("synthetic", home=Path()).images[:3]
    features = Encoder("my_encoder:make", engine="torch").transform(images)
    assert features.shape == (3, 1024)
    save_weights(1)
    assert run(*asked, verb="plan") == 0
    assert planned(capfd)["key"] == ran["key"]  # within one process, the encoder is made once
    dn2.encoders._outside_encoder.cache_clear()
    assert run(*asked, verb="plan") == 0
    changed = planned(capfd)
    assert changed["key"] != ran["key"]
    assert changed["features"] == "240 to compute"


def planned(capfd):
    (cell,) = json.loads(capfd.readouterr().out)["cells"]
    return cell
