"""Make small wide residual networks with seeded weights."""

import torch
from torch import nn

from baselines._networks import WideResNet, build_network

CPU = torch.device("cpu")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def wide(depth=10, width=1, dropout=0.0, seed=0):
    return build_network(lambda: WideResNet(3, 7, depth, width, dropout), CPU, generator(seed))


def trained_like(depth):
    """Make a network in evaluation mode, none of whose BatchNorms is the identity."""
    network, random = wide(depth), generator(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.3, generator=random)
            nn.init.normal_(module.bias, 0, 0.3, generator=random)
            nn.init.normal_(module.running_mean, 0, 0.3, generator=random)
            nn.init.uniform_(module.running_var, 0.3, 2, generator=random)
    return network.eval()
