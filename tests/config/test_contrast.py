"""Contrastive objectives: settings that do not fit together are rejected when the study is loaded."""

from __future__ import annotations

import copy

import pytest

from mem.config import Study
from tests.config.studies import error_message
from tests.objectives.contrastive import PACO

ERASED = {"crop_scale": [0.5, 1.0], "flip": False, "erasing": 0.25}
PLAIN = {"crop_scale": [0.5, 1.0], "flip": False}


def study(mini_values: dict, finetune: dict | None = None, contrast: dict | None = None, compute: dict | None = None):
    """Return the mini study finetuned with PaCo, a batch of 64 and a queue of 64."""
    values = copy.deepcopy(mini_values)
    objective = copy.deepcopy(PACO)
    objective["contrast"] |= contrast or {}
    values["finetune"] |= {"objective": objective, "label_smoothing": 0.0} | (finetune or {})
    values["heads"] = {"paco": {"method": "finetuned"}}
    return values | {"compute": {"finetune": compute or {}}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"contrast": {"queue": 32}},
            "objective.contrast.queue (32) is smaller than global_batch (64), but each step adds the keys of a global "
            "batch; use a multiple of global_batch",
        ),
        ({"contrast": {"queue": 100}}, "objective.contrast.queue (100) must be a multiple of global_batch (64)"),
        ({"finetune": {"mixup": 0.8}}, "objective `paco` is not defined for soft targets"),
        ({"finetune": {"cutmix": 1.0}}, "objective `paco` is not defined for soft targets"),
        ({"finetune": {"label_smoothing": 0.1}}, "objective `paco` is not defined for soft targets"),
        (
            {"compute": {"micro_batch": 16}},
            "finetune.objective: `paco` compares the samples of the global batch, so that a rank must process its 64 "
            "images at once, but compute.finetune.micro_batch is 16; remove micro_batch",
        ),
        (
            {"compute": {"tasks_per_node": 3}},
            "finetune.objective: `paco` compares the samples of the global batch, of which every rank needs an equal "
            "part, but finetune.global_batch (64) is not a multiple of the number of ranks (3)",
        ),
        ({"contrast": {"second_view": ERASED}}, "random erasing is not available for the second view"),
        ({"finetune": {"augmentation": ERASED}}, "random erasing is not available for the second view"),
        ({"finetune": {"experts": {"number": 2}}}, "objective `paco` is not defined for experts; remove experts"),
    ],
)
def test_settings_that_do_not_fit_are_rejected_with_one_message(tmp_path, mini_values, changes, message):
    found = error_message(tmp_path, study(mini_values, **changes))
    assert message in found
    assert found.count("study.yaml:") == 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"contrast": {"queue": 640}},
        {"compute": {"tasks_per_node": 4, "micro_batch": 16}},
        {"finetune": {"augmentation": ERASED}, "contrast": {"second_view": PLAIN}},
    ],
)
def test_settings_that_fit_are_accepted(mini_values, changes):
    finetune = Study.model_validate(study(mini_values, **changes)).finetune
    assert finetune is not None and finetune.contrast is not None and finetune.whole_batch


def test_a_variant_with_another_objective_has_one_view(mini_values):
    values = study(mini_values)
    values["finetune_variants"] = {"plain": {"objective": "cross_entropy"}}
    values["heads"]["ce"] = {"method": "ce", "finetuning": "plain"}
    assert Study.model_validate(values).finetune_variants["plain"].contrast is None
