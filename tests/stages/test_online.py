"""Features from disk and from the backbone in the loop are the same, and so are the heads that learn from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from mem.config.load import load_study
from mem.data.features.batches import TrainingFeatures
from mem.data.features.files import FeatureSource, open_split
from mem.data.loading.samplers import build_sampler
from mem.distributed import World
from mem.errors import UserError
from mem.heads.build import load_head
from mem.jobs.job import Job
from mem.jobs.online_features import feature_sources
from mem.jobs.signals import StopSignals
from mem.runs.dag import Run, study_runs
from mem.runs.folder import RunFolder
from mem.runs.run_config import read_config, write_configs
from mem.tracking.log import NullLog
from tests.conftest import REPOSITORY
from tests.stages.running import run_here

MINI = yaml.safe_load((REPOSITORY / "tests" / "mini.yaml").read_text())
CNN = {"name": "cnn", "kind": "timm", "model": "resnet18", "image_size": 32, "center_crop": 1.0, "norm_batch": 32}
AUGMENTATION = {
    "crop_scale": [0.5, 1.0],
    "flip": True,
    "rand_augment": {"layers": 1, "magnitude": 5, "magnitude_std": 0.5, "increasing": True},
    "color_jitter": [0.2, 0.2, 0.2],
}


def values(kind: str, online: bool) -> dict:
    """A study of a ViT or a CNN: a head of each way of seeing features and of each sampler."""
    features = {"views": 2, "augmentation": AUGMENTATION, "tokens": True, **({"online": True} if online else {})}
    heads = {name: MINI["heads"][name] for name in ("ce", "tau", "crt", "mem_on_crt")} | {"ncm": {"method": "ncm"}}
    heads["mem_on_crt"] = MINI["heads"]["mem"] | heads["mem_on_crt"]
    finetune = MINI["finetune"] | {"epochs": 1, "warmup_epochs": 0.1, "drop_path": 0.0}
    changed = {"pretrain": None, "finetune": finetune, "features": features, "heads": heads, "compute": {}}
    return MINI | changed | ({"backbone": CNN} if kind == "cnn" else {})


@pytest.fixture(scope="module", params=["vit", "cnn"])
def runs(request, tmp_path_factory) -> tuple[Path, dict[bool, list[Run]]]:
    """The folder in which both studies were run, and their runs by whether they are online."""
    folder = tmp_path_factory.mktemp(request.param)
    made: dict[bool, list[Run]] = {}
    for online in (False, True):
        (folder / "study.yaml").write_text(yaml.safe_dump(values(request.param, online)))
        study = load_study([folder / "study.yaml"])
        made[online] = study_runs(study)
        write_configs(made[online], study, folder)
        for run in made[online][:-1]:
            if not RunFolder(folder / run.folder).finished():
                run_here(folder, [run.stage, "--config", str(run.folder / "config.yaml")])
    return folder, made


def run_of(runs: list[Run], stage: str, variant: str | None = None) -> Run:
    return next(r for r in runs if r.stage == stage and variant in (None, r.labels.get("variant")))


def online_splits(folder: Path, runs: list[Run]) -> Callable[[str], FeatureSource]:
    """The splits as the stage train_head has them."""
    run = run_of(runs, "train_head", "crt")
    inputs = {name: folder / parent.folder for name, parent in run.inputs.items()}
    config = read_config(folder / run.folder, "train_head")
    return feature_sources(Job(config, RunFolder(folder / run.folder), inputs, World(), NullLog(), StopSignals()))


def both(runs: tuple[Path, dict[bool, list[Run]]], split: str = "train") -> tuple[FeatureSource, FeatureSource]:
    folder, made = runs
    stored = open_split(folder / run_of(made[False], "features").folder, split)
    return stored, online_splits(folder, made[True])(split)


@pytest.mark.parametrize("tokens", [False, True])
def test_each_view_of_each_image_gives_the_features_that_are_stored(runs, tokens):
    for split in ("train", "val", "test"):
        stored, online = both(runs, split)
        assert (len(online), online.views, online.shape(tokens=tokens)) == (
            len(stored),
            stored.views,
            stored.shape(tokens=tokens),
        )
        assert online.labels.tolist() == stored.labels.tolist()
        rng = np.random.default_rng(0)
        indices = rng.permutation(len(stored))[:70]
        views = rng.integers(0, stored.views, 70)
        expected = stored.inputs(views, indices, tokens=tokens)
        scale = float(expected.abs().max())
        torch.testing.assert_close(
            online.inputs(views, indices, tokens=tokens), expected, rtol=1e-4, atol=1e-4 * max(1.0, scale)
        )


@pytest.mark.parametrize("sampler", ["instance", "class_balanced"])
@pytest.mark.parametrize("step", [0, 3])
def test_a_training_sees_the_same_samples_from_any_step_with_any_number_of_workers(runs, sampler, step, monkeypatch):
    stored = both(runs)[0]

    def batches(split: FeatureSource, first: int) -> list:
        order = build_sampler(sampler, split.labels, 10, 0)
        return list(TrainingFeatures(split, order, 24, 0, True).from_step(first, 5))

    expected = batches(stored, step)
    for cores in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", cores)
        for one, other in zip(batches(both(runs)[1], step), expected, strict=True):
            assert (one.labels.tolist(), one.first, one.seed) == (other.labels.tolist(), other.first, other.seed)
            torch.testing.assert_close(one.inputs, other.inputs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", ["crt", "mem_on_crt", "ncm", "tau"])
def test_heads_end_with_the_same_weights(runs, head):
    folder, made = runs
    stored, online = (load_head(folder / run_of(made[o], "train_head", head).folder) for o in (False, True))
    for (name, one), other in zip(stored.state_dict().items(), online.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3, msg=lambda text, name=name: f"{name}: {text}")


def test_an_online_study_leaves_no_features_on_disk_and_scores_alike(runs):
    folder, made = runs
    features = folder / run_of(made[True], "features").folder
    assert sorted(p.name for p in features.glob("*.npy")) == [f"{s}-labels.npy" for s in ("test", "train", "val")]
    for head in ("ce", "crt", "mem_on_crt"):
        scores = [
            json.loads((folder / run_of(made[o], "evaluate", head).folder / "metrics.json").read_text())
            for o in (False, True)
        ]
        stored, online = (s["splits"]["test"]["accuracy"]["all"] for s in scores)
        assert online == pytest.approx(stored, abs=1.01)  # one or two of 200 images may fall either way


def test_whoever_asks_for_features_that_were_not_stored_is_told_why(runs):
    folder, made = runs
    with pytest.raises(UserError, match=r"labels and no features.*`features.online: true`"):
        open_split(folder / run_of(made[True], "features").folder, "val")


def test_only_online_studies_give_heads_the_images_and_the_model():
    keys = {}
    for online in (False, True):
        study = load_study([REPOSITORY / "tests" / "mini.yaml"], {"features": {"online": online}})
        for stage in ("train_head", "evaluate"):
            run = run_of(study_runs(study), stage, "crt")
            assert ({"images", "classifier"} <= set(run.inputs)) == online
            keys[online, stage] = run.key
    plain = study_runs(load_study([REPOSITORY / "tests" / "mini.yaml"]))
    assert keys[False, "train_head"] == run_of(plain, "train_head", "crt").key
    assert keys[True, "train_head"] != keys[False, "train_head"]


def test_the_workflow_asks_an_online_study_for_labels_only(tmp_path):
    from tests.workflow.conftest import snakemake

    arguments = ("--dry-run", "--cores", "1", "--config", f"study={REPOSITORY / 'tests' / 'mini.yaml'}")
    out = snakemake(tmp_path, *arguments, "features={online: true}").stdout
    assert "train-labels.npy" in out
    assert "train-pooled.npy" not in out
    assert "train-pooled.npy" in snakemake(tmp_path, *arguments).stdout


def test_settings_that_say_nothing_are_refused():
    with pytest.raises(UserError, match="nothing is stored with `online`"):
        load_study([REPOSITORY / "tests" / "mini.yaml"], {"features": {"online": True, "dtype": "float16"}})
