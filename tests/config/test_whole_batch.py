"""Objectives that require the complete global batch: micro-batches and unequal parts are rejected with the study."""

from __future__ import annotations

import copy

import pytest

from mem.config import Study
from tests.config.studies import error_message

LADE = {"objective": {"name": "lade", "regulariser_weight": 0.1, "quadratic_weight": 0.5}, "label_smoothing": 0.0}
BALANCED = {"objective": "balanced_softmax"}


def with_finetunings(mini_values: dict, base: dict, variant: dict, compute: dict) -> dict:
    """Return the mini study with changed settings of `finetune`, the variant `other` and resources of finetuning."""
    values = copy.deepcopy(mini_values)
    values["finetune"] |= base | {"global_batch": 64}
    values["heads"] = {"ce": {"method": "ce" if "objective" not in base else "finetuned"},
                       "other": {"method": "finetuned", "finetuning": "other"}}  # fmt: skip
    return values | {"finetune_variants": {"other": variant}, "compute": {"finetune": compute}}


UNEQUAL = (
    "{name}.objective: `lade` computes statistics over the global batch, of which every rank needs an equal part, but "
    "{name}.global_batch (64) is not a multiple of the number of ranks ({ranks})"
)
DIVIDED = (
    "{name}.objective: `lade` computes statistics over the global batch, so that a rank must process its {part} images "
    "at once, but compute.finetune.micro_batch is 8; remove micro_batch"
)


@pytest.mark.parametrize(
    ("compute", "message", "numbers"),
    [
        ({"tasks_per_node": 3}, UNEQUAL, {"ranks": 3}),
        ({"nodes": 3, "gpus_per_node": 2}, UNEQUAL, {"ranks": 6}),
        ({"micro_batch": 8}, DIVIDED, {"part": 64}),
        ({"tasks_per_node": 2, "micro_batch": 8}, DIVIDED, {"part": 32}),
    ],
)
def test_lade_with_a_divided_batch_is_rejected_in_every_finetuning(tmp_path, mini_values, compute, message, numbers):
    for name, base, variant in (("finetune", LADE, BALANCED), ("finetune_variants.other", {}, LADE)):
        values = with_finetunings(mini_values, base, variant, compute)
        assert message.format(name=name, **numbers) in error_message(tmp_path, values)


@pytest.mark.parametrize(
    ("variant", "compute"),
    [
        (LADE, {"tasks_per_node": 2}),
        (LADE, {"tasks_per_node": 2, "micro_batch": 32}),
        (BALANCED, {"tasks_per_node": 3, "micro_batch": 8}),
    ],
)
def test_equal_parts_and_other_objectives_are_accepted(mini_values, variant, compute):
    Study.model_validate(with_finetunings(mini_values, {}, variant, compute))


def test_a_finetuning_that_no_head_uses_is_not_checked(mini_values):
    values = with_finetunings(mini_values, LADE, BALANCED, {"micro_batch": 8})
    del values["heads"]["ce"]
    Study.model_validate(values)
