"""The ranks of a distributed stage and the communication between them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mem.distributed.connection import WAIT_SECONDS, connect, first_line
from mem.distributed.variables import read_rank_variables
from mem.errors import UserError

CPU = torch.device("cpu")


@dataclass(frozen=True)
class World:
    """The ranks of one stage, and the position of this process among them."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    local_rank: int = 0
    local_size: int = 1
    """Number of ranks per node. It is the same on every node."""

    @property
    def node(self) -> int:
        """Index of this node."""
        return self.rank // self.local_size

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return self.size // self.local_size

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the only rank that writes files."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return a replica that averages the model's gradients over the ranks; the model itself for a single rank."""
        if self.size == 1:
            return model
        device_ids = [self.device.index] if self.device.type == "cuda" else None
        # Buffers change identically on all ranks (see mem.models.batch_norm) and need no broadcast.
        return DistributedDataParallel(
            model, device_ids=device_ids, gradient_as_bucket_view=True, broadcast_buffers=False
        )

    def without_sync(self, replica: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which backward passes accumulate gradients without synchronising them across ranks."""
        return replica.no_sync() if isinstance(replica, DistributedDataParallel) else contextlib.nullcontext()

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Return the mean of a tensor over the ranks."""
        return self.sum(value) / self.size if self.size > 1 else value

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over the ranks."""
        if self.size == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank. This does not wait for the GPU."""
        if self.size == 1:
            return flag
        votes = torch.tensor([int(flag)])
        dist.all_reduce(votes, group=_control_group())
        return bool(votes.item())

    def from_main(self, value: Any) -> Any:
        """Return rank 0's value, which must be picklable, on every rank."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=_control_group())
        return values[0]

    def from_all(self, value: Any) -> list[Any]:
        """Return every rank's value, which must be picklable, in the order of the ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=_control_group())
        return values

    def subgroup(self, size: int) -> RankGroup:
        """Return the group of `size` consecutive ranks that contains this rank.

        This is a collective operation: every rank must call it with the same size.
        """
        if self.size % size:
            raise ValueError(f"{self.size} ranks cannot be divided into groups of {size}")
        groups: list[Any] = [None]
        if size < self.size:
            groups = [dist.new_group(list(range(i, i + size))) for i in range(0, self.size, size)]
        return RankGroup(size, self.rank % size, groups[self.rank // size % len(groups)])

    def barrier(self) -> None:
        """Wait until every rank has reached the barrier."""
        if self.size > 1:
            dist.barrier(group=_control_group())


@dataclass(frozen=True)
class RankGroup:
    """Consecutive ranks that exchange values within a forward pass."""

    size: int
    index: int
    """Index of this rank within the group."""
    group: Any
    """The torch.distributed process group. None is the default group, which contains all ranks."""

    def gather(self, value: torch.Tensor) -> torch.Tensor:
        """Return the stacked values of the group's ranks. Gradients flow back to the rank that provided each value."""
        row = torch.zeros(self.size, device=value.device, dtype=value.dtype)
        row[self.index] = 1
        return _AllReduceSum.apply(row.view(-1, *[1] * value.ndim) * value, self.group)  # type: ignore[no-any-return]


class _AllReduceSum(torch.autograd.Function):
    """Differentiable sum over a group of ranks. The backward pass sums the gradients of the group's ranks."""

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
"""Gloo process group for control messages if the default group uses NCCL; None if the default group uses Gloo."""


def _control_group() -> dist.ProcessGroup | None:
    return _control


SINGLE_PROCESS = World()


@contextlib.contextmanager
def single_process() -> Iterator[World]:
    """Return the world of a stage that runs as one process. The variables of several ranks are ignored."""
    yield World(device=_device(0))


@contextlib.contextmanager
def world_from_environment(
    say: Callable[[str], None] = print, wait_seconds: float = WAIT_SECONDS, timeout: timedelta = timedelta(minutes=30)
) -> Iterator[World]:
    """Join the world specified by RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.

    Without these variables, the world consists of a single process. Ranks communicate with NCCL on GPUs and with Gloo
    on CPUs. If they use NCCL, control messages are transmitted by a second process group, which uses Gloo. While the
    process waits for other ranks, it handles signals.

    Args:
        say: Function that prints a message, for example which ranks this process waits for.
        wait_seconds: Time to wait for the other ranks.
        timeout: Time limit of each collective operation.

    Raises:
        UserError: The variables are incomplete or contradict each other, or the ranks cannot connect.
    """
    global _control
    variables = read_rank_variables()
    device = _device(variables.local_rank)
    if variables.size == 1:
        yield World(device=device)
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        store = connect(variables, say, wait_seconds)
        store.set_timeout(timeout)
        dist.init_process_group(backend, None, timeout, variables.size, variables.rank, store)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"Rank {variables.rank} of {variables.size} could not connect to the other ranks at "
            f"{variables.address}:{variables.port}: {first_line(error)}"
        ) from None
    try:
        if backend == "nccl":
            group = dist.new_group(backend="gloo", timeout=timeout)
            _control = group if isinstance(group, dist.ProcessGroup) else None
        yield World(variables.rank, variables.size, device, variables.local_rank, variables.local_size)
    finally:
        _control = None
        dist.destroy_process_group()


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # SLURM may restrict each rank to a single visible GPU.
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device
