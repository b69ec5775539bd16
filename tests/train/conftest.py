"""Fixtures for the tests in this folder: training images, and the state after an uninterrupted training run."""

from __future__ import annotations

from pathlib import Path

import pytest

from mem.data.beton.reader import Beton
from mem.train.state import TrainState
from tests.train.training import trained, write_random_images


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Beton:
    return write_random_images(tmp_path_factory.mktemp("beton") / "train.beton")


@pytest.fixture(scope="module")
def uninterrupted_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("uninterrupted")


@pytest.fixture(scope="module")
def uninterrupted(images, uninterrupted_folder) -> TrainState:
    """The state after an uninterrupted training run. Its log is in `uninterrupted_folder`."""
    return trained(images, uninterrupted_folder)
