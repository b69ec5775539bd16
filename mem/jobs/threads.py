"""Number of threads of a stage: `compute.STAGE.threads`, limited to the cores that the process may use.

FFCV, OpenCV and OpenMP have their own ideas of this number. It is therefore decided here for PyTorch's operations and
for the loader, once per stage and after all imports.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence

import torch

from mem.distributed import World


@contextlib.contextmanager
def stage_threads(stage: str, requested: int, world: World, say: Callable[[str], None]) -> Iterator[int]:
    """Let PyTorch use a stage's threads, and yield their number. The previous number is restored at the end.

    This is a collective operation: every rank must enter the context.

    Args:
        stage: Name of the stage, for the message.
        requested: Number of threads per rank that the study requests.
        world: The ranks of the stage.
        say: Receives a message if the number differs from `requested`.
    """
    cores = world.from_all(os.sched_getaffinity(0))
    on_this_node = cores[world.node * world.local_size : (world.node + 1) * world.local_size]
    threads, reason = thread_count(requested, os.sched_getaffinity(0), on_this_node)
    if reason:
        say(f"Threads: {threads}, not {requested} as in compute.{stage}.threads, because {reason}.")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield threads
    finally:
        torch.set_num_threads(before)


def thread_count(
    requested: int, cores: Collection[int], cores_of_ranks: Sequence[Collection[int]]
) -> tuple[int, str | None]:
    """Return the number of threads of this process, and why it differs from the requested number.

    Snakemake sets OMP_NUM_THREADS to the threads of the job. They can differ from the study's threads, because
    `--cores` limits them and `--set-threads` replaces them.

    Args:
        requested: Number of threads that the study requests.
        cores: Cores on which this process may run.
        cores_of_ranks: Cores of each rank of this node, including this process. Ranks share the cores that several of
            them may use.
    """
    count, reason = requested, None
    if (variable := _positive("OMP_NUM_THREADS")) and variable != count:
        count, reason = variable, f"OMP_NUM_THREADS is {variable}, as `--cores`, `--set-threads` or the shell set it"
    if (variable := _positive("SLURM_CPUS_PER_TASK")) and variable < count:
        count, reason = variable, f"SLURM_CPUS_PER_TASK is {variable}"
    users = {core: sum(core in others for others in cores_of_ranks) for core in cores}
    # The sum is rounded because a third is not a binary fraction.
    share = max(1, int(round(sum(1 / max(1, n) for n in users.values()), 6)))
    if share < count:
        sharing = f", which up to {most} ranks share" if (most := max(users.values())) > 1 else ""
        count, reason = share, f"this process may use {len(cores)} core{'s' if len(cores) > 1 else ''}{sharing}"
    return count, reason if count != requested else None


def _positive(variable: str) -> int | None:
    """Return the first number of an environment variable, or None if it is unset or not a positive number."""
    first = os.environ.get(variable, "").split(",")[0].strip()
    return int(first) or None if first.isdigit() else None
