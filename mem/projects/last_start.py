"""Record of the study that a workflow process works on, which `mem status` reads."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mem import files

_FILE = Path(".snakemake", "mem-study.json")


@dataclass(frozen=True)
class LastStart:
    """The last start of a workflow process in a working folder."""

    study_files: tuple[Path, ...]
    """Files of the study, absolute."""
    overrides: Mapping[str, Any]
    """Values of `--config` that override settings."""
    cores: int | None
    """Number of cores for the jobs on this machine; None if SLURM runs the jobs."""
    time: float
    """Time of the start in seconds since 1970."""


def write_last_start(
    study_files: Sequence[Path], overrides: Mapping[str, Any], cores: int | None, root: Path = Path()
) -> None:
    """Record the start of a workflow process.

    Args:
        study_files: The study's YAML file, and files that override it.
        overrides: Values of `--config` that override settings.
        cores: Number of cores for the jobs on this machine; None if SLURM runs the jobs.
        root: The working folder.
    """
    content = {
        "study_files": [str(path.absolute()) for path in study_files],
        "overrides": overrides,
        "cores": cores,
        "time": time.time(),
    }
    files.write_text(root / _FILE, json.dumps(content, default=str), durable=False)


def read_last_start(root: Path = Path()) -> LastStart | None:
    """Return the last start of a workflow process in a folder, or None if there was none."""
    try:
        content = json.loads((root / _FILE).read_text(encoding="utf-8"))
        return LastStart(
            study_files=tuple(map(Path, content["study_files"])),
            overrides=content["overrides"],
            cores=content["cores"],
            time=content["time"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
