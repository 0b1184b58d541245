"""The training loop alone: order, reports, checkpoints, divergence."""

import os
from io import BytesIO

import numpy as np
import pytest
import torch
from torch import nn

import baselines._training as loop
from baselines._checkpoint import DIGEST_BYTES, read_checkpoint, write_checkpoint
from baselines._networks import Dropout, build_network
from baselines._training import (
    Clock,
    Training,
    TrainingDivergedError,
    fit_network,
    half_cosine,
    training_identity,
)

X = torch.randn(23, 6, generator=torch.Generator().manual_seed(5))


class Killed(Exception):
    pass


def train(
    monitor=None,
    checkpoint=None,
    *,
    epochs=4,
    identity="a",
    name="loss",
    seed=0,
    loss_scale=1.0,
    record=None,
    clock=None,
):
    """Train a small network with dropout, and return its weights."""
    network = build_network(
        lambda: nn.Sequential(nn.Linear(6, 8), Dropout(0.5), nn.Linear(8, 1)),
        torch.device("cpu"),
        torch.Generator().manual_seed(1),
    )
    generator = torch.Generator().manual_seed(seed)

    def loss_of(numbers, epoch):
        if record is not None:
            record.append((epoch, numbers.tolist()))
        noise = torch.randn(len(numbers), 1, generator=generator)
        return (network(X[numbers]) - noise - loss_scale).square().mean()

    training = Training(name, len(X), 5, epochs, lambda time: 0.01 / (1 + time), identity)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    fit_network(
        network,
        loss_of,
        optimizer,
        training,
        generator,
        monitor=monitor,
        checkpoint=checkpoint,
        clock=clock,
    )
    assert not network.training
    return torch.cat([weight.detach().reshape(-1) for weight in network.parameters()]).numpy()


def killer(call):
    """Make a monitor that raises at its n-th call."""
    calls = []

    def monitor(*report):
        calls.append(report)
        if len(calls) == call:
            raise Killed

    return monitor


def test_an_epoch_goes_once_over_all_items_in_a_new_order():
    record = []
    train(epochs=2, record=record)
    assert [len(numbers) for _, numbers in record] == [5, 5, 5, 5, 3] * 2
    orders = [
        [number for e, numbers in record if e == epoch for number in numbers] for epoch in (1, 2)
    ]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(23))
    assert orders[0] != orders[1]


@pytest.mark.parametrize(
    ("items", "sizes"), [(11, [5, 6]), (10, [5, 5]), (12, [5, 5, 2]), (1, [1]), (3, [3]), (6, [6])]
)
def test_a_single_last_item_joins_the_batch_before_it(items, sizes):
    training = Training("loss", items, 5, 1, lambda _: 0.1, "")
    assert [
        training.items_in(b + 1) - training.items_in(b) for b in range(training.batches)
    ] == sizes


def test_reports_give_the_epoch_its_finished_fraction_and_the_mean_loss(monkeypatch):
    monkeypatch.setattr(loop, "REPORT_SECONDS", 0)
    reports = []
    train(lambda *report: reports.append(report), epochs=2)
    assert [report[:3] for report in reports] == [("loss", 1, 2)] * 5 + [("loss", 2, 2)] * 5
    np.testing.assert_allclose(
        [report[3] for report in reports[:5]], np.array([5, 10, 15, 20, 23]) / 23
    )
    assert reports[4][3] == reports[9][3] == 1.0
    monkeypatch.setattr(loop, "REPORT_SECONDS", 3600)
    ends = []
    train(lambda *report: ends.append(report), epochs=2)
    assert ends == [reports[4], reports[9]]


def test_the_reported_loss_is_the_mean_over_items(monkeypatch):
    monkeypatch.setattr(loop, "REPORT_SECONDS", 0)
    losses = iter([1.0, 2.0, 3.0, 4.0, 8.0])
    network, generator = nn.Linear(1, 1), torch.Generator()
    reports = []
    training = Training("loss", 23, 5, 1, lambda _: 0.0, "")
    fit_network(
        network,
        lambda _numbers, _epoch: network.weight.sum() * 0 + next(losses),
        torch.optim.SGD(network.parameters(), 0.1),
        training,
        generator,
        monitor=lambda *report: reports.append(report[4]),
    )
    np.testing.assert_allclose(reports, [1, 1.5, 2, 2.5, (5 * 10 + 3 * 8) / 23])


