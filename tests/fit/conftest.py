"""The pictures that trainings of these tests learn."""

from __future__ import annotations

import pytest

from mem.data.beton.reader import Beton
from tests.fit.training import write_pictures


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Beton:
    return write_pictures(tmp_path_factory.mktemp("beton") / "train.beton")
