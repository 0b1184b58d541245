"""Fixtures that the tests of sweeps share."""

import pytest
from forked import stored_features


@pytest.fixture
def workspace(tmp_path, weights_home):
    (tmp_path / "home").mkdir()
    return stored_features(tmp_path / "home", weights_home)
