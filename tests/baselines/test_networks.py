"""Networks: shapes, seeded weights, dropout, and compiling."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from wide_networks import CPU, generator, trained_like, wide

from baselines._inference import CompiledWideResNet
from baselines._networks import (
    COLOUR,
    DIGITS,
    AttentionResNet18,
    Autoencoder,
    DigitAutoencoder,
    Dropout,
    Encoder,
    WideResNet,
    build_network,
    draw_he_by_inputs,
    draw_uniform,
    draw_with_attention,
    draw_xavier,
    use_generator,
)
from baselines._preparation import autocast, pick_device, pick_precision


def test_wrn_10_4_has_one_block_a_stage_and_the_papers_widths():
    network = build_network(lambda: WideResNet(3, 72, 10, 4), CPU, generator())
    assert [block.conv2.out_channels for block in network.blocks] == [64, 128, 256]
    assert network.stem.out_channels == 16
    assert [block.conv1.stride[0] for block in network.blocks] == [1, 2, 2]
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 72)
    assert len(wide(16).blocks) == 6


def test_a_depth_that_makes_no_wide_resnet_is_refused():
    for depth in (4, 11, 12):
        with pytest.raises(ValueError, match=f"6 n \\+ 4 .* got {depth}"):
            WideResNet(3, 7, depth)


def test_an_identity_block_is_batchnorm_relu_convolution_twice():
    block = wide(16).blocks[1].eval()
    assert block.project is None
    x = torch.randn(2, 16, 8, 8, generator=generator())
    nn.init.normal_(block.norm1.bias, generator=generator())
    inner = F.conv2d(F.relu(block.norm1(x)), block.conv1.weight, padding=1)
    expected = x + F.conv2d(F.relu(block.norm2(inner)), block.conv2.weight, padding=1)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda: WideResNet(1, 72, 10, 1),
        lambda: AttentionResNet18(3, 10),
        lambda: Encoder(3, 32, COLOUR),
        lambda: Autoencoder(3, 32, COLOUR),
        DigitAutoencoder,
    ],
)
def test_weights_follow_the_seed_alone_and_the_global_state_is_not_touched(make):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build_network(make, CPU, generator(3)).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    same, other = (build_network(make, CPU, generator(seed)).state_dict() for seed in (3, 4))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert all(value.isfinite().all() for value in first.values())


def test_every_batchnorm_starts_as_the_identity_and_counts_no_batch():
    for make in (
        lambda: WideResNet(1, 72, 10, 1),
        lambda: AttentionResNet18(3, 10),
        lambda: Autoencoder(3, 32, COLOUR),
    ):
        norms = [
            m
            for m in build_network(make, CPU, generator()).modules()
            if isinstance(m, nn.modules.batchnorm._BatchNorm)
        ]
        for norm in norms:
            shape = (
                (2, norm.num_features)
                if isinstance(norm, nn.BatchNorm1d)
                else (2, norm.num_features, 3, 3)
            )
            x = torch.randn(shape, generator=generator())
            torch.testing.assert_close(norm.eval()(x), x / (1 + norm.eps) ** 0.5)
            assert norm.num_batches_tracked == 0
    assert any(isinstance(norm, nn.BatchNorm1d) for norm in norms)


def spread(weight):
    """Return the standard deviation of weights, and the largest of them."""
    return weight.std().item(), weight.abs().max().item()


def is_normal(weight, deviation):
    """Tell whether weights are drawn from a normal distribution with this standard deviation."""
    found, largest = spread(weight)
    tolerance = 3 / (2 * weight.numel()) ** 0.5  # 3 standard errors of the deviation
    return abs(found / deviation - 1) < tolerance and largest > 2 * deviation


def is_uniform(weight, bound):
    """Tell whether weights are drawn uniformly from +-bound."""
    found, largest = spread(weight)
    tolerance = 3 / weight.numel() ** 0.5
    return abs(found / (bound / 3**0.5) - 1) < tolerance and largest <= bound


def test_goads_convolutions_start_he_normal_by_fan_out_geoms_by_fan_in():
    goad = build_network(lambda: WideResNet(3, 72, 10, 4), CPU, generator())
    geom = build_network(lambda: WideResNet(3, 72, 10, 4), CPU, generator(), draw_he_by_inputs)
    for network, stem, first, project in (
        (goad, 16 * 9, 64 * 9, 64),
        (geom, 3 * 9, 16 * 9, 16),
    ):
        assert is_normal(network.stem.weight, (2 / stem) ** 0.5)
        assert is_normal(network.blocks[0].conv1.weight, (2 / first) ** 0.5)
        assert is_normal(network.blocks[0].project.weight, (2 / project) ** 0.5)
        assert is_normal(network.blocks[2].conv2.weight, (2 / (256 * 9)) ** 0.5)
        assert is_uniform(network.head.weight, 1 / 256**0.5)
        assert not network.head.bias.any()


def test_the_resnet_with_attention_starts_as_released():
    network = build_network(
        lambda: AttentionResNet18(3, 10), CPU, generator(), draw_with_attention
    ).train()
    assert is_normal(network.stem.weight, (2 / (64 * 49)) ** 0.5)
    assert is_normal(network.head.weight, (2 / 512) ** 0.5)
    block = network.blocks[6]
    assert is_normal(block.conv1.weight, (2 / (512 * 9)) ** 0.5)
    assert is_uniform(block.project[0].weight, 1 / 256**0.5)
    assert is_uniform(block.attention.squeeze.weight, 1 / 512**0.5)
    assert is_uniform(block.attention.expand.weight, 1 / 32**0.5)
    assert is_normal(block.attention.place.weight, (2 / 49) ** 0.5)
    # The gate of a pixel is one half at the start, and its norm averages over many batches.
    x = torch.randn(2, 512, 5, 5, generator=generator())
    gates = [
        block.attention.expand(F.relu(block.attention.squeeze(pool)))
        for pool in (x.mean((2, 3), True), x.amax((2, 3), True))
    ]
    torch.testing.assert_close(block.attention(x), x * sum(gates).sigmoid() / 2)
    assert block.attention.place_norm.momentum == 0.01


def test_deep_svdds_autoencoders_start_as_released():
    gain = (2 / (1 + 0.01**2)) ** 0.5
    colour = build_network(lambda: Autoencoder(3, 32, COLOUR), CPU, generator(), draw_xavier)
    for layer, channels in (
        (colour.encoder.convolutions[0], 3 + 32),
        (colour.encoder.convolutions[2], 64 + 128),
        (colour.convolutions[0], 8 + 128),
        (colour.convolutions[-1], 32 + 3),
    ):
        assert is_uniform(layer.weight, gain * (6 / (25 * channels)) ** 0.5)
    assert is_uniform(colour.encoder.embed.weight, 1 / 2048**0.5)
    digits = build_network(DigitAutoencoder, CPU, generator(), draw_uniform)
    assert is_uniform(digits.encoder.convolutions[0].weight, 1 / 25**0.5)
    assert is_uniform(digits.encoder.embed.weight, 1 / 196**0.5)
    # PyTorch counts the outputs of a transposed convolution as its inputs.
    assert is_uniform(digits.convolutions[0].weight, 1 / (4 * 25) ** 0.5)
    assert is_uniform(digits.convolutions[1].weight, 1 / (8 * 25) ** 0.5)


def test_the_decoder_of_digits_upsamples_first_and_does_not_normalise_the_code():
    network = build_network(DigitAutoencoder, CPU, generator(), draw_uniform).train()
    assert not [m for m in network.modules() if isinstance(m, nn.BatchNorm1d)]
    code = torch.randn(3, 32, generator=generator())
    network.encoder = nn.Flatten()  # hands the code on

    def doubled(x):
        return F.leaky_relu(x).repeat_interleave(2, 2).repeat_interleave(2, 3)

    def normalised(x):
        mean, variance = x.mean((0, 2, 3), True), x.var((0, 2, 3), False, True)
        return (x - mean) / (variance + 1e-4).sqrt()

    first, second, third = (layer.weight for layer in network.convolutions)
    x = doubled(code.reshape(3, 2, 4, 4))
    x = doubled(normalised(F.conv_transpose2d(x, first, padding=2)))
    assert x.shape == (3, 4, 16, 16)
    x = normalised(F.conv_transpose2d(x, second)[:, :, 3:-3, 3:-3])  # the border is cut off
    assert x.shape == (3, 8, 14, 14)
    expected = F.conv_transpose2d(doubled(x), third, padding=2).sigmoid()
    torch.testing.assert_close(network(code), expected, atol=1e-5, rtol=1e-4)


def test_dropout_drops_its_fraction_and_keeps_the_mean():
    dropout = Dropout(0.3)
    dropout.generator = generator()
    x = torch.ones(250_001)
    y = dropout(x)
    assert (y == 0).double().mean().item() == pytest.approx(0.3, abs=0.004)
    assert y.mean().item() == pytest.approx(1, abs=0.01)
    neighbours = (y[:-1] == 0) & (y[1:] == 0)
    # Neighbours are independent, even those that share a draw.
    assert neighbours.double().mean().item() == pytest.approx(0.09, abs=0.004)
    assert not torch.equal(dropout(x), y)
    assert torch.equal(dropout.eval()(x), x)


def test_dropout_draws_from_the_generator_it_is_given():
    network = wide(16, dropout=0.5).train()
    x = torch.randn(4, 3, 16, 16, generator=generator())
    outputs = []
    for seed in (0, 0, 1):
        use_generator(network, generator(seed))
        outputs.append(network(x))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("depth", [10, 16, 22])
def test_compiling_changes_no_output_and_leaves_the_network_alone(depth):
    network = trained_like(depth)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x = torch.randn(9, 3, 32, 32, generator=generator())
    with torch.inference_mode():
        expected = network(x)
        torch.testing.assert_close(
            CompiledWideResNet(network, torch.float32)(x), expected, atol=1e-5, rtol=1e-5
        )
        half = CompiledWideResNet(network, torch.bfloat16)(x)
        assert half.dtype == torch.float32
        assert not torch.equal(half, half.bfloat16().float()), (
            "the output was rounded to eight bits"
        )
        assert (half - expected).abs().max() < 0.05 * expected.std() * 3
    after = network.state_dict()
    assert all(
        torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype
        for name in before
    )


def test_bfloat16_logits_are_not_rounded_to_eight_bits():
    x = torch.randn(64, 3, 16, 16, generator=generator())
    for network in (
        wide().eval(),
        build_network(lambda: AttentionResNet18(3, 7), CPU, generator()).eval(),
    ):
        with torch.inference_mode(), autocast(CPU, torch.bfloat16):
            logits = network(x)
        assert logits.dtype == torch.float32
        assert not torch.equal(logits, logits.bfloat16().float())


def test_attention_sits_in_each_of_eight_blocks():
    network = build_network(lambda: AttentionResNet18(3, 10), CPU, generator()).eval()
    assert [block.attention.expand.out_channels for block in network.blocks] == [
        64,
        64,
        128,
        128,
        256,
        256,
        512,
        512,
    ]
    attention, x = network.blocks[0].attention, torch.randn(2, 64, 9, 9, generator=generator())
    hidden = [
        F.relu(F.conv2d(pool, attention.squeeze.weight))
        for pool in (x.mean((2, 3), True), x.amax((2, 3), True))
    ]
    scaled = x * torch.sigmoid(sum(F.conv2d(h, attention.expand.weight) for h in hidden))
    across = torch.stack([scaled.mean(1), scaled.amax(1)], 1)
    place = F.conv2d(across, attention.place.weight, padding=3) / np.sqrt(1 + 1e-5)
    torch.testing.assert_close(attention(x), scaled * torch.sigmoid(place), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "channels", "side", "widths", "flat"),
    [
        (lambda: Autoencoder(3, 32, COLOUR), 3, 32, COLOUR, 2048),
        (DigitAutoencoder, 1, 28, DIGITS, 196),
    ],
)
def test_deep_svdds_networks_have_no_bias_and_rebuild_the_images_shape(
    make, channels, side, widths, flat
):
    network = build_network(make, CPU, generator(), draw_uniform)
    assert network.encoder.embed.in_features == flat
    assert not [name for name, _ in network.named_parameters() if "bias" in name]
    images = torch.randn(5, channels, side, side, generator=generator())
    rebuilt = network(images)
    assert rebuilt.shape == images.shape
    assert 0 <= rebuilt.min() < rebuilt.max() <= 1
    assert network.encoder(images).shape == (5, widths.embedding)


def test_unknown_devices_and_precisions_are_refused():
    with pytest.raises(ValueError, match="unknown device 'tpu'"):
        pick_device("tpu")
    with pytest.raises(
        ValueError, match="unknown precision 'half'; there are auto, float32, bfloat16"
    ):
        pick_precision("half", CPU)
    assert pick_precision("float32", CPU) == torch.float32
    assert pick_precision("bfloat16", CPU) == torch.bfloat16


def test_automatic_precision_is_bfloat16_only_where_the_processor_has_units_for_it(monkeypatch):
    for capabilities, expected in (
        ({"amx_bf16": True}, torch.bfloat16),
        ({"amx_bf16": False, "avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": False, "avx512_bf16": False}, torch.float32),
        ({}, torch.float32),
    ):
        monkeypatch.setattr(
            torch.cpu,
            "get_capabilities",
            lambda capabilities=capabilities: capabilities,
            raising=False,
        )
        assert pick_precision("auto", CPU) == expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert pick_precision("auto", CPU) == torch.float32
    assert pick_precision("auto", torch.device("cuda")) == torch.bfloat16
