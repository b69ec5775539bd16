"""Memory estimates of objectives that require the complete global batch."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mem.config import Compute
from mem.plan.memory import training_memory
from mem.plan.model_cost import ModelCost

MODEL = ModelCost(1e9, 3e9, 1_000_000, 1_000_000, 1e8, 0.0)
GPU = Compute(gpus_per_node=1)


@pytest.mark.parametrize(("undivided", "batch"), [(False, 128), (True, 256)])
def test_a_batch_that_cannot_be_divided_is_not_halved(undivided, batch):
    assert training_memory(MODEL, "sgd", GPU, 256, averaged=0, undivided=undivided, device_bytes=2e10).batch == batch


def test_ranks_divide_the_batch_of_every_objective():
    two = GPU.model_copy(update={"gpus_per_node": 2})
    memory = training_memory(MODEL, "sgd", two, 256, averaged=0, undivided=True)
    assert memory.batch == 128
    assert replace(memory, batch=256).bytes > memory.bytes
