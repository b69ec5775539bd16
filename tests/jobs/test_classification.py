"""The step of finetuning: what it passes to the loss."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mem.data.batch import Batch
from mem.jobs.classification import Classification
from mem.models.pixels import Pixels
from mem.objectives.base import FinetuningLoss

PIXELS = Pixels((0.5,) * 3, (0.25,) * 3)


class Recorded(FinetuningLoss):
    """A loss that records the epoch of its targets."""

    def values(self, logits, targets):
        self.epoch = targets.epoch
        return logits.sum(dim=1)


class Constant(nn.Module):
    def forward(self, images, _):
        return torch.zeros(len(images), 3)


@pytest.mark.parametrize(("first", "epoch"), [(0, 0.0), (6, 0.0), (24, 24 / 40), (35, 24 / 40), (48, 48 / 40)])
def test_all_parts_of_a_step_have_the_epoch_of_its_first_sample(first, epoch):
    loss = Recorded(3)
    batch = Batch(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.tensor([0, 1]), first, seed=0)
    Classification(PIXELS, loss, branches=0, global_batch=12, images=40)(Constant(), batch)
    assert loss.epoch == epoch
