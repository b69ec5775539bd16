"""Fixture with training images for the tests in this folder."""

from __future__ import annotations

import pytest

from mem.data.beton.reader import Beton
from tests.train.training import write_random_images


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Beton:
    return write_random_images(tmp_path_factory.mktemp("beton") / "train.beton")
