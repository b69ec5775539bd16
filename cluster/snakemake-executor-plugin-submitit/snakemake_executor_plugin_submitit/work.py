"""What is pickled for a job and called on every rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from snakemake_executor_plugin_submitit.paths import JobFolder


@dataclass(frozen=True)
class Preparation:
    """What Snakemake does before a rule's command: rank 0 does it where no Snakemake runs inside the job."""

    outputs: tuple[tuple[str, bool], ...] = ()
    """Paths, and whether each is declared a directory."""
    logs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    latency_wait: float = 0.0


@dataclass(frozen=True)
class HeadProcess:
    """The head, for jobs on its own machine that must not outlive it."""

    pid: int
    started: float


@dataclass(frozen=True)
class Work:
    """One job. submitit calls it on every rank."""

    title: str
    folder: JobFolder
    cwd: str
    command: str | None
    """The rule's shell command, ready for a shell; every rank runs it. None where only `inner` can do it."""
    inner: str | None
    """Snakemake's own command; where there is one, rank 0 runs it in place of `command`."""
    environment: Mapping[str, str] = field(default_factory=dict)
    shell: str = "/bin/bash"
    preparation: Preparation = Preparation()
    minutes: int | None = None
    signal_delay_seconds: float = 120.0
    max_requeues: int = 0
    ports: tuple[int, int] = (20000, 29999)
    devices: tuple[str, ...] | None = None
    """CUDA devices of the job, where the head chose them; one for each rank in turn."""
    head: HeadProcess | None = None

    def __call__(self) -> None:
        """Run this rank.

        Raises:
            RankFailed: The command failed, or another rank did.
        """
        from snakemake_executor_plugin_submitit.rank import Rank

        Rank(self).run()
