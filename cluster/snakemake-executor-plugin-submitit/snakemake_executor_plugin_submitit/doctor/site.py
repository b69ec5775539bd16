"""Description of the site to check, and functions that run SLURM commands and parse their output."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from snakemake_executor_plugin_submitit.slurm_environment import client_environment, submission_environment

_COMMAND_SECONDS = 60.0
_NAMED_OPTIONS = ("partition", "account", "qos", "constraint", "reservation")


@dataclass(frozen=True)
class CommandResult:
    """The output and exit status of a SLURM command."""

    status: int
    output: str
    error: str
    """The last error in stderr, or a description of the failure if stderr is empty."""

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
    """Run a SLURM command in the environment in which the executor plugin runs it.

    Variables that would change the options or the output of the command are removed. For sbatch, only those variables
    remain that also apply to the plugin's jobs, for example SBATCH_PARTITION if the command has no such option.
    """
    environment = submission_environment("", command[1:]) if command[0] == "sbatch" else client_environment()
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
    return CommandResult(done.returncode, done.stdout.strip(), _error(done.stderr) or f"exit status {done.returncode}")


def _error(stderr: str) -> str:
    """Return the last error message, or the last line if no line contains one. A site's wrapper may print notices."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\b(error|fatal)\b", line, re.IGNORECASE)]
    return re.sub(r"^\w+: (error|fatal): ", "", (errors or lines or [""])[-1]).strip()


def slurm_configuration() -> dict[str, str]:
    """Return the settings from `scontrol show config` by name. The result is empty if the command fails."""
    result = run_command("scontrol", "show", "config")
    pairs = (re.fullmatch(r"(\w+)\s*= (.*)", line.strip()) for line in result.output.splitlines())
    return {pair[1]: pair[2].strip() for pair in pairs if pair}


def parse_records(text: str, key: str) -> list[dict[str, str]]:
    """Parse the `Name=value` pairs that `scontrol show ... --oneliner` prints.

    Returns:
        One record per line that starts with the key, such as `PartitionName`. Other lines are no records, for example
        a notice that a site's wrapper prints.
    """
    lines = (line.strip() for line in text.splitlines())
    return [
        dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines if line.startswith(f"{key}=")
    ]
