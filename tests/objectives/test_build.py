"""Objectives of finetuning: precision, stability, devices, invalid input and warnings."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from mem import config, losses
from mem.errors import UserError
from mem.objectives.base import Targets
from mem.objectives.build import build_objective, empty_counts_warning
from mem.objectives.ldam import Ldam
from tests.objectives.numpy_objectives import Samples
from tests.objectives.settings import finetune, targets

OBJECTIVES: dict[str, dict[str, Any]] = {
    "cross_entropy": {"name": "cross_entropy"},
    "balanced_softmax": {"name": "balanced_softmax"},
    "logit_adjustment": {"name": "logit_adjustment", "tau": 1.0},
    "lade": {"name": "lade", "regulariser_weight": 0.1, "quadratic_weight": 0.5},
    "balanced_bce": {"name": "balanced_bce", "tau": 1.0},
    "ldam": {"name": "ldam", "max_margin": 0.5, "reweight_from_epoch": 0, "beta": 0.9999},
    "class_balanced softmax": {"name": "class_balanced", "beta": 0.99, "loss": "softmax"},
    "class_balanced sigmoid": {"name": "class_balanced", "beta": 0.99, "loss": "sigmoid"},
    "class_balanced focal": {"name": "class_balanced", "beta": 0.99, "loss": "focal", "gamma": 0.5},
    "focal": {"name": "focal", "gamma": 0.5},
    "ride": {
        "name": "ride",
        "max_margin": 0.5,
        "reweight_from_epoch": 0,
        "beta": 0.9999,
        "diversity_weight": 0.2,
        "temperature": 1.0,
        "temperature_prior_weight": 0.05,
    },
    "sade": {"name": "sade", "tau": 2.0},
    "ncl": {"name": "ncl", "hard_classes": 1, "mutual_weight": 0.6},
    "ace": {"name": "ace", "largest_counts": [100, 19], "suppression_weight": 0.1},
}
EXPERTS = ("ride", "sade", "ncl", "ace")
"""Objectives of three experts."""
COSINE = ("ldam", "ride")
SOFT = ("cross_entropy", "balanced_softmax", "logit_adjustment", "balanced_bce")
"""Objectives that are defined for mixed samples and label smoothing."""
WITHOUT_COUNTS = ("cross_entropy", "focal")
WHOLE_BATCH = ("lade",)
AT_LEAST_TWO_CLASSES = ("balanced_bce", "class_balanced sigmoid", "class_balanced focal", "focal")
COUNTS = np.array([500, 40, 7, 0, 3])
LABELS = np.array([0, 0, 1, 4, 2, 0])
HARD = targets(Samples(LABELS))
MIXED = targets(Samples(LABELS, LABELS[::-1].copy(), np.linspace(0, 1, 6, dtype=np.float32)))


def objective_of(name: str, counts: np.ndarray = COUNTS, label_smoothing: float = 0.0):
    return build_objective(settings_of(name, label_smoothing), counts)


def settings_of(name: str, label_smoothing: float = 0.0) -> config.Finetune:
    cosine_scale, experts = 10 if name in COSINE else None, 3 if name in EXPERTS else None
    return finetune(OBJECTIVES[name], label_smoothing, cosine_scale, experts)


def logits_of(name: str, logits: torch.Tensor) -> torch.Tensor:
    """Return logits, for an objective of experts with a dimension for experts that differ."""
    return torch.stack([logits, logits.roll(1, dims=1), 0.5 * logits], dim=1) if name in EXPERTS else logits


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cross_entropy_is_bitwise_that_of_losses(smoothing, dtype):
    loss, logits = objective_of("cross_entropy", label_smoothing=smoothing), torch.randn(6, 5).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        assert torch.equal(loss(logits, HARD), losses.cross_entropy(logits, HARD.labels, smoothing))
        assert MIXED.mixed is not None
        expected = losses.mixed_cross_entropy(logits, MIXED.labels, *MIXED.mixed, smoothing)
        assert torch.equal(loss(logits, MIXED), expected)


@pytest.mark.parametrize("name", [n for n in OBJECTIVES if n != "cross_entropy"])
def test_bfloat16_logits_are_converted_to_float32_first(name):
    loss, logits = objective_of(name), logits_of(name, torch.randn(6, 5)).bfloat16()
    for batch in (HARD, MIXED) if name in SOFT else (HARD,):
        expected = loss(logits.float(), batch)
        with torch.autocast("cpu", torch.bfloat16):
            values = loss(logits, batch)
        assert values.dtype is torch.float32
        torch.testing.assert_close(values, expected)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_values_and_gradients_are_finite_for_large_logits(name, size):
    """Row i has a large logit for class i, which is the label of some rows and not of others."""
    logits = logits_of(name, size * torch.eye(6, 5) + torch.linspace(-1, 1, 5))
    logits.requires_grad_()
    loss = objective_of(name)
    for batch in (HARD, MIXED) if name in SOFT else (HARD,):
        values = loss(logits, batch)
        (gradient,) = torch.autograd.grad(values.mean(), logits)
        assert values.isfinite().all()
        assert gradient.isfinite().all()
        assert gradient.any()


@pytest.mark.parametrize("name", ["focal", "class_balanced focal"])
def test_the_gradient_of_a_focal_loss_is_finite_at_probability_1(name):
    """The slope of a power below 1 is infinite at 0."""
    logits = torch.tensor([[200.0, 0, 0, 0, 0]], requires_grad=True)
    value = objective_of(name)(logits, Targets(torch.tensor([0]))).mean()
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_run_on_another_device_without_waiting_and_save_nothing(name):
    """The device `meta` has no values, so an operation that reads a value fails."""
    loss = objective_of(name).to("meta")
    assert all(buffer.is_meta for buffer in loss.buffers())
    labels = torch.zeros(6, dtype=torch.int64, device="meta")
    values = loss(logits_of(name, torch.zeros(6, 5, device="meta")), Targets(labels))
    assert values.shape == (6,)
    assert not list(loss.parameters())
    assert not loss.state_dict()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_value_depends_on_other_samples_only_if_the_loss_requires_the_whole_batch(name):
    loss = objective_of(name)
    logits = logits_of(name, torch.randn(6, 5, generator=torch.Generator().manual_seed(0)))
    parts = [loss(logits[i : i + 3], Targets(HARD.labels[i : i + 3])) for i in (0, 3)]
    together = loss(logits, HARD)
    whole_batch = settings_of(name).objective.whole_batch
    assert whole_batch == (name in WHOLE_BATCH)
    assert torch.allclose(torch.cat(parts), together, atol=1e-5) != whole_batch


@pytest.mark.parametrize("name", OBJECTIVES)
def test_another_number_of_classes_is_an_error(name):
    with pytest.raises(ValueError, match="found logits of 4 classes, but training counts of 5 classes"):
        objective_of(name)(logits_of(name, torch.zeros(6, 4)), HARD)


@pytest.mark.parametrize("name", [n for n in OBJECTIVES if n not in SOFT])
def test_mixed_samples_are_an_error_where_the_loss_is_not_defined_for_them(name):
    with pytest.raises(ValueError, match="not defined for mixed samples"):
        objective_of(name)(logits_of(name, torch.zeros(6, 5)), MIXED)


def test_partner_labels_without_shares_are_an_error():
    with pytest.raises(ValueError, match="mixed samples require both"):
        Targets(HARD.labels, partner_labels=HARD.labels)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_settings_and_the_loss_agree_about_mixed_samples(name):
    soft = settings_of(name).objective.defines_soft_targets
    assert objective_of(name).accepts_mixed_samples == soft == (name in SOFT)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_settings_and_the_loss_agree_about_experts(name):
    required = settings_of(name).objective.requires_experts
    assert objective_of(name).requires_experts == required == (name in EXPERTS)


@pytest.mark.parametrize("name", EXPERTS)
def test_logits_without_experts_are_an_error_where_the_loss_requires_experts(name):
    with pytest.raises(ValueError, match="requires the logits of several experts"):
        objective_of(name)(torch.zeros(6, 5), HARD)


@pytest.mark.parametrize("name", AT_LEAST_TWO_CLASSES)
def test_one_class_is_an_error_where_a_formula_is_infinite(name):
    method = OBJECTIVES[name]["name"]
    message = f"objective `{method}`: the dataset has 1 class; expected at least 2. Use the objective `cross_entropy`"
    with pytest.raises(UserError, match=re.escape(message)):
        objective_of(name, np.array([10]))


@pytest.mark.parametrize("name", [n for n in OBJECTIVES if n not in (*AT_LEAST_TWO_CLASSES, "ace")])
def test_one_class_has_finite_values_otherwise(name):
    labels = torch.zeros(6, dtype=torch.int64)
    values = objective_of(name, np.array([10]))(logits_of(name, torch.randn(6, 1)), Targets(labels))
    assert values.isfinite().all()


def test_more_hard_classes_than_classes_are_an_error():
    settings = finetune({"name": "ncl", "hard_classes": 6, "mutual_weight": 0.6}, experts=2)
    with pytest.raises(UserError, match="hard_classes is 6, but the dataset has 5 classes; expected at most that many"):
        build_objective(settings, COUNTS)


@pytest.mark.parametrize(
    ("largest", "counts", "message"),
    [
        ([100, 19], [500, 80, 20], "with 19, expert 3 owns no class. Classes have 20 to 500 training images"),
        ([500, 19], [500, 80, 3], "with 500, expert 2 owns the same 3 classes as expert 1"),
        ([100, 90], [500, 80, 3], "with 90, expert 3 owns the same 2 classes as expert 2"),
    ],
)
def test_subsets_of_ace_that_are_empty_or_equal_are_an_error(largest, counts, message):
    settings = finetune({"name": "ace", "largest_counts": largest, "suppression_weight": 0.1}, experts=3)
    with pytest.raises(UserError, match=re.escape(message)):
        build_objective(settings, np.array(counts))


def test_a_holdout_moves_no_class_between_the_experts_of_ace():
    settings = finetune({"name": "ace", "largest_counts": [100, 19], "suppression_weight": 0.1}, experts=3)
    before, counts = np.array([500, 101, 20, 10]), np.array([450, 91, 18, 9])
    loss = build_objective(settings, counts, before)
    assert loss.get_buffer("owned").int().tolist() == [[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]]
    np.testing.assert_allclose(loss.get_buffer("shares")[:, 1], [1, 0, 0])
    np.testing.assert_allclose(loss.expert_lr_factors, [1, 27 / 568, 9 / 568])
    np.testing.assert_allclose(loss.get_buffer("factors"), [1, 568 / 27, 568 / 9], rtol=1e-6)
    with pytest.raises(UserError, match=r"expert 3 owns no class\. Classes have 20 to 500 training images"):
        build_objective(settings, counts[:3], before[:3])


@pytest.mark.parametrize(
    ("objective", "experts", "cosine_scale", "message"),
    [
        (OBJECTIVES["sade"], None, None, "objective `sade` requires experts; set experts"),
        (OBJECTIVES["sade"], 4, None, "`sade` is defined for 3 experts, but experts.number is 4; set it to 3"),
        (OBJECTIVES["ride"], 3, None, "objective `ride` requires a cosine classifier"),
        (OBJECTIVES["ride"] | {"reweight_from_epoch": 100}, 3, 10, "reweight_from_epoch (100) must be smaller than"),
        (OBJECTIVES["ride"] | {"beta": None}, 3, 10, "beta: is required with `reweight_from_epoch`"),
        (OBJECTIVES["ace"], 2, None, "largest_counts has 2 numbers for experts 2, 3, ..., but experts.number is 2"),
        (OBJECTIVES["ace"] | {"largest_counts": [19, 100]}, 3, None, "expected decreasing numbers, got [19, 100]"),
    ],
)
def test_settings_of_experts_that_do_not_fit_are_an_error(objective, experts, cosine_scale, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        finetune(objective, 0.0, cosine_scale, experts)


@pytest.mark.parametrize("name", EXPERTS)
def test_label_smoothing_is_an_error_for_objectives_of_experts(name):
    with pytest.raises(ValueError, match=f"objective `{name}` is not defined for soft targets"):
        settings_of(name, label_smoothing=0.1)


@pytest.mark.parametrize("name", [n for n in OBJECTIVES if n not in WITHOUT_COUNTS])
def test_classes_without_training_images_are_named(name):
    settings = settings_of(name).objective
    assert empty_counts_warning(settings, np.array([3, 0, 5, 0])) == (
        f"2 of 4 classes have no training images: 1, 3. The objective `{settings.name}` counts each class without "
        "images as one image. Add images."
    )
    assert empty_counts_warning(settings, np.array([3, 1, 5])) is None


@pytest.mark.parametrize("name", WITHOUT_COUNTS)
def test_no_class_is_named_for_an_objective_without_counts(name):
    settings = finetune(OBJECTIVES[name]).objective
    assert empty_counts_warning(settings, np.array([3, 0, 5])) is None
    torch.testing.assert_close(
        objective_of(name, np.array([3, 0, 5]))(torch.eye(3), Targets(torch.arange(3))),
        objective_of(name, np.array([3, 9, 5]))(torch.eye(3), Targets(torch.arange(3))),
    )


def test_a_class_without_images_does_not_change_the_margins_of_ldam():
    settings = config.LdamObjective(name="ldam", max_margin=0.5, reweight_from_epoch=None)
    counts = np.array([500, 80, 5])
    margins = Ldam(counts, settings, 30.0).get_buffer("margins")
    with_empty = Ldam(np.append(counts, 0), settings, 30.0).get_buffer("margins")
    assert margins.max() == 15
    assert torch.equal(with_empty[:3], margins)
    assert with_empty[3] == 15
