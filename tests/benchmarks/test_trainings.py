"""A training in a session: its losses in MLflow; killed, diverged, forced, cut off."""

import json
import signal
import sys
from functools import partial

import pytest
from forked import Process, after_call, die, run_benchmarks
from stored_runs import all_runs, cell_runs, rocaucs

EPOCHS = ("--set", "epochs=4", "--set", "pretrain_epochs=3", "--set", "batch_size=20")
RUN = (
    "run",
    "--dataset",
    "synthetic",
    "--detector",
    "deep_svdd",
    "--preset",
    "cpu",
    "--classes",
    "disc,cross",
    *EPOCHS,
    "--json",
)


@pytest.fixture
def place(tmp_path, make_store):
    make_store(tmp_path)
    return tmp_path


def on_one_core(arguments, prepare):
    import torch

    torch.set_num_threads(1)  # on a busy machine, two threads that wait for each other are slow
    return run_benchmarks(arguments, prepare)


def run(place, prepare=None, arguments=RUN):
    return Process(place, on_one_core, arguments, prepare, DN2_HOME=str(place / "home")).finish()


def die_while_training():
    """Die in the second class, after the second of its four epochs; pretraining has three."""
    import baselines._training

    after_call(baselines._training, "write_checkpoint", die, 7 + 3 + 2)


def count_epochs():
    import baselines._training

    after_call(baselines._training._Run, "finish_epoch", partial(print, "epoch", file=sys.stderr))


def diverge_in_the_second_class():
    import baselines._training
    from baselines._training import TrainingDivergedError

    def fail():
        raise TrainingDivergedError("the loss became nan in epoch 2 of 4: lower learning_rate")

    after_call(baselines._training._Run, "finish_epoch", fail, 7 + 3 + 2)


def the_store_is_away_while_training():
    """Refuse the first call that logs losses, while the first class trains."""
    from benchmarks.tracking import Tracker, TrackingError

    original, asked = Tracker.log_points, []

    def log_points(self, run_id, points):
        asked.append(points)
        if len(asked) <= 1:
            raise TrackingError("the server is away")
        original(self, run_id, points)

    Tracker.log_points = log_points


def history(place, name):
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{place / 'mlflow.db'}")
    (cell,) = cell_runs(place)
    points = client.get_metric_history(cell.info.run_id, name)
    assert all(type(point.step) is int for point in points)
    return {point.step: point.value for point in points}


def all_losses(place):
    names = [
        f"{name}/{class_name}"
        for name in ("pretrain_loss", "loss")
        for class_name in ("disc", "cross")
    ]
    return {name: history(place, name) for name in names}


def test_killed_in_training_it_continues_to_the_same_result_and_each_loss_is_logged_once(
    place, tmp_path_factory, make_store
):
    code, _, _ = run(place, die_while_training)
    assert code == -signal.SIGKILL
    assert [path.name for path in place.glob("home/cells/*/*.result")] == ["disc.result"]
    assert [path.name for path in place.glob("home/cells/*/*.checkpoint")] == ["cross.checkpoint"]

    code, out, err = run(place, count_epochs)
    assert code == 0, err
    assert err.count("epoch") == 2, "the last two epochs of the second class, and no other"
    assert [cell.info.status for cell in cell_runs(place)] == ["FINISHED"]
    assert not [path for path in place.glob("home/cells/*/*") if path.name != "lock"]

    whole = tmp_path_factory.mktemp("uninterrupted")
    make_store(whole)
    code, undisturbed, err = run(whole, count_epochs)
    assert code == 0, err
    assert err.count("epoch") == 2 * 7
    assert rocaucs(out) == rocaucs(undisturbed)
    losses = all_losses(whole)
    assert {name: list(found) for name, found in losses.items()} == {
        name: list(range(1, 4 if name.startswith("pre") else 5)) for name in losses
    }
    # The kill may lose the losses of the last second; all others are equal, and logged once.
    for name, found in all_losses(place).items():
        assert found.items() <= losses[name].items()
    assert history(place, "loss/cross")[4] == losses["loss/cross"][4]


def test_a_diverged_loss_names_class_and_epoch_and_other_cells_go_on(place):
    code, out, err = run(place, diverge_in_the_second_class, (*RUN[:-1], "--seeds", "2", "--json"))
    assert code == 1
    assert (
        "deep_svdd one_class on synthetic, cross: TrainingDivergedError: "
        "the loss became nan in epoch 2 of 4" in err
    )
    assert "Traceback" not in err
    assert [cell["params"]["seed"] for cell in json.loads(out)["runs"]] == [1]
    assert sorted(cell.info.status for cell in cell_runs(place)) == ["FAILED", "FINISHED"]


def test_force_discards_checkpoints(place):
    run(place, die_while_training)
    code, _, err = run(place, count_epochs, (*RUN, "--force"))
    assert code == 0, err
    assert err.count("epoch") == 2 * 7


def test_a_store_that_goes_away_in_training_costs_neither_result_nor_loss(place):
    code, _, err = run(place, the_store_is_away_while_training)
    assert code == 0, err
    assert err.count("not logged for now: the server is away") == 1
    assert [run.info.status for run in all_runs(place)] == ["FINISHED", "FINISHED"]
    assert {name: list(found) for name, found in all_losses(place).items()} == {
        f"{name}/{class_name}": list(range(1, epochs + 1))
        for name, epochs in (("pretrain_loss", 3), ("loss", 4))
        for class_name in ("disc", "cross")
    }


def test_progress_tells_the_stage_and_how_much_is_left(place):
    code, _, err = run(place, lines_at_once)
    assert code == 0, err
    assert "pretraining deep_svdd one_class on synthetic, disc: 100 %" in err
    assert "training deep_svdd one_class on synthetic, cross: 75 %" in err
    assert " s left" in err


def lines_at_once():
    import benchmarks.commands.progress

    benchmarks.commands.progress.SECONDS_BETWEEN_LINES = 0
