"""What a training measures while it runs, without making a step wait for the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool
from torch import Tensor

from mem.distributed import World
from mem.errors import UserError

SKIPPED_IN_A_ROW = 20
"""So many steps without a finite gradient end a training that skips them: nothing is learned any more."""


@dataclass
class Meter:
    """Means of metrics since the last reading, summed on the device."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Count one step's metrics."""
        self.steps += 1
        for name, value in metrics.items():
            value = value.detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def read(self, world: World) -> dict[str, float]:
        """Means over the steps and ranks; starts anew. Waits for the device.

        Where steps were skipped, means are those of the others, and `skipped` is how many were.
        """
        if not self.steps:
            return {}
        names = sorted(self.sums)
        means = world.mean(torch.stack([self.sums[name] for name in names]) / self.steps).tolist()
        found = dict(zip(names, means, strict=True))
        if skipped := round(found.pop("skipped", 0.0) * self.steps):
            counted = self.steps - skipped
            found = {name: value * self.steps / counted for name, value in found.items()} if counted else {}
            found["skipped"] = float(skipped)
        self.sums, self.steps = {}, 0
        return found


@dataclass
class FiniteWatch:
    """Notes, on the device, the steps whose loss or gradient is not a finite number."""

    skip: bool = False
    """Whether such steps are left out; otherwise the first one ends the training."""
    first: Tensor | None = None
    """Number of the first such step; -1 for none."""
    streak: Tensor | None = None
    """How many of them have followed one another, and the longest such row."""
    in_loss: Tensor | None = None
    """Whether this rank's loss was at fault in the first of them."""

    def see(self, step: int, bad: Bool[Tensor, ""], loss: Bool[Tensor, ""]) -> None:
        """Note whether a step was bad, the steps counted from 1."""
        if self.first is None or self.streak is None or self.in_loss is None:
            self.first = torch.full((), -1, device=bad.device)
            self.streak = torch.zeros(2, dtype=torch.int64, device=bad.device)
            self.in_loss = torch.zeros((), dtype=torch.bool, device=bad.device)
        new = bad & (self.first < 0)
        self.first = torch.where(new, step, self.first)
        self.in_loss = torch.where(new, loss, self.in_loss)
        row = (self.streak[0] + 1) * bad
        self.streak = torch.stack([row, torch.maximum(row, self.streak[1])])

    def trouble(self) -> str | None:
        """What ends the training, in words; None where nothing does. Waits for the device."""
        if self.first is None or self.streak is None or self.in_loss is None:
            return None
        first, longest = int(self.first), int(self.streak[1])
        if first < 0 or (self.skip and longest < SKIPPED_IN_A_ROW):
            return None
        what = "loss is not a finite number" if self.in_loss else "gradient is not a finite number, though the loss is"
        remedy = "Try a smaller base_lr, a longer warm-up or clip_grad"
        if self.skip:
            return (
                f"{longest} steps in a row had to be skipped, the first bad one is step {first}: its {what}. The last "
                f"checkpoint is good. {remedy}."
            )
        return (
            f"The {what} at step {first}. The last checkpoint is from before that. {remedy}; with on_nonfinite: skip, "
            "single steps of this kind are left out."
        )

    def check(self) -> None:
        """Raise what `trouble` says.

        Raises:
            UserError: There is trouble; the step is named.
        """
        if said := self.trouble():
            raise UserError(said)


@dataclass
class Speed:
    """How fast a training went since it was (re)started."""

    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def count(self, images: int, seconds: float, waited: float) -> None:
        """Add a step."""
        self.images += images
        self.seconds += seconds
        self.waited += waited

    @property
    def images_per_second(self) -> float:
        """Over all ranks."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def data_wait(self) -> float:
        """Share of the time that rank 0 waited for its data."""
        return self.waited / self.seconds if self.seconds else 0.0