@pytest.mark.parametrize("call", range(1, 13))
def test_a_killed_training_continues_to_the_same_weights(monkeypatch, tmp_path, call):
    """It is killed in any batch of three epochs, with a checkpoint after each batch.

    Then it ends with the same weights, to the last bit.
    """
    monkeypatch.setattr(loop, "REPORT_SECONDS", 0)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    reports, again = [], []
    expected = train(lambda *report: reports.append(report))
    path = tmp_path / "training.pt"
    with pytest.raises(Killed):
        train(killer(call), path)
    assert path.exists() == (call > 1)
    record = []
    np.testing.assert_array_equal(
        train(lambda *report: again.append(report), path, record=record), expected
    )
    assert again == reports[call - 1 :]
    assert len(record) == 20 - (call - 1)  # no batch is run again


def test_a_killed_training_continues_from_its_last_epoch_without_the_clock(tmp_path):
    path = tmp_path / "training.pt"
    with pytest.raises(Killed):
        train(killer(3), path)
    record = []
    np.testing.assert_array_equal(train(None, path, record=record), train())
    assert {epoch for epoch, _ in record} == {3, 4}


def test_the_cpu_time_of_a_training_goes_on_where_it_was_broken_off(tmp_path, monkeypatch):
    ticks = iter(range(10_000, 20_000, 5))
    monkeypatch.setattr(loop.time, "process_time", lambda: float(next(ticks)))
    path = tmp_path / "training.pt"
    whole = Clock(started=9_000.0)
    assert (whole.seconds, whole.seconds) == (1000, 1005)
    with pytest.raises(Killed):
        train(killer(3), path, clock=Clock(earlier=50_000.0))
    saved = read_checkpoint(path, "a", "loss")["cpu_seconds"]
    assert saved > 50_000
    clock = Clock()
    assert clock.earlier == 0
    train(None, path, clock=clock)
    assert clock.earlier == saved
    assert read_checkpoint(path, "a", "loss")["cpu_seconds"] > saved


@pytest.mark.parametrize("other", [{"identity": "b"}, {"name": "pretrain_loss"}])
def test_a_checkpoint_of_another_training_is_not_continued(tmp_path, other):
    path = tmp_path / "training.pt"
    train(None, path, seed=9, **other)
    np.testing.assert_array_equal(train(None, path), train())


def test_a_training_starts_from_the_beginning_of_what_is_no_whole_checkpoint_and_says_so(tmp_path):
    path = tmp_path / "training.pt"
    train(None, path, epochs=2)
    whole = path.read_bytes()
    earlier = whole[:-DIGEST_BYTES]  # as the versions without a checksum wrote it
    assert torch.load(BytesIO(earlier), weights_only=True)["epoch"] == 2
    weight = bytearray(whole)
    weight[whole.index(train(epochs=2).tobytes()[:4]) + 3] ^= 1
    for content in (b"", whole[:50], whole[:-1], bytes(weight), earlier, b"not a checkpoint"):
        path.write_bytes(content)
        with pytest.warns(UserWarning, match=r"training\.pt .* starts from the beginning$"):
            assert read_checkpoint(path, "a", "loss") is None
    with pytest.warns(UserWarning, match="starts from the beginning"):
        np.testing.assert_array_equal(train(None, path), train())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_continued_from(tmp_path, bad):
    path = tmp_path / "training.pt"
    write_checkpoint(path, "a", "loss", {"network": {"weight": torch.tensor([1.0, bad])}})
    with pytest.warns(UserWarning, match="its weights hold NaN or infinity"):
        assert read_checkpoint(path, "a", "loss") is None


