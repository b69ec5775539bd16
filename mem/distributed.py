"""The processes that train together; the only file that imports torch.distributed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mem.errors import UserError

CPU = torch.device("cpu")


@dataclass(frozen=True)
class World:
    """This process's place among the ranks of one stage."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    local_rank: int = 0
    local_size: int = 1
    """Ranks on this node; every node has as many."""

    @property
    def node(self) -> int:
        """Number of this node."""
        return self.rank // self.local_size

    @property
    def nodes(self) -> int:
        """Nodes that the ranks are on."""
        return self.size // self.local_size

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which alone writes files."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """A replica whose gradients are averaged over the ranks; the model itself where there is one rank."""
        if self.size == 1:
            return model
        device_ids = [self.device.index] if self.device.type == "cuda" else None
        # Buffers change alike on all ranks (see mem.models.batch_norm), so none need be sent.
        return DistributedDataParallel(
            model, device_ids=device_ids, gradient_as_bucket_view=True, broadcast_buffers=False
        )

    def without_sync(self, replica: nn.Module) -> AbstractContextManager[None]:
        """Backward passes inside add to the gradients without exchanging them."""
        return replica.no_sync() if isinstance(replica, DistributedDataParallel) else contextlib.nullcontext()

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean of a tensor over the ranks."""
        if self.size == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over the ranks."""
        if self.size == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank. Does not wait for the device's queue."""
        if self.size == 1:
            return flag
        votes = torch.tensor([int(flag)])
        dist.all_reduce(votes, group=_control_group())
        return bool(votes.item())

    def from_main(self, value: Any) -> Any:
        """Rank 0's value of a picklable object."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=_control_group())
        return box[0]

    def neighbours(self, size: int) -> Neighbours:
        """The `size` consecutive ranks that this one belongs to. Every rank must ask, with the same size."""
        if self.size % size:
            raise ValueError(f"{self.size} ranks cannot be cut into groups of {size}")
        groups: list[Any] = [None]
        if size < self.size:
            groups = [dist.new_group(list(range(i, i + size))) for i in range(0, self.size, size)]
        return Neighbours(size, self.rank % size, groups[self.rank // size % len(groups)])

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            dist.barrier(group=_control_group())


@dataclass(frozen=True)
class Neighbours:
    """Consecutive ranks that compute something together in the middle of a forward pass."""

    size: int
    position: int
    """Of this rank among them."""
    group: Any

    def gather(self, value: torch.Tensor) -> torch.Tensor:
        """Everyone's value, stacked; gradients find their way back."""
        row = torch.zeros(self.size, device=value.device, dtype=value.dtype)
        row[self.position] = 1
        return _Sum.apply(row.view(-1, *[1] * value.ndim) * value, self.group)  # type: ignore[no-any-return]


class _Sum(torch.autograd.Function):
    """The sum over a group of ranks; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group = group
        total = value.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        total = gradients[0].clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


_control: dist.ProcessGroup | None = None
"""A group over gloo beside nccl's; without it the ranks' own group is one."""


def _control_group() -> dist.ProcessGroup | None:
    return _control


ALONE = World()
"""A single process."""


@contextlib.contextmanager
def world_from_environment(timeout: timedelta = timedelta(minutes=30)) -> Iterator[World]:
    """The world that RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT describe; one process without them.

    Ranks talk over nccl where each has a GPU, over gloo otherwise; a second group over gloo carries control messages.

    Raises:
        UserError: The variables are incomplete or contradict each other.
    """
    global _control
    size = _integer("WORLD_SIZE", 1)
    rank, local_rank = _integer("RANK", 0), _integer("LOCAL_RANK", 0)
    if not 0 <= rank < size:
        raise UserError(f"RANK is {rank} and WORLD_SIZE is {size}: ranks go from 0 to WORLD_SIZE - 1")
    device = _device(local_rank)
    if size == 1:
        yield World(device=device)
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set: the ranks cannot find each other")
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, rank=rank, world_size=size, timeout=timeout)
    except (RuntimeError, ValueError, dist.DistError) as error:
        raise UserError(
            f"Rank {rank} of {size} could not join the others at {os.environ['MASTER_ADDR']}:"
            f"{os.environ['MASTER_PORT']}: {error}"
        ) from None
    try:
        if backend == "nccl":
            group = dist.new_group(backend="gloo", timeout=timeout)
            _control = group if isinstance(group, dist.ProcessGroup) else None
        yield World(rank, size, device, local_rank, _integer("LOCAL_WORLD_SIZE", size))
    finally:
        _control = None
        dist.destroy_process_group()


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # SLURM may show each rank its own GPU alone.
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _integer(name: str, default: int) -> int:
    text = os.environ.get(name)
    if text is None:
        return default
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{name} is {text!r}, expected a whole number") from None
