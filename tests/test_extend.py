"""Run the code of docs/extend.md: its four extensions obey the laws of their tables."""

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
from benchmarks.detectors import DETECTORS
from benchmarks.protocols import PROTOCOLS
from dn2.encoders import ENCODERS, load_encoder
from tests.benchmarks.datasets import test_datasets as dataset_laws
from tests.benchmarks.detectors.test_detector_laws import LAWS
from tests.benchmarks.protocols import test_protocols as protocol_laws

PAGE = (Path(__file__).parent.parent / "docs" / "extend.md").read_text(encoding="utf-8")
SECTIONS = {
    title: re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for title, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
}
PROTOCOL_LAWS = [
    protocol_laws.test_laws,
    protocol_laws.test_the_seed_determines_the_draw_and_global_state_is_untouched,
    protocol_laws.test_no_draw_depends_on_the_order_or_number_of_classes_asked_for,
    protocol_laws.test_defaults_are_those_of_the_function_and_definitions_fit_a_line,
]


@pytest.fixture
def add(monkeypatch):
    """Add what a section shows to a table, as a reader would: a module, and an entry."""

    def add_section(title, table, names, module_name=""):
        *code, entry = SECTIONS[title]
        scope = dict(names)
        if code:
            module = types.ModuleType(module_name)
            exec(code[0], vars(module))
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
    return add("A protocol", PROTOCOLS, vars(protocols), "benchmarks.protocols.two_normal")


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
    return lambda *arguments: run_main(["run", *arguments])


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


def test_the_protocol_is_what_its_definition_says(protocol):
    labels, is_train = protocol_laws.LABELS, protocol_laws.IS_TRAIN
    for split in protocol_laws.splits_of(protocol):
        number = protocol_laws.CLASSES.index(split.class_name)
        normal = {number, (number + 1) % 4}
        assert set(labels[split.train]) == normal
        assert len(split.train) == sum(is_train & [label in normal for label in labels])
        assert split.is_anomaly.tolist() == [label not in normal for label in labels[split.test]]


def test_the_protocol_refuses_two_classes(protocol):
    with pytest.raises(ValueError, match="needs at least 3 classes, got 2"):
        list(PROTOCOLS[protocol].function(*protocol_laws.FEW, ("cat", "dog")))


def test_the_protocol_runs(protocol, run):
    assert run("--dataset", "synthetic", "--protocol", protocol) == 0


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
