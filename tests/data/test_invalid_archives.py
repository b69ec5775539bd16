"""Invalid archives and pickles."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mem.data.datasets import cifar
from mem.data.datasets.pickles import load_pickle
from mem.errors import UserError
from tests.data import miniatures
from tests.data.reading import refusal


@pytest.fixture
def archive(tmp_path, small_cifar) -> dict[str, Any]:
    """Write a packed CIFAR-10 miniature and return its `dataset` section."""
    small_cifar(10)
    return miniatures.cifar(tmp_path, 10)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 0.999])
def test_a_truncated_archive_is_refused(archive, share):
    path = Path(archive["root"])
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    message = refusal(archive)
    assert "the archive is damaged or incomplete" in message
    assert "Download it again" in message


def test_a_partly_unpacked_archive_is_refused(tmp_path, archive):
    values = miniatures.cifar(tmp_path, 10, packed=False)
    (Path(values["root"]) / "data_batch_3").unlink()
    (Path(values["root"]) / "batches.meta").unlink()
    for root in (values["root"], str(tmp_path)):
        assert "the folder is incomplete; missing files: data_batch_3, batches.meta" in refusal(values | {"root": root})


def test_a_truncated_batch_is_refused(tmp_path, archive):
    for binary, name, expected in (
        (False, "data_batch_2", "incomplete"),
        (True, "data_batch_2.bin", "not a multiple of the record size"),
    ):
        values = miniatures.cifar(tmp_path, 10, binary, packed=False)
        path = Path(values["root"]) / name
        path.write_bytes(path.read_bytes()[:-5])
        assert expected in refusal(values)


def test_batches_with_another_number_of_images_are_refused(archive, monkeypatch):
    monkeypatch.setattr(cifar, "_EXPECTED", {"train": 50_000, "test": 10_000})
    assert "has 60 images, but CIFAR-10 has 50,000" in refusal(archive)


def test_a_missing_archive_is_reported_with_its_address(tmp_path):
    values = miniatures.PIXELS | {"source": "cifar100", "name": "c", "root": str(tmp_path / "none")}
    message = refusal(values | {"cut": {"imbalance": 100, "seed": 0, "val_per_class": 0}})
    assert "Expected cifar-100-python.tar.gz or the folder cifar-100-python" in message
    assert "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz" in message


class Harmful:
    """An object whose pickle creates a folder if it is loaded without restrictions."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, archive):
    values = miniatures.cifar(tmp_path, 10, packed=False)
    (Path(values["root"]) / "test_batch").write_bytes(pickle.dumps({"data": Harmful(tmp_path / "made")}, protocol=2))
    message = refusal(values)
    assert "test_batch: cannot be read as a pickle of arrays: it refers to posix.mkdir, which is not allowed" in message
    assert not (tmp_path / "made").exists()


@given(st.binary(max_size=60))
@settings(deadline=None)
def test_any_bytes_give_a_value_or_a_message(content):
    try:
        load_pickle(content, "x")
    except UserError as error:
        assert "x: cannot be read as a pickle" in str(error)


def test_pickles_of_python_3_are_read():
    value = {"data": np.arange(6, dtype=np.uint8).reshape(2, 3), "labels": [1, 2], "name": b"\xff"}
    for protocol in (2, 4):
        found = load_pickle(pickle.dumps(value, protocol=protocol), "x")
        np.testing.assert_array_equal(found["data"], value["data"])
        assert found["labels"] == [1, 2]
