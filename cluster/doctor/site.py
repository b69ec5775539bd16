"""The site to check: the user's sbatch options, and queries to the SLURM commands on PATH."""

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
    """The outcome of a command."""

    status: int
    output: str
    error: str
    """The last line of stderr, or the reason why there is none."""

    @property
    def succeeded(self) -> bool:
        """Whether the exit status is 0."""
        return self.status == 0


@dataclass(frozen=True)
class Site:
    """Where jobs will run, and with which sbatch options."""

    folder: Path
    """The folder in which the user will start snakemake. Jobs read and write here."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    extra: tuple[str, ...] = ()
    """Additional sbatch options."""
    nodes: int = 2
    gpus_per_node: int = 0
    wait_seconds: float = 600
    """How long a test job may take to start and finish."""

    def options(self) -> list[str]:
        """Return the sbatch options of every job."""
        named = [f"--{name}={value}" for name in _NAMED_OPTIONS if (value := getattr(self, name))]
        return [*named, *self.extra]


def from_environment(name: str) -> str | None:
    """Return SNAKEMAKE_SUBMITIT_<NAME>, from which the executor plugin takes its default too."""
    return os.environ.get(f"SNAKEMAKE_SUBMITIT_{name.upper()}") or None


def run_command(*command: str, seconds: float = _COMMAND_SECONDS) -> CommandResult:
    """Run a SLURM command.

    The variables of a job in which the doctor itself may run are hidden from it: sbatch and srun would obey them.
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
    """Return the settings that `scontrol show config` lists, by name; empty if it lists none."""
    result = run_command("scontrol", "show", "config")
    pairs = (line.split("=", 1) for line in result.output.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def parse_fields(text: str) -> dict[str, str]:
    """Parse the `Name=value` words that `scontrol show ... --oneliner` prints."""
    return dict(word.split("=", 1) for word in text.split() if "=" in word)