def test_a_last_step_to_weights_that_are_not_finite_is_a_divergence(tmp_path):
    """The loss is that of the weights before the step, and is finite."""
    network = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), 1.0)
    training = Training("loss", 4, 4, 1, lambda time: float("inf"), "")
    with pytest.raises(TrainingDivergedError, match=r"weight became NaN.* in epoch 1 of 1: lower"):
        fit_network(
            network,
            lambda numbers, _: network(torch.ones(len(numbers), 1)).mean(),
            optimizer,
            training,
            torch.Generator(),
            checkpoint=tmp_path / "training.pt",
        )
    assert not (tmp_path / "training.pt").exists()


def test_a_checkpoint_is_never_half_written(tmp_path, monkeypatch):
    path = tmp_path / "training.pt"
    write_checkpoint(path, "a", "loss", {"epoch": 1})

    def full(_descriptor):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_checkpoint(path, "a", "loss", {"epoch": 2})
    assert read_checkpoint(path, "a", "loss") == {"identity": "a", "stage": "loss", "epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["training.pt"]


def test_a_training_goes_on_when_its_checkpoint_cannot_be_written(tmp_path):
    with pytest.warns(
        UserWarning, match=r"training\.pt cannot be written \(No such file.* goes on"
    ):
        weights = train(None, tmp_path / "missing" / "training.pt")
    np.testing.assert_array_equal(weights, train())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_diverged_loss_names_the_epoch_and_leaves_the_checkpoint_before_it(tmp_path, bad):
    path = tmp_path / "training.pt"
    train(None, path, epochs=1)
    before = path.read_bytes()
    with pytest.raises(
        TrainingDivergedError, match=r"loss became (nan|inf) in epoch 2 of 4: lower learning_rate"
    ):
        train(None, path, loss_scale=bad)
    assert path.read_bytes() == before


def test_the_learning_rate_follows_the_time_in_epochs():
    network, rates, times = nn.Linear(1, 1), [], []
    optimizer = torch.optim.SGD(network.parameters(), 123.0)

    def rate(time):
        times.append(time)
        return time + 1

    def loss_of(_numbers, _epoch):
        rates.append(optimizer.param_groups[0]["lr"])
        return network.weight.sum() * 0

    fit_network(
        network, loss_of, optimizer, Training("loss", 20, 5, 2, rate, ""), torch.Generator()
    )
    np.testing.assert_allclose(times, np.arange(8) / 4)
    np.testing.assert_allclose(rates, np.arange(8) / 4 + 1)


def test_half_a_cosine_falls_from_the_first_rate_to_the_last():
    assert half_cosine(0.4, 0.0, 0.0) == 0.4
    assert half_cosine(0.4, 0.2, 0.5) == pytest.approx(0.3)
    assert half_cosine(0.4, 0.0, 1 / 3) == pytest.approx(0.3)  # 60 degrees
    assert half_cosine(0.4, 1e-6, 1.0) == pytest.approx(1e-6)


def test_a_training_works_where_gradients_are_off_and_leaves_them_off():
    expected = train()
    with torch.no_grad():
        np.testing.assert_array_equal(train(), expected)
        assert not torch.is_grad_enabled()


def test_an_identity_follows_parameters_images_and_arithmetic():
    class Baseline:
        def __init__(self, epochs):
            self.epochs = epochs
            self.network_ = object()

    images = np.zeros((2, 4, 4, 1), np.uint8)
    other = images.copy()
    other[1, 3, 3] = 1
    hashes = [
        training_identity(Baseline(1), images, "cpu", torch.float32),
        training_identity(Baseline(2), images, "cpu", torch.float32),
        training_identity(Baseline(1), other, "cpu", torch.float32),
        training_identity(Baseline(1), images.reshape(2, 2, 8, 1), "cpu", torch.float32),
        training_identity(Baseline(1), images, "cpu", torch.bfloat16),
    ]
    assert len(set(hashes)) == 5
    assert hashes[0] == training_identity(Baseline(1), images.copy(), "cpu", torch.float32)
