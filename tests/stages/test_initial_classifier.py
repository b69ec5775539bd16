"""Finetuning with an initial classifier: class means, text features of class names, and class embeddings from a file.

The learning rate is so small that the trained classifier equals the initial one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mem.data.features.stored import open_split
from mem.distributed import World
from mem.jobs import initial_classifier
from mem.jobs.class_means import class_means
from mem.jobs.held_out import images_of
from mem.models.backbones import build
from mem.models.weights.tensors import load_into, load_weights
from mem.runs.dag import Run
from mem.runs.folder import RunFolder, read_record
from tests.data.test_class_names import WORDS
from tests.stages.interruption import interrupt_finetuning
from tests.stages.running import MINI_VALUES, call_mem, job_of, run_study
from tests.stages.text_model import (
    BACKBONE,
    BACKBONE_WEIGHTS,
    TEXT_WEIGHTS,
    clip_values,
    expected_rows,
    text_embeddings,
    write_clip_files,
)

pytestmark = pytest.mark.stage
SHORT = {"epochs": 0.5, "warmup_epochs": 0.1, "base_lr": 1e-20, "drop_path": 0.0}


@dataclass(frozen=True)
class Finished:
    """A finished study whose variants of finetuning start from different classifiers."""

    folder: Path
    runs: list[Run]

    def run(self, stage: str, variant: str | None = None) -> Run:
        return next(r for r in self.runs if r.stage == stage and r.labels.get("finetuning") == variant)

    def classifier(self, variant: str | None) -> dict[str, Tensor]:
        return load_weights(self.folder / self.run("features", variant).folder / "classifier.safetensors")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Finished:
    folder: Path = tmp_path_factory.mktemp("initial-classifier")
    write_clip_files(folder)
    np.save(folder / "rows.npy", np.random.default_rng(0).normal(size=(10, 8)).astype(np.float32))
    values = clip_values(folder) | {
        "finetune": MINI_VALUES["finetune"] | SHORT | {"cosine_scale": 25, "initial_classifier": "class_means"},
        "finetune_variants": {
            "text": {"initial_classifier": text_embeddings(folder), "cosine_scale": None},
            "file": {"initial_classifier": {"source": "file", "file": str(folder / "rows.npy")}},
            "experts": {"experts": {"number": 2, "own_from": "blocks.1"}, "drop_path": 0.1},
        },
        "heads": {
            "ce": None,
            **{name: {"method": "ce", "finetuning": name} for name in ("text", "file", "experts")},
        },
    }
    return Finished(folder, run_study(folder, values, ("convert", "finetune", "features")))


def means_of_features(features: Path) -> Tensor:
    """Return the normalised class means of the features that a run stored."""
    train = open_split(features, "train")
    values = train.inputs(0, np.arange(len(train)), tokens=False).double()
    labels = torch.from_numpy(np.asarray(train.labels))
    return F.normalize(torch.stack([values[labels == k].mean(dim=0) for k in range(10)]), dim=1).float()


def test_class_means_are_those_of_the_features_of_the_initial_backbone(finished):
    stored = finished.classifier(None)
    expected = means_of_features(finished.folder / finished.run("features").folder)
    assert float(stored["cosine_scale"]) == 25
    torch.testing.assert_close(stored["weight"], expected, rtol=1e-4, atol=1e-5)
    record = read_record(finished.folder / finished.run("finetune").folder)["results"]
    assert record["initial_classifier"] == {"source": "class_means", "classes_without_images": []}


def test_experts_start_from_the_means_of_their_own_features(finished):
    train = open_split(finished.folder / finished.run("features", "experts").folder, "train")
    values = train.inputs(0, np.arange(len(train)), tokens=False).double().unflatten(1, (2, -1))
    labels = torch.from_numpy(np.asarray(train.labels))
    means = torch.stack([values[labels == k].mean(dim=0) for k in range(10)], dim=1)
    expected = F.normalize(means, dim=2).float()
    torch.testing.assert_close(finished.classifier("experts")["weight"], expected, rtol=1e-4, atol=1e-5)


def test_text_features_are_projected_into_the_space_of_the_features(finished):
    stored = finished.classifier("text")
    expected = expected_rows(finished.folder / TEXT_WEIGHTS, WORDS)
    torch.testing.assert_close(stored["weight"], expected, rtol=1e-4, atol=1e-5)
    assert stored["bias"].abs().max() < 1e-15
    record = read_record(finished.folder / finished.run("finetune", "text").folder)["results"]
    assert record["initial_classifier"]["embedding_width"] == 8


def test_embeddings_from_a_file_are_projected_with_the_initial_weights(finished):
    rows = torch.from_numpy(np.load(finished.folder / "rows.npy"))
    projection = load_weights(finished.folder / BACKBONE_WEIGHTS)["head.weight"]
    expected = F.normalize(F.normalize(rows, dim=1) @ projection, dim=1)
    torch.testing.assert_close(finished.classifier("file")["weight"], expected, rtol=1e-4, atol=1e-5)


def test_a_resumed_run_does_not_compute_the_class_means_again(finished, tmp_path, monkeypatch):
    calls: list[int] = []

    def counted(*arguments, **options):
        calls.append(1)
        return class_means(*arguments, **options)

    monkeypatch.setattr(initial_classifier, "class_means", counted)
    run = finished.run("finetune")
    resumed = interrupt_finetuning(tmp_path, finished.folder, run, 2, monkeypatch)
    assert len(calls) == 1
    once = finished.folder / run.folder / "model.safetensors"
    assert (resumed / "model.safetensors").read_bytes() == once.read_bytes()
    assert not (resumed / "checkpoints").exists()


def test_the_means_do_not_depend_on_the_number_of_ranks(finished, monkeypatch):
    """The dataset has ten classes; an eleventh has no images."""
    monkeypatch.setattr("mem.jobs.class_means.FEATURE_BATCH", 64)
    model = build(BACKBONE, 10)
    weights = load_weights(finished.folder / BACKBONE_WEIGHTS)
    load_into(model.backbone, {n: v for n, v in weights.items() if n != "head.weight"}, allow_missing=("head.",))
    model.train()

    class Part(World):
        """A rank whose sums are not added to those of other ranks."""

        def sum(self, value: Tensor) -> Tensor:
            return value

    def means(world: World) -> tuple[Tensor, Tensor]:
        job = replace(job_of(finished.folder, finished.run("finetune")), world=world)
        return class_means(job, model, BACKBONE, images_of(job, "train"), 11, precision="fp32")

    alone, counts = means(World())
    assert counts[10] == 0 and not alone[:, 10].any()
    for ranks in (2, 3):
        parts = [means(Part(rank, ranks)) for rank in range(ranks)]
        assert all(part.any() for part, _ in parts)
        torch.testing.assert_close(sum(part for part, _ in parts), alone, rtol=1e-10, atol=1e-12)
        assert all(torch.equal(found, counts) for _, found in parts)


@pytest.mark.parametrize("cosine_scale", [None, 25])
def test_classes_without_training_images_keep_random_weights(cosine_scale):
    model = build(BACKBONE, 4, cosine_scale=cosine_scale)
    if cosine_scale is None:
        torch.nn.init.ones_(model.linear.bias)
    before = model.linear.weight.detach().clone()
    rows = torch.zeros(1, 4, 16)
    rows[..., 0] = 1
    initial_classifier._set(model, rows, torch.tensor([True, False, True, True]))
    assert torch.equal(model.linear.weight[1], before[1])
    assert torch.equal(model.linear.weight[[0, 2, 3]], rows[0, [0, 2, 3]])
    if cosine_scale is None:
        assert model.linear.bias.tolist() == [0, 1, 0, 0]


def test_a_stored_classifier_of_another_run_and_a_damaged_one_are_not_read(finished, tmp_path):
    job = replace(job_of(finished.folder, finished.run("finetune")), folder=RunFolder(tmp_path))
    weights, known = torch.ones(1, 2, 3), torch.tensor([True, False])
    assert initial_classifier._stored(job) is None
    initial_classifier._store(job, weights, known, {"source": "class_means"})
    stored = initial_classifier._stored(job)
    assert stored is not None
    assert torch.equal(stored[0], weights) and torch.equal(stored[1], known) and stored[2] == {"source": "class_means"}
    other = replace(job, run=job_of(finished.folder, finished.run("finetune", "text")).run)
    assert initial_classifier._stored(other) is None
    next(job.folder.checkpoints.iterdir()).write_bytes(b"damaged")
    assert initial_classifier._stored(job) is None


def test_a_changed_file_of_embeddings_is_reported(finished, tmp_path):
    run = finished.run("finetune", "file")
    for earlier in run.lineage():
        (tmp_path / earlier.folder).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / earlier.folder).symlink_to(finished.folder / earlier.folder)
    (tmp_path / run.folder).mkdir(parents=True)
    for name in ("config.yaml", "site.yaml"):
        (tmp_path / run.folder / name).write_bytes((finished.folder / run.folder / name).read_bytes())
    path = finished.folder / "rows.npy"
    content = path.read_bytes()
    try:
        np.save(path, np.ones((10, 8), np.float32))
        errors = call_mem(tmp_path, "finetune", "--config", str(run.folder / "config.yaml"), status=2).err
    finally:
        path.write_bytes(content)
    assert "rows.npy: changed after this run was planned" in errors
