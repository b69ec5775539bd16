"""Training state: everything that a checkpoint saves and restores."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor, nn

from mem.train.meters import Meter
from mem.train.optimizers import averaged_copy


class Snapshot(TypedDict):
    """Content of a checkpoint. Random numbers depend only on the step, so no generator state is saved."""

    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    step: int
    meter: dict[str, Any]
    ema: NotRequired[dict[str, Tensor]]


@dataclass
class TrainState:
    """Model, optimizer, step and metric means, which the training loop updates in place."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema_decay: float | None = None
    """Weight of the previous average at each step. None disables averaging."""
    step: int = 0
    meter: Meter = field(default_factory=Meter)
    ema: nn.Module | None = None
    """Averaged weights (Polyak & Juditsky 1992), created if `ema_decay` is set."""

    def __post_init__(self) -> None:
        if self.ema_decay is not None:
            self.ema = averaged_copy(self.model)

    @property
    def evaluated_model(self) -> nn.Module:
        """The model to evaluate and save: the averaged model if averaging is enabled."""
        return self.model if self.ema is None else self.ema

    def snapshot(self) -> Snapshot:
        """Return the content of a checkpoint."""
        content: Snapshot = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "meter": {"sums": self.meter.sums, "steps": self.meter.steps},
        }
        if self.ema is not None:
            content["ema"] = self.ema.state_dict()
        return content

    def restore(self, snapshot: Snapshot) -> None:
        """Restore the state from the content of a checkpoint."""
        self.model.load_state_dict(snapshot["model"])
        self.optimizer.load_state_dict(snapshot["optimizer"])
        _use_strides_of_parameters(self.optimizer)
        if self.ema is not None:
            self.ema.load_state_dict(snapshot["ema"])  # type: ignore[typeddict-item]
        self.step = snapshot["step"]
        device = next(self.model.parameters()).device
        self.meter = Meter(
            {name: value.to(device) for name, value in snapshot["meter"]["sums"].items()},
            snapshot["meter"]["steps"],
        )


def _use_strides_of_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Give the optimizer's state the strides of its parameters, which fused optimizers require.

    They differ if the checkpoint was written with another memory format, for example on another kind of device.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if torch.is_tensor(value) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)
