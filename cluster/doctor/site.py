"""Description of the site to check, and functions that run SLURM commands and parse their output."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

_COMMAND_SECONDS = 60.0
_NAMED_OPTIONS = ("partition", "account", "qos", "constraint", "reservation")


@dataclass(frozen=True)
class CommandResult:
    """The output and exit status of a SLURM command."""

    status: int
    output: str
    error: str
    """The last line of stderr, or a description of the failure if stderr is empty."""

    @property
    def succeeded(self) -> bool:
        """Whether the exit status is 0."""
        return self.status == 0


@dataclass(frozen=True)
class Site:
    """Working directory, sbatch options and size of the test jobs."""

    folder: Path
    """Working directory for snakemake. Jobs read and write files here."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    extra: tuple[str, ...] = ()
    """Additional sbatch options for the test jobs."""
    nodes: int = 2
    gpus_per_node: int = 0
    wait_seconds: float = 600
    """Maximum time in seconds for a test job to start, and then for it to finish."""

    def options(self) -> list[str]:
        """Return the sbatch options that all jobs share."""
        named = [f"--{name}={value}" for name in _NAMED_OPTIONS if (value := getattr(self, name))]
        return [*named, *self.extra]


def from_environment(name: str) -> str | None:
    """Return the value of SNAKEMAKE_SUBMITIT_<NAME>, which also sets the executor plugin's option."""
    return os.environ.get(f"SNAKEMAKE_SUBMITIT_{name.upper()}") or None


def run_command(*command: str, seconds: float = _COMMAND_SECONDS) -> CommandResult:
    """Run a SLURM command.

    If the doctor itself runs inside a SLURM job, that job's variables are removed from the environment. Otherwise,
    sbatch and srun would use them as options.
    """
    kept = ("SLURM_CONF", "SLURM_JWT", "SLURM_CLUSTERS")
    environment = {name: v for name, v in os.environ.items() if not name.startswith("SLURM_") or name in kept}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except FileNotFoundError:
        return CommandResult(127, "", f"{command[0]} is not on PATH")
    except subprocess.TimeoutExpired:
        return CommandResult(124, "", f"`{shlex.join(command)}` did not finish within {seconds:.0f} s")
    stderr = done.stderr.strip().splitlines()
    error = re.sub(r"^\w+: (error|fatal): ", "", stderr[-1]) if stderr else f"exit status {done.returncode}"
    return CommandResult(done.returncode, done.stdout.strip(), error)


def slurm_configuration() -> dict[str, str]:
    """Return the settings from `scontrol show config` by name. The result is empty if the command fails."""
    result = run_command("scontrol", "show", "config")
    pairs = (line.split("=", 1) for line in result.output.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def parse_fields(text: str) -> dict[str, str]:
    """Parse the `Name=value` pairs that `scontrol show ... --oneliner` prints."""
    return dict(word.split("=", 1) for word in text.split() if "=" in word)
