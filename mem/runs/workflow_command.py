"""The command that runs the workflow, for messages."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import mem

SNAKEFILE = Path(mem.__file__).parents[1] / "Snakefile"
"""The workflow, in the repository that mem is installed from."""


def workflow_command(study_files: Sequence[Path]) -> str:
    """Return a command that runs a study and works in the current folder.

    The study is passed with `--config study=FILE`: Snakemake opens the files of `--configfile` itself and ends with a
    traceback if one does not exist.

    Args:
        study_files: The study's YAML file, and files that override it.
    """
    words = ["snakemake"]
    if SNAKEFILE.is_file() and SNAKEFILE.parent != Path.cwd():
        words += ["--snakefile", str(SNAKEFILE)]
    words += ["--cores", "2", "--config", f"study={study_files[0]}"]
    if len(study_files) > 1:
        words += ["--configfile", *map(str, study_files[1:])]
    return shlex.join(words)
