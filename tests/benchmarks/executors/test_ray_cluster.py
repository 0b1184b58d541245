"""A real Ray cluster of two nodes gives the serial results, even if a node is removed. Slow."""

import os
from pathlib import Path

import numpy as np
import pytest
import ray
from batches import batch_of, do, in_order, training
from forked import stored_features
from ray.cluster_utils import Cluster

from benchmarks.contracts import OutsideError
from benchmarks.executors import Serial, WorkerLostError, make_executor

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, weights_home):
    return stored_features(tmp_path_factory.mktemp("home"), weights_home)


@pytest.fixture
def cluster(monkeypatch):
    """Start a head without cores and two nodes with one core each, so that only nodes run units."""
    tests = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{tests.parent}{os.pathsep}{tests / 'support'}")
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    yield cluster, nodes
    ray.shutdown()
    cluster.shutdown()


def test_results_are_the_serial_ones_to_the_last_bit_and_a_lost_node_costs_none(cluster, workspace):
    cluster, nodes = cluster
    executor = make_executor("ray", workspace, 0, cluster.address)
    assert executor.workers == 2
    batch = batch_of(workspace, params={"k": [1, 2, 5]}, normalize=["l2"])
    expected, _ = do(Serial(workspace), batch, workspace)
    found, _ = do(executor, batch, workspace)
    for one, other in zip(in_order(found), in_order(expected), strict=True):
        assert (one.experiment, one.split) == (other.experiment, other.split)
        for array in ("scores", "rows", "is_anomaly", "nearest"):
            np.testing.assert_array_equal(getattr(one, array), getattr(other, array))

    removed = []

    def remove_both(result):
        """Remove the node that runs a unit; a third node takes over."""
        if not removed:
            removed.append(result.split)
            cluster.add_node(num_cpus=1)
            for node in nodes:
                cluster.remove_node(node, allow_graceful=False)

    results, losses = do(executor, training(workspace, epochs=[30]), workspace, each=remove_both)
    assert len(removed) == 1
    assert sorted(result.split for result in results) == ["cross", "disc"]
    assert {("cross", "loss", 30), ("disc", "loss", 30)} <= set(losses)
    executor.close()
    with pytest.raises(WorkerLostError, match="have been ended"):
        do(executor, batch, workspace)


def test_a_cluster_that_is_not_there(workspace):
    with pytest.raises(
        OutsideError, match=r"Ray cluster at 127.0.0.1:1 cannot be reached .*ray start --head"
    ):
        make_executor("ray", workspace, 2, "127.0.0.1:1")
