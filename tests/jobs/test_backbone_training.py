"""Messages of backbone training."""

from __future__ import annotations

import pytest
import torch

from mem.errors import UserError
from mem.jobs.backbone_training import _memory_message


def test_a_batch_that_cannot_be_divided_and_does_not_fit_gives_a_message():
    with pytest.raises(UserError, match=r"128 images do not fit .* Use more GPUs"), _memory_message(True, 128):
        raise torch.OutOfMemoryError


def test_other_lacks_of_memory_are_not_changed():
    with pytest.raises(torch.OutOfMemoryError), _memory_message(False, 128):
        raise torch.OutOfMemoryError
