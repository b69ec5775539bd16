"""The job description that is pickled on submission and called on every rank.

Queued jobs contain pickles of these classes: do not rename or remove a class, a field or this module. New fields need
a default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from snakemake_executor_plugin_submitit.paths import JobFolder


@dataclass(frozen=True)
class Preparation:
    """The steps that Snakemake performs before a rule's command. Without an inner Snakemake, rank 0 performs them."""

    outputs: tuple[tuple[str, bool], ...] = ()
    """Output paths, each with whether it is declared with `directory()`."""
    logs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    latency_wait: float = 0.0
    """Maximum time in seconds to wait for inputs to appear."""


@dataclass(frozen=True)
class HeadProcess:
    """The id and creation time of the workflow process, for jobs on the same machine that must end with it."""

    pid: int
    started: float
    """Creation time in seconds since the epoch. It distinguishes the process from a later one with the same id."""


@dataclass(frozen=True)
class Work:
    """One job, as a callable that submitit runs on every rank."""

    title: str
    folder: JobFolder
    cwd: str
    command: str | None
    """The rule's shell command, which every rank runs. None if only the inner Snakemake can run the rule."""
    inner: str | None
    """Command of the inner Snakemake. If present, rank 0 runs it instead of `command`."""
    environment: Mapping[str, str] = field(default_factory=dict)
    shell: str = "/bin/bash"
    preparation: Preparation = Preparation()
    minutes: int | None = None
    """Time limit in minutes."""
    signal_delay_seconds: float = 120.0
    """Seconds between SIGUSR2 and the time limit."""
    max_requeues: int = 0
    ports: tuple[int, int] = (20000, 29999)
    """First and last port of the range from which rank 0 chooses a port for the rendezvous."""
    devices: tuple[str, ...] | None = None
    """CUDA devices that the workflow process assigned to the job. Of n ranks, rank r uses `devices[r::n]`."""
    head: HeadProcess | None = None
    """The workflow process. Set only for jobs that must end with it."""

    def __call__(self) -> None:
        """Run this rank.

        Raises:
            RankFailed: The command failed or could not be started.
        """
        from snakemake_executor_plugin_submitit.rank import Rank

        Rank(self).run()


@dataclass(frozen=True)
class Bundle:
    """Several jobs that a single rank runs one after another, as a callable that submitit runs."""

    jobs: tuple[Work, ...]
    service: str = ""
    """Command that runs while the jobs run. It prints `VARIABLE=VALUE` for them, and ends when its input is closed."""

    @property
    def minutes(self) -> int | None:
        """Time limit in minutes."""
        return self.jobs[0].minutes

    def __call__(self) -> None:
        """Run the jobs. The rank records the outcome of each job in the folder of the job."""
        from snakemake_executor_plugin_submitit.run_bundle import run_bundle

        run_bundle(self)
