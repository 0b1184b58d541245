"""Read what a process left in its tracking store, and what it printed."""

import json


def all_runs(place):
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{place / 'mlflow.db'}")
    return client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()]
    )


def cell_runs(place):
    return [run for run in all_runs(place) if run.data.tags["kind"] == "cell"]


def rocaucs(out):
    """Read the ROCAUC of each split, by the cell's key, from the output of ``run --json``."""
    return {
        run["key"]: [split["rocauc"] for split in run["splits"]] for run in json.loads(out)["runs"]
    }
