"""Training state: everything that a checkpoint saves and restores."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor, nn

from mem.errors import UserError
from mem.models.training_module import PartlyTrained, TrainingModule
from mem.train.meters import Meter
from mem.train.optimizers import averaged_copy


class Snapshot(TypedDict):
    """Content of a checkpoint. Random numbers depend only on the step, so no generator state is saved.

    `model` and `ema` contain the parameters and buffers that training can change. `meter` contains the metrics of rank
    0 since they were last logged. After a resume on several ranks, the first logged means therefore contain those of
    rank 0 in place of the other ranks' for the steps before the interruption. Weights are not affected.
    """

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
    """Averaged weights of `classifier` (Polyak & Juditsky 1992), created if `ema_decay` is set."""

    def __post_init__(self) -> None:
        if self.ema_decay is not None:
            self.ema = averaged_copy(self.classifier, _unchanged(self.classifier))

    @property
    def classifier(self) -> nn.Module:
        """The part of the model that is evaluated and saved, without modules that only training uses."""
        return self.model.saved_part if isinstance(self.model, TrainingModule) else self.model

    @property
    def evaluated_model(self) -> nn.Module:
        """The model to evaluate and save: the averaged model if averaging is enabled."""
        return self.classifier if self.ema is None else self.ema

    def snapshot(self) -> Snapshot:
        """Return the content of a checkpoint."""
        content: Snapshot = {
            "model": _changing_part(self.model, _unchanged(self.model)),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "meter": {"sums": self.meter.sums, "steps": self.meter.steps},
        }
        if self.ema is not None:
            content["ema"] = _changing_part(self.ema, _unchanged(self.classifier))
        return content

    def restore(self, snapshot: Snapshot) -> None:
        """Restore the state from the content of a checkpoint.

        Raises:
            UserError: The checkpoint contains other parameters than those that this training changes.
        """
        _restore(self.model, snapshot["model"], _unchanged(self.model))
        self.optimizer.load_state_dict(snapshot["optimizer"])
        _use_strides_of_parameters(self.optimizer)
        if self.ema is not None:
            _restore(self.ema, snapshot["ema"], _unchanged(self.classifier))  # type: ignore[typeddict-item]
        self.step = snapshot["step"]
        device = next(self.model.parameters()).device
        self.meter = Meter(
            {name: value.to(device) for name, value in snapshot["meter"]["sums"].items()},
            snapshot["meter"]["steps"],
        )


def _unchanged(model: nn.Module) -> frozenset[str]:
    """Return the names of the parameters and buffers of a model that training does not change."""
    return model.unchanged_names() if isinstance(model, PartlyTrained) else frozenset()


def _changing_part(model: nn.Module, unchanged: frozenset[str]) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if name not in unchanged}


def _restore(model: nn.Module, values: dict[str, Tensor], unchanged: frozenset[str]) -> None:
    """Load the part of a model that training changes. The other part has the values of the initial weights.

    Raises:
        UserError: The values are not those of this part.
    """
    expected = model.state_dict().keys() - unchanged
    if wrong := sorted(expected ^ values.keys()):
        raise UserError(
            f"the checkpoint contains {len(values)} parameters and buffers, but this training changes {len(expected)}. "
            f"They differ in {', '.join(wrong[:3])}{', ...' if len(wrong) > 3 else ''}. The checkpoint was written by "
            "another version of mem or edited. Remove its folder to train from the start."
        )
    model.load_state_dict(values, strict=not unchanged)


def _use_strides_of_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Give the optimizer's state the strides of its parameters, which fused optimizers require.

    They differ if the checkpoint was written with another memory format, for example on another kind of device.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if torch.is_tensor(value) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)
