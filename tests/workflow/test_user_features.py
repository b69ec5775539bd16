"""A study on user-provided features, run with the snakemake command up to the report."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests.workflow.conftest import jobs, snakemake

pytestmark = pytest.mark.workflow
COUNTS = (115, 110, 103, 101, 70, 45, 25, 16, 11, 7)
EPOCHS = {"epochs": 5}
HEADS = {name: {"training": EPOCHS} for name in ("ce", "crt", "lws", "mem")}
STUDY = ("--config", "study=own_features", "seeds=[0]", f"heads={json.dumps(HEADS)}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the pixels of long-tailed digits as feature files."""
    folder = tmp_path_factory.mktemp("user_features")
    (folder / "features").mkdir()
    digits = load_digits()
    permutation = np.random.default_rng(0).permutation(len(digits.target))
    pixels, labels = (digits.data[permutation] / 16).astype(np.float32), digits.target[permutation].astype(np.int64)
    kept = [np.flatnonzero(labels[:1200] == c)[:count] for c, count in enumerate(COUNTS)]
    splits = {"train": np.concatenate(kept), "val": np.arange(1200, 1400), "test": np.arange(1400, len(labels))}
    for name, images in splits.items():
        np.save(folder / "features" / f"{name}.npy", pixels[images])
        np.save(folder / "features" / f"{name}-labels.npy", labels[images])
    return folder


def test_missing_feature_files_are_named(tmp_path):
    done = snakemake(tmp_path, "--cores", "2", *STUDY, check=False)
    assert done.returncode != 0
    assert "features/train.npy" in done.stdout
    assert "Traceback" not in done.stdout


def test_every_head_is_trained_evaluated_and_reported(folder):
    snakemake(folder, "--cores", "2", *STUDY)
    with open(folder / "results" / "own_features" / "report" / "results.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    scores = {row["variant"]: float(row["all"]) for row in rows}
    assert set(scores) == {"ce", "tau", "crt", "lws", "mem"}
    assert min(scores.values()) > 50, scores  # the accuracy of random guessing is 10 %


def test_runs_are_repeated_only_if_a_feature_changes(folder):
    assert not jobs(folder, *STUDY)
    path = folder / "features" / "train.npy"
    changed = np.load(path)
    changed[0, 0] += 0.5
    np.save(path, changed)
    planned = jobs(folder, *STUDY)
    assert planned["features"] == 1
    assert planned["train_head"] == planned["evaluate"] == 5
