"""Losses for the logits of several experts: the mean over the experts, unless a loss is made for experts."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn

from mem.data.batch import Batch
from mem.jobs.classification import Classification
from mem.models.pixels import Pixels
from mem.objectives.base import FinetuningLoss, ensemble_logits
from tests.objectives.test_build import EXPERTS, HARD, LABELS, MIXED, OBJECTIVES, SOFT, objective_of


def logits_of_experts() -> torch.Tensor:
    return torch.randn(6, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.mark.parametrize(
    ("name", "targets"), [(n, HARD) for n in OBJECTIVES if n not in EXPERTS] + [(n, MIXED) for n in SOFT]
)
def test_the_value_of_a_sample_is_the_mean_over_the_experts(name, targets):
    loss, logits = objective_of(name), logits_of_experts()
    values = loss(logits, targets)
    separate = torch.stack([loss(logits[:, e], targets) for e in range(3)])
    torch.testing.assert_close(values, separate.mean(dim=0), rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(values.sum(), logits, retain_graph=True)
    (expected,) = torch.autograd.grad(separate.sum() / 3, logits)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


class ForExperts(FinetuningLoss):
    requires_experts: ClassVar[bool] = True

    def values(self, logits, targets):
        assert logits.ndim == 3
        return logits.sum(dim=(1, 2))


def test_a_loss_for_experts_receives_all_experts_and_requires_them():
    logits = logits_of_experts()
    assert torch.equal(ForExperts(5)(logits, HARD), logits.sum(dim=(1, 2)))
    with pytest.raises(ValueError, match="ForExperts: requires the logits of several experts"):
        ForExperts(5)(logits[:, 0], HARD)
    with pytest.raises(ValueError, match="found logits of 4 classes"):
        ForExperts(5)(logits[:, :, :4], HARD)


def test_predictions_use_the_mean_of_the_logits():
    logits = logits_of_experts().detach()
    assert torch.equal(ensemble_logits(logits), (logits[:, 0] + logits[:, 1] + logits[:, 2]) / 3)
    assert ensemble_logits(logits[:, 0]).data_ptr() == logits.data_ptr()
    assert ensemble_logits(logits.bfloat16()).dtype == torch.float32


class Experts(nn.Module):
    """Experts of which only one is right, with a large margin."""

    def forward(self, images, _):
        logits = torch.zeros(len(images), 3, 5)
        logits[range(6), 0, LABELS] = 9.0
        logits[:, 1:, 4] = 4.0
        return logits


def test_the_accuracy_of_a_step_is_that_of_the_ensemble():
    batch = Batch(torch.zeros(6, 4, 4, 3, dtype=torch.uint8), torch.from_numpy(LABELS), 0, seed=0)
    loss = objective_of("cross_entropy")
    value, metrics = Classification(Pixels((0.5,) * 3, (0.25,) * 3), loss, branches=0)(Experts(), batch)
    assert float(metrics["acc1"]) == 100  # each of the other experts predicts class 4
    expected = torch.stack([loss(Experts()(batch.inputs, None)[:, e], HARD) for e in range(3)]).mean()
    torch.testing.assert_close(value, expected)


def test_the_accuracy_of_a_step_is_that_of_the_predictions_of_the_loss(monkeypatch):
    batch = Batch(torch.zeros(6, 4, 4, 3, dtype=torch.uint8), torch.from_numpy(LABELS), 0, seed=0)
    loss = objective_of("cross_entropy")
    monkeypatch.setattr(loss, "predictions", lambda logits: logits[:, 1])
    _, metrics = Classification(Pixels((0.5,) * 3, (0.25,) * 3), loss, branches=0)(Experts(), batch)
    assert float(metrics["acc1"]) == pytest.approx(100 * (LABELS == 4).mean())
