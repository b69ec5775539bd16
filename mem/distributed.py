"""Communication between the ranks of a distributed stage. No other file imports torch.distributed."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.nn.parallel import DistributedDataParallel

from mem.errors import UserError
from mem.rank_variables import RankVariables, read_rank_variables

CPU = torch.device("cpu")
WAIT_SECONDS = 600.0
"""Default time to wait for the other ranks."""
_FIRST_MESSAGE_SECONDS, _MESSAGE_SECONDS = 5.0, 60.0
"""Seconds until the first message about missing ranks, and between later messages."""
_STEP_SECONDS = 0.1
_CONNECT_SECONDS = 10.0
"""Time limit of torch's connection to a server that accepts connections."""


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
        store = _connect(variables, say, wait_seconds)
        store.set_timeout(timeout)
        dist.init_process_group(backend, None, timeout, variables.size, variables.rank, store)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"Rank {variables.rank} of {variables.size} could not connect to the other ranks at "
            f"{variables.address}:{variables.port}: {_first_line(error)}"
        ) from None
    try:
        if backend == "nccl":
            group = dist.new_group(backend="gloo", timeout=timeout)
            _control = group if isinstance(group, dist.ProcessGroup) else None
        yield World(variables.rank, variables.size, device, variables.local_rank, variables.local_size)
    finally:
        _control = None
        dist.destroy_process_group()


def _connect(variables: RankVariables, say: Callable[[str], None], wait_seconds: float) -> Store:
    """Return the store through which the ranks find each other, after all ranks are present.

    torch waits without handling signals. Therefore, this function waits in short steps.

    Raises:
        UserError: Rank 0 cannot listen at the address, another process has the same rank, or a rank is missing after
            `wait_seconds`.
    """
    rank, size = variables.rank, variables.size
    where = f"{variables.address}:{variables.port}"
    waiting = _Waiting(say, wait_seconds, size)
    # torchrun listens at the address itself.
    hosts_store = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    if hosts_store:
        server = _listen(variables)
    else:
        while not _accepts_connections(variables.address, variables.port):
            waiting.step(f"Rank {rank} of {size} waits for rank 0, which does not respond at {where}.")
        server = _store(variables)
    store = PrefixStore(f"mem/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", server)
    if store.add(f"rank {rank}", 1) > 1:
        raise UserError(f"Two processes have RANK {rank} at {where}. Give each process a different rank.")
    while missing := [other for other in range(size) if not store.check([f"rank {other}"])]:
        present = ", ".join(str(other) for other in range(size) if other not in missing)
        waiting.step(
            f"Rank {rank} of {size} waits at {where} for rank {', '.join(map(str, missing))}. Ranks present: {present}."
        )
    return store


class _Waiting:
    """Wait in steps during which signals are handled. Report what the process waits for, and stop at a time limit."""

    def __init__(self, say: Callable[[str], None], seconds: float, size: int) -> None:
        self._say, self._began, self._seconds, self._size = say, time.monotonic(), seconds, size
        self._next_message = _FIRST_MESSAGE_SECONDS

    def step(self, reason: str) -> None:
        """Wait for a moment.

        Raises:
            UserError: The time limit is reached.
        """
        waited = time.monotonic() - self._began
        advice = f"If only one process was started, unset WORLD_SIZE, which is {self._size}."
        if waited > self._seconds:
            raise UserError(f"{reason} The time limit of {self._seconds:.0f} s is reached. {advice}")
        if waited > self._next_message:
            self._next_message += _MESSAGE_SECONDS
            self._say(f"{reason} {advice}")
        time.sleep(_STEP_SECONDS)


def _listen(variables: RankVariables) -> TCPStore:
    """Create the store that the other ranks connect to.

    Raises:
        UserError: The port is in use, or the address is not that of this machine.
    """
    where = f"{variables.address}:{variables.port}"
    try:
        server = _listening_socket(variables)
    except OSError as error:
        raise UserError(
            f"Rank 0 cannot listen on MASTER_PORT {variables.port} of {socket.gethostname()}: {error.strerror}. Set "
            "MASTER_PORT to a free port, the same for all ranks."
        ) from None
    if not _accepts_connections(variables.address, variables.port):
        server.close()
        raise UserError(
            f"Rank 0 on {socket.gethostname()} cannot be reached at {where}. Set MASTER_ADDR to the name or "
            "address of this machine, the same for all ranks."
        )
    return _store(variables, server)


def _listening_socket(variables: RankVariables) -> socket.socket:
    """Return a socket that listens only at the address of MASTER_ADDR, because the store does not authenticate clients.

    The socket listens at all addresses of this machine if the address belongs to another one, such as a gateway, or if
    several nodes are used and this node resolves its own name to a loopback address.
    """
    family, _, _, _, found = socket.getaddrinfo(variables.address, variables.port, type=socket.SOCK_STREAM)[0]
    everywhere = ("", variables.port)
    one_node = variables.local_size == variables.size
    if ipaddress.ip_address(found[0]).is_loopback and not one_node:
        return socket.create_server(everywhere)
    try:
        return socket.create_server(found[:2], family=family)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        return socket.create_server(everywhere)


def _store(variables: RankVariables, listener: socket.socket | None = None) -> TCPStore:
    """Create a store in a thread, because signals are not handled while torch waits for the response of a server.

    Args:
        variables: The ranks and the address of rank 0.
        listener: Socket on which the store accepts connections, or None to connect to the store of rank 0.

    Raises:
        UserError: The program at the address does not respond like a store.
    """
    arguments = (variables.address, variables.port, variables.size, listener is not None)
    options: dict[str, Any] = {"timeout": timedelta(seconds=_CONNECT_SECONDS), "wait_for_workers": False}
    if listener is not None:
        options["master_listen_fd"] = listener.detach()
    created: queue.SimpleQueue[TCPStore | RuntimeError] = queue.SimpleQueue()

    def create() -> None:
        try:
            created.put(TCPStore(*arguments, **options))
        except RuntimeError as error:
            created.put(error)

    threading.Thread(target=create, name="rendezvous", daemon=True).start()
    try:
        store = created.get(timeout=2 * _CONNECT_SECONDS)
    except queue.Empty:
        raise UserError(
            f"A program listens at {variables.address}:{variables.port}, but it is not rank 0 of this stage. Set "
            "MASTER_PORT to another port, the same for all ranks."
        ) from None
    if isinstance(store, RuntimeError):
        raise store
    return store


def _first_line(error: Exception) -> str:
    """Return the message of an error of torch without the C++ stack, which follows in further lines."""
    return str(error).split("\n", 1)[0]


def _accepts_connections(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=1):
            return True
    except OSError:
        return False


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # SLURM may restrict each rank to a single visible GPU.
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device
