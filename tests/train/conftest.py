"""Training images for these tests."""

from __future__ import annotations

import pytest

from mem.data.beton.reader import Beton
from tests.train.training import write_random_images


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Beton:
    return write_random_images(tmp_path_factory.mktemp("beton") / "train.beton")
