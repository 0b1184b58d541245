"""No library that runs networks binds threads to cores: processes would share the first one."""

import os

import numpy as np
import pytest
import torch
from cores import CAN_TELL, cores_during
from wide_networks import generator, trained_like

from baselines._inference import CompiledWideResNet
from dn2 import engines
from dn2.preprocessing import Resize

pytestmark = pytest.mark.skipif(not CAN_TELL, reason="only Linux says which cores a thread may use")


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_an_engine(engine):
    module = torch.nn.Sequential(Resize(32, 32), torch.nn.Conv2d(3, 64, 3), torch.nn.Flatten())
    run = engines.load_engine(engine, module, (32, 32, 3), "cpu", threads=1)
    images = np.zeros((8, 32, 32, 3), np.uint8)
    assert cores_during(lambda: list(run([images]))) == {frozenset(os.sched_getaffinity(0))}


def test_a_compiled_network():
    compiled, x = (
        CompiledWideResNet(trained_like(10), torch.float32),
        torch.randn(64, 3, 32, 32, generator=generator()),
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seen = cores_during(torch.inference_mode()(lambda: compiled(x)))
    finally:
        torch.set_num_threads(threads)
    assert seen == {frozenset(os.sched_getaffinity(0))}
