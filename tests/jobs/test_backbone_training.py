"""Messages of backbone training."""

from __future__ import annotations

import pytest
import torch

from mem.data.loading.shard import RankShard
from mem.errors import UserError
from mem.jobs.backbone_training import _memory_message, _require_samples_of_ranks, _validation_steps


def test_a_batch_that_cannot_be_divided_and_does_not_fit_gives_a_message():
    with pytest.raises(UserError, match=r"128 images do not fit .* Use more GPUs"), _memory_message(True, 128):
        raise torch.OutOfMemoryError


def test_other_lacks_of_memory_are_not_changed():
    with pytest.raises(torch.OutOfMemoryError), _memory_message(False, 128):
        raise torch.OutOfMemoryError


@pytest.mark.parametrize(("global_batch", "group_size", "ranks"), [(8, 1, 8), (16, 2, 8), (15, 2, 8), (7, 1, 4)])
def test_every_rank_has_a_part_of_a_batch(global_batch, group_size, ranks):
    _require_samples_of_ranks(global_batch, group_size, ranks)
    parts = [RankShard(rank, ranks).bounds(global_batch, group_size) for rank in range(ranks)]
    assert all(low < high for low, high in parts)


@pytest.mark.parametrize(
    ("global_batch", "group_size", "message"),
    [
        (7, 1, "global_batch: 7 samples are too few for 8 ranks"),
        (14, 2, "global_batch: 14 samples, in 7 groups of 2 that are mixed with each other, are too few for 8 ranks"),
    ],
)
def test_a_batch_with_fewer_samples_than_ranks_is_refused(global_batch, group_size, message):
    with pytest.raises(UserError, match=message):
        _require_samples_of_ranks(global_batch, group_size, 8)


@pytest.mark.parametrize(("every_epochs", "steps"), [(0, 0), (0.01, 1), (0.5, 8), (2, 31)])
def test_a_short_interval_validates_after_every_step_and_none_only_at_the_end(every_epochs, steps):
    assert _validation_steps(every_epochs, 15.5) == steps
