"""Every example in a docstring gives what it says."""

import doctest
import importlib
import pkgutil

import pytest

import baselines
import benchmarks
import dn2


def modules():
    for package in (dn2, baselines, benchmarks):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                yield module.name


@pytest.mark.parametrize("name", modules())
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
