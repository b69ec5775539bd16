"""The job description that is pickled on submission and called on every rank.

Queued jobs hold pickles of these classes: do not rename or remove a class, a field or this module. Give new fields a
default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from snakemake_executor_plugin_submitit.paths import JobFolder


@dataclass(frozen=True)
class Preparation:
    """What Snakemake does before a rule's command. Rank 0 does it where no Snakemake runs inside the job."""

    outputs: tuple[tuple[str, bool], ...] = ()
    """Paths, and whether each is declared with `directory()`."""
    logs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    latency_wait: float = 0.0
    """Seconds to wait for inputs to become visible."""


@dataclass(frozen=True)
class HeadProcess:
    """The workflow process, for jobs on its own machine that must end with it."""

    pid: int
    started: float
    """Creation time in seconds since the epoch; tells the process from a later one with the same id."""


@dataclass(frozen=True)
class Work:
    """One job, which submitit calls on every rank."""

    title: str
    folder: JobFolder
    cwd: str
    command: str | None
    """The rule's shell command, which every rank runs. None if the job needs `inner`."""
    inner: str | None
    """Snakemake's own command for the job. If present, rank 0 runs it instead of `command`."""
    environment: Mapping[str, str] = field(default_factory=dict)
    shell: str = "/bin/bash"
    preparation: Preparation = Preparation()
    minutes: int | None = None
    """Time limit."""
    signal_delay_seconds: float = 120.0
    """Time between SIGUSR2 and the time limit."""
    max_requeues: int = 0
    ports: tuple[int, int] = (20000, 29999)
    """First and last port that rank 0 may choose for the rendezvous."""
    devices: tuple[str, ...] | None = None
    """CUDA devices that the workflow process assigned to the job; rank r of n gets every n-th one from the r-th on."""
    head: HeadProcess | None = None
    """The workflow process. Set only for jobs that must end with it."""

    def __call__(self) -> None:
        """Run this rank.

        Raises:
            RankFailed: The command failed or could not be started.
        """
        from snakemake_executor_plugin_submitit.rank import Rank

        Rank(self).run()
