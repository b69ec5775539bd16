"""An error of a write names the file, whichever function writes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mem import files
from mem.config import FeatureFiles
from mem.data.features.user_files import import_user_features
from mem.data.features.writer import FeatureWriter, SplitLayout
from mem.metrics.predictions import PredictionMetadata, Predictions, write_predictions
from mem.models.weights.tensors import save_weights
from mem.tracking.log import JsonLines, read_events

LIMIT = 4096
"""Size in bytes at which writes fail."""
Writer = tuple[str, Callable[[], object]]
"""Name of a file in the folder, and a function that writes it."""


def array(folder: Path) -> Writer:
    return "a.npy", lambda: files.write_array(folder / "a.npy", np.zeros(10_000))


def text(folder: Path) -> Writer:
    return "a.json", lambda: files.write_text(folder / "a.json", "x" * 10_000)


def weights(folder: Path) -> Writer:
    tensors = {"weight": torch.zeros(10_000)}
    return "a.safetensors", lambda: save_weights(folder / "a.safetensors", tensors, {})


def predictions(folder: Path) -> Writer:
    values = np.random.default_rng(0).random((10_000, 5)).astype(np.float32)
    labels, top = np.arange(10_000), np.zeros((10_000, 5), np.int64)
    splits = {"test": Predictions(labels, labels, top, values, top[:, :3])}
    about = PredictionMetadata("set", "ce", "key", "", (0,))
    return "a.parquet", lambda: write_predictions(folder / "a.parquet", about, splits)


def image(folder: Path) -> Writer:
    noise = np.random.default_rng(0).integers(0, 255, (100, 100, 3), np.uint8)

    def write() -> None:
        with files.atomic(folder / "a.png", "wb") as file:
            Image.fromarray(noise).save(file, "png")

    return "a.png", write


def log(folder: Path) -> Writer:
    def write() -> None:
        with JsonLines(folder / "log.jsonl") as opened:
            for step in range(1000):
                opened.scalars({"train/loss": 1.0}, step)

    return "log.jsonl", write


def features(folder: Path) -> Writer:
    layout = SplitLayout(1, 1000, {"pooled": (30,)}, {"pooled": "float32"})
    writer = FeatureWriter(folder, "key", {"train": layout}, 1000, 60.0)
    writer.create_or_resume()

    def write() -> None:
        try:
            writer.write(next(writer.chunks()), {"pooled": np.zeros((1000, 30))})
        finally:
            writer.close()

    return "unfinished/train-pooled.npy", write


def user_features(folder: Path) -> Writer:
    given = folder / "given"
    given.mkdir()
    np.save(given / "x.npy", np.zeros((1000, 30), np.float32))
    np.save(given / "y.npy", np.zeros(1000, np.int64))
    paths = {f"{split}_{kind}": given / f"{kind[0]}.npy" for split in ("train", "test") for kind in ("x", "y")}
    names = {name.replace("_x", "_features").replace("_y", "_labels"): str(path) for name, path in paths.items()}
    settings = FeatureFiles.model_validate({"source": "features", "name": "own", **names})
    return "train-pooled.npy", lambda: import_user_features(settings, folder)


WRITERS = (array, text, weights, predictions, image, log, features, user_features)


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.__name__)
def test_the_error_of_a_failed_write_has_an_error_number_and_names_the_file(tmp_path, file_limit, writer):
    name, write = writer(tmp_path)
    with file_limit(LIMIT), pytest.raises(OSError, match="File too large") as error:
        write()
    assert error.value.errno is not None
    assert error.value.filename == str(tmp_path / name)
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_log_that_cannot_grow_ends_with_a_complete_line_and_can_be_continued(tmp_path, file_limit):
    _, write = log(tmp_path)
    with file_limit(LIMIT), pytest.raises(OSError, match="File too large"):
        write()
    logged = len(list(read_events(tmp_path / "log.jsonl")))
    assert (tmp_path / "log.jsonl").read_bytes().endswith(b"}\n")
    write()
    assert [e["step"] for e in read_events(tmp_path / "log.jsonl") if e["event"] == "metrics"] == list(range(1000))
    assert 1 < logged < 1000
