"""Plan batches of the synthetic data set as a session does, and record their losses."""

from benchmarks.contracts import Workspace
from benchmarks.evaluate import Worker
from benchmarks.experiments import make_experiments, plan, resolve
from benchmarks.inputs import Rows, encoder_names, input_identity
from benchmarks.result_store import ResultStore

EPOCHS = {"epochs": [3], "pretrain_epochs": [1], "batch_size": [20]}


class Heard:
    """A watch that records losses, and calls ``at_loss`` each time."""

    def __init__(self, home, at_loss=lambda: None):
        self.losses, self.disk, self.at_loss = [], ResultStore(home), at_loss

    def monitor(self, experiment, split):
        def hear(name, epoch, epochs, share, loss):
            if share == 1:
                self.losses.append((split.name, name, epoch))
            self.at_loss()

        return hear

    def checkpoint(self, experiment, split):
        path = self.disk.checkpoint(experiment, split.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def forget(self, result):
        """Remove the checkpoint of a split that is done."""
        self.disk.checkpoint(result.experiment, result.split).unlink(missing_ok=True)


def batches_of(workspace, detector="dn2", **asked):
    """Plan cells of one detector, resolved as a session does."""
    dataset = Worker(workspace).dataset("synthetic")
    cells = [
        resolve(cell, dataset, input_identity(cell.input, workspace))
        for cell in make_experiments(datasets=["synthetic"], detectors=[detector], **asked)
    ]
    return plan(cells, {"synthetic": dataset}, {"commit": "tests"})


def batch_of(workspace, detector="dn2", **asked):
    """Plan cells that one fit serves."""
    (batch,) = batches_of(workspace, detector, **asked)
    return batch


def training(workspace, **changed):
    """Plan short trainings on two classes."""
    return batch_of(workspace, "deep_svdd", params={**EPOCHS, **changed}, classes=["disc", "cross"])


def do(executor, batch, workspace, progress=None, each=lambda result: None, at_loss=lambda: None):
    """Have an executor evaluate a batch; return the results and the losses."""
    watch, results = Heard(workspace.home, at_loss), []
    for result in executor.work(batch, watch, progress):
        results.append(result)
        each(result)
    return results, watch.losses


def in_order(results):
    """Sort results, because several workers finish them in any order."""
    return sorted(results, key=lambda result: (result.split, result.experiment.key))


class Given(Worker):
    """A worker that gets its input and reads none."""

    def __init__(self, X):
        super().__init__(Workspace(None))
        self.X = X

    def input(self, batch, progress=None):
        return self.X.only(encoder_names(batch.input)) if isinstance(self.X, Rows) else self.X


def evaluate(experiments, dataset, X, done=(), progress=None):
    """Plan experiments on a data set that is no file, and yield their results."""
    for batch in plan(experiments, {dataset.name: dataset}, {}):
        yield from Given(X).work(batch.without(done), progress=progress)


def run_session(session, experiments):
    """Run experiments as the verb ``run`` does; return the outcome."""
    cells = session.resolve(experiments)
    batches = session.plan(cells)
    with session:
        session.run(batches)
        return session.close(cells)
