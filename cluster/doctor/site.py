"""The site as the user names it, and its SLURM as the commands on PATH answer."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

_ANSWER_SECONDS = 60.0
_SETTINGS = ("partition", "account", "qos", "constraint", "reservation")


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    status: int
    output: str
    complaint: str
    """The last line of its stderr, or that it gave no answer."""

    @property
    def good(self) -> bool:
        """Whether it succeeded."""
        return self.status == 0


@dataclass(frozen=True)
class Site:
    """Where jobs are to run."""

    folder: Path
    """Where snakemake will be started: jobs read and write here."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    extra: tuple[str, ...] = ()
    """More sbatch options."""
    nodes: int = 2
    gpus_per_node: int = 0
    wait_seconds: float = 600
    """How long a job may wait in the queue and run."""

    def options(self) -> list[str]:
        """The sbatch options that say where jobs run."""
        named = [f"--{name}={value}" for name in _SETTINGS if (value := getattr(self, name))]
        return [*named, *self.extra]


def from_environment(name: str) -> str | None:
    """A default that the executor plugin takes from the environment too: SNAKEMAKE_SUBMITIT_<NAME>."""
    return os.environ.get(f"SNAKEMAKE_SUBMITIT_{name.upper()}") or None


def ask(*command: str, seconds: float = _ANSWER_SECONDS) -> Answer:
    """Run a command of SLURM's. It is not told of the job that the doctor may itself run in."""
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
        return Answer(127, "", f"{command[0]} is not on PATH")
    except subprocess.TimeoutExpired:
        return Answer(124, "", f"`{shlex.join(command)}` gave no answer within {seconds:.0f} s")
    said = done.stderr.strip().splitlines()
    complaint = re.sub(r"^\w+: (error|fatal): ", "", said[-1]) if said else f"status {done.returncode}"
    return Answer(done.returncode, done.stdout.strip(), complaint)


def configuration() -> dict[str, str]:
    """What `scontrol show config` says, by name; empty where it says nothing."""
    answer = ask("scontrol", "show", "config")
    pairs = (line.split("=", 1) for line in answer.output.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def fields(text: str) -> dict[str, str]:
    """The `Name=value` words of `scontrol show ... --oneliner`."""
    return dict(word.split("=", 1) for word in text.split() if "=" in word)
