"""Merging of layers: sections whose kind changes, and null at any level of the overrides."""

from __future__ import annotations

from pathlib import Path

import pytest

from mem.config import Crt, NoBackbone
from mem.config.load import load_study, study_files
from mem.errors import UserError
from tests.conftest import REPOSITORY

MINI = REPOSITORY / "tests" / "mini.yaml"
PIXELS = "pixel_mean: [0.5, 0.5, 0.5], pixel_std: [0.5, 0.5, 0.5], storage: raw"
CONVMAE = (
    "{name: c, kind: convmae, image_size: 8, patch_sizes: [2, 2, 1], widths: [4, 4, 8], depths: [1, 1, 1], heads: 2, "
    "center_crop: 1.0}"
)


def extended(folder: Path, text: str) -> Path:
    path = folder / "top.yaml"
    path.write_text(f"extends: {MINI}\n{text}\n")
    return path


def test_a_section_whose_kind_changes_is_replaced_as_a_whole(tmp_path):
    folder = f"{{source: folder, name: own, root: photos, train_folder: train, test_folder: test, {PIXELS}}}"
    changes = {
        "backbone": f"backbone: {CONVMAE}",
        "dataset": f"dataset: {folder}\nheads: {{tau: {{taus: [1.0]}}}}",
    }
    for section, text in changes.items():
        study = load_study([extended(tmp_path, text)])
        assert getattr(study, section).name in ("c", "own")
    features = (
        "dataset: {source: features, name: f, train_features: t.safetensors, test_features: s.safetensors}\n"
        "backbone: {kind: none, name: own}\npretrain: null\nfinetune: null\nfeatures: null\n"
        "heads: {ce: {training: {epochs: 1, global_batch: 8, optimizer: sgd, lr: 0.1, weight_decay: 0.0, "
        "sampler: instance}}, tau: {taus: [1.0]}, mem: {training: {views: 0}}, mem_on_crt: {training: {views: 0}}}"
    )
    assert isinstance(load_study([extended(tmp_path, features)]).backbone, NoBackbone)


def test_a_head_whose_method_changes_is_replaced_as_a_whole(tmp_path):
    training = "{epochs: 1, global_batch: 8, optimizer: sgd, lr: 0.1, weight_decay: 0.0, sampler: instance}"
    study = load_study([extended(tmp_path, f"heads: {{mem_on_crt: {{method: crt, training: {training}}}}}")])
    assert isinstance(study.heads["mem_on_crt"], Crt)
    # The name of a head is its method by default, so this does not change the kind.
    same = load_study([MINI], {"heads": {"mem": {"method": "mem", "xi": 50}}})
    assert same == load_study([MINI], {"heads": {"mem": {"xi": 50}}})


LADE = "{name: lade, regulariser_weight: 0.1, quadratic_weight: 0.5}"


def extended_lade(folder: Path, text: str) -> Path:
    """Return a file that extends a study with LADE in `finetune` and focal loss in the variant `other`."""
    base = extended(
        folder,
        f"finetune: {{label_smoothing: 0.0, objective: {LADE}}}\n"
        "finetune_variants: {other: {objective: {name: focal, gamma: 2.0}}}\n"
        "heads: {ce: {method: finetuned}, other: {method: finetuned, finetuning: other}}",
    ).rename(folder / "base.yaml")
    path = folder / "study.yaml"
    path.write_text(f"extends: {base.name}\n{text}\n")
    return path


def test_an_objective_whose_name_changes_is_replaced_as_a_whole(tmp_path):
    objectives = {
        "{name: logit_adjustment, tau: 1.0}": {"name": "logit_adjustment", "tau": 1.0},
        "balanced_softmax": {"name": "balanced_softmax"},
        "{name: balanced_softmax}": {"name": "balanced_softmax"},
    }
    for text, expected in objectives.items():
        study = load_study([extended_lade(tmp_path, f"finetune: {{objective: {text}}}")])
        assert study.finetune is not None
        assert study.finetune.objective.model_dump() == expected
        variants = f"finetune_variants: {{other: {{objective: {text}}}}}"
        assert load_study([extended_lade(tmp_path, variants)]).finetune_variants["other"].objective.model_dump() == (
            expected
        )


def test_an_objective_with_the_same_name_keeps_its_settings(tmp_path):
    for text in ("lade", "{name: lade}", "{quadratic_weight: 0.5}"):
        study = load_study([extended_lade(tmp_path, f"finetune: {{objective: {text}}}")])
        assert study.finetune is not None
        assert study.finetune.objective.model_dump() == {
            "name": "lade", "regulariser_weight": 0.1, "quadratic_weight": 0.5,
        }  # fmt: skip


def test_the_settings_that_a_replaced_objective_lacks_are_reported_with_the_reason(tmp_path):
    path = extended_lade(tmp_path, "finetune_variants:\n  other:\n    objective: lade")
    with pytest.raises(UserError) as error:
        load_study([path])
    lines = str(error.value).splitlines()
    assert lines[0].startswith(f"{path}:4: `finetune_variants.other.objective.regulariser_weight` is missing")
    assert lines[-1].startswith(
        f"{path}:4: `finetune_variants.other.objective.name` changes from `focal` to `lade`. This replaces the section"
    )


def test_the_settings_that_a_replaced_section_lacks_are_reported_with_the_reason(tmp_path):
    path = extended(tmp_path, "backbone:\n  kind: timm\n  model: resnet18")
    with pytest.raises(UserError) as error:
        load_study([path])
    lines = str(error.value).splitlines()
    assert f"{path}:2: `backbone.image_size` is missing: Side of the square input in pixels." in lines
    assert not any("unknown key" in line for line in lines)
    assert lines[-1] == (
        f"{path}:3: `backbone.kind` changes from `vit` to `timm`. This replaces the section as a whole, so specify all "
        "its settings here."
    )


def test_null_removes_a_nested_section_as_snakemake_passes_it():
    # Snakemake parses values inside a mapping with a loader that returns every scalar as text.
    config = {"dataset": {"cut": {"val_per_class": "5"}, "holdout": "null"}, "heads": {"ncm": "~"}, "pretrain": "null"}
    _, overrides = study_files(config, [MINI], REPOSITORY / "config")
    assert overrides["dataset"] == {"cut": {"val_per_class": "5"}, "holdout": None}
    study = load_study([MINI], overrides)
    assert study.pretrain is None
    assert study.heads["ncm"].method == "ncm"
    lists = {"heads": {"tau": {"taus": ["0.5", "null"]}}, "description": "2024-01-01"}
    _, overrides = study_files(lists, [MINI], REPOSITORY / "config")
    assert overrides == {"heads": {"tau": {"taus": ["0.5", None]}}, "description": "2024-01-01"}
