"""Measure mean metrics, non-finite values and training speed without waiting for the device at every step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool
from torch import Tensor

from mem.distributed import World
from mem.errors import UserError

MAX_CONSECUTIVE_SKIPS = 20
"""Number of consecutive skipped steps after which training stops."""


@dataclass
class Meter:
    """Mean metrics since the last call of `read`, accumulated on the device."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Add the metrics of one step."""
        self.steps += 1
        for name, value in metrics.items():
            value = value.detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def read(self, world: World) -> dict[str, float]:
        """Return the means over steps and ranks, and reset the meter. This method waits for the device.

        The means exclude skipped steps. If there are any, `skipped` is their number.
        """
        if not self.steps:
            return {}
        names = sorted(self.sums)
        values = world.mean(torch.stack([self.sums[name] for name in names]) / self.steps).tolist()
        means = dict(zip(names, values, strict=True))
        if skipped := round(means.pop("skipped", 0.0) * self.steps):
            counted = self.steps - skipped
            means = {name: value * self.steps / counted for name, value in means.items()} if counted else {}
            means["skipped"] = float(skipped)
        self.sums, self.steps = {}, 0
        return means


@dataclass
class FiniteWatch:
    """Detects steps with a non-finite loss or gradient, and records them on the device."""

    skip: bool = False
    """Whether to skip non-finite steps. Otherwise, the first non-finite step ends training."""
    first: Tensor | None = None
    """The first non-finite step, or -1 if there is none."""
    streak: Tensor | None = None
    """Lengths of the current and of the longest sequence of consecutive non-finite steps."""
    in_loss: Tensor | None = None
    """Whether this rank's loss was non-finite at the first non-finite step."""

    def record(self, step: int, bad: Bool[Tensor, ""], bad_loss: Bool[Tensor, ""]) -> None:
        """Record a step.

        Args:
            step: The step, counted from 1.
            bad: Whether the gradient is not finite.
            bad_loss: Whether this rank's loss is not finite.
        """
        if self.first is None or self.streak is None or self.in_loss is None:
            self.first = torch.full((), -1, device=bad.device)
            self.streak = torch.zeros(2, dtype=torch.int64, device=bad.device)
            self.in_loss = torch.zeros((), dtype=torch.bool, device=bad.device)
        is_first = bad & (self.first < 0)
        self.first = torch.where(is_first, step, self.first)
        self.in_loss = torch.where(is_first, bad_loss, self.in_loss)
        current = (self.streak[0] + 1) * bad
        self.streak = torch.stack([current, torch.maximum(current, self.streak[1])])

    def problem(self) -> str | None:
        """Return an error message if training must stop, or None otherwise. This method waits for the device."""
        if self.first is None or self.streak is None or self.in_loss is None:
            return None
        first, longest = int(self.first), int(self.streak[1])
        if first < 0 or (self.skip and longest < MAX_CONSECUTIVE_SKIPS):
            return None
        what = "loss is not finite" if self.in_loss else "gradient is not finite, although the loss is"
        remedy = "Try a smaller base_lr, a longer warm-up or clip_grad"
        if self.skip:
            return (
                f"{longest} consecutive steps were skipped. The first non-finite step is step {first}: its {what}. The "
                f"last checkpoint is valid. {remedy}."
            )
        return (
            f"The {what} at step {first}. The last checkpoint is from an earlier step. {remedy}, or skip such steps "
            "with on_nonfinite: skip."
        )

    def check(self) -> None:
        """Raise the message of `problem`, if there is one, as an error.

        Raises:
            UserError: Training must stop. The message contains the step.
        """
        if message := self.problem():
            raise UserError(message)


@dataclass
class Speed:
    """Training speed over a period."""

    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    """Time that rank 0 waited for data, in seconds."""

    def count(self, images: int, seconds: float, waited: float) -> None:
        """Add the measurements of a step."""
        self.images += images
        self.seconds += seconds
        self.waited += waited

    @property
    def images_per_second(self) -> float:
        """Throughput over all ranks, in images per second."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def data_wait(self) -> float:
        """Fraction of the period in which rank 0 waited for data."""
        return self.waited / self.seconds if self.seconds else 0.0
