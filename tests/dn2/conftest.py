"""Fixtures of the tests of `dn2`."""

import pytest
from toy_encoder import toy_encoders


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Return a folder with the weights of the encoders ``toy`` and ``toy2``, known meanwhile."""
    folder = tmp_path_factory.mktemp("home")
    with toy_encoders(folder):
        yield folder
