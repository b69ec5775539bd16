"""Training that ends before its last step, because of the state of the model at the end of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from mem.data.batch import Batch
from mem.errors import Stopped
from mem.train.checkpoints import Checkpoints
from mem.train.context import FitContext
from mem.train.loop import fit
from mem.train.schedules import Schedule
from mem.train.state import TrainState
from tests.train.training import Stop

EPOCH, STEPS, LIMIT = 2.5, 12, 5.5
"""The epochs end after the steps 3, 5, 8, 10. Every step adds 1 to the parameter, so that training ends after 8."""
SCHEDULE = Schedule(STEPS, EPOCH, lambda step: 1.0, ends_early=lambda model: model.value.item() > LIMIT)


class Counter(nn.Module):
    """A model whose parameter increases by 1 in each step, with learning rate 1."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))

    def forward(self) -> torch.Tensor:
        return -self.value


class Data:
    global_batch = 2

    def __init__(self) -> None:
        self.steps: list[int] = []

    def from_step(self, step: int, until: int) -> Iterator[Batch]:
        for number in range(step, until):
            self.steps.append(number)
            yield Batch(torch.zeros(2, 1), torch.zeros(2, dtype=torch.long), 2 * number, seed=0)


def trained(folder: Path, schedule: Schedule, stop: Stop, state: TrainState, data: Data | None = None) -> None:
    checkpoints = Checkpoints(folder, "key", every_seconds=1e9, warn=lambda text: None)
    context = FitContext("test", checkpoints=checkpoints, stop=stop, quiet=True)
    fit(state, data or Data(), lambda replica, batch: (replica(), {}), schedule, context)


def new_state() -> TrainState:
    model = Counter()
    return TrainState(model, torch.optim.SGD(model.parameters(), lr=0.0))


def test_training_ends_after_the_first_epoch_in_which_the_condition_holds(tmp_path):
    state = new_state()
    trained(tmp_path, SCHEDULE, Stop(), state)
    assert (state.step, state.model.value.item()) == (8, 8.0)


def test_without_the_condition_training_ends_at_the_last_step(tmp_path):
    for ends_early in (None, lambda model: False):
        state = new_state()
        trained(tmp_path, replace(SCHEDULE, ends_early=ends_early), Stop(), state)
        assert state.step == STEPS


@pytest.mark.parametrize("stopped_at", [2, 3, 7, 8])
def test_training_that_resumes_ends_at_the_same_step(tmp_path, stopped_at):
    interrupted = new_state()
    with pytest.raises(Stopped, match=f"Saved at step {stopped_at} of {STEPS}"):
        trained(tmp_path, SCHEDULE, Stop(interrupted, stopped_at), interrupted)
    resumed, data = new_state(), Data()
    trained(tmp_path, SCHEDULE, Stop(), resumed, data)
    assert (resumed.step, resumed.model.value.item()) == (8, 8.0)
    assert data.steps == list(range(stopped_at, 8))
