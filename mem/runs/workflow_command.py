"""The command that runs the workflow, for messages."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from mem.installation import is_checkout, workflow_folder


def workflow_command(study_files: Sequence[Path]) -> str:
    """Return a command that runs a study and works in the current folder.

    In a checkout, it is the command of the documentation, `snakemake`; in every other folder, `mem run`, which knows
    the Snakefile. With `snakemake`, the study is passed with `--config study=FILE`: Snakemake opens the files of
    `--configfile` itself and ends with a traceback if one does not exist.

    Args:
        study_files: The study's YAML file, and files that override it.
    """
    if is_checkout() and workflow_folder() == Path.cwd():
        words = ["snakemake", "--cores", "2", "--config", f"study={study_files[0]}"]
    else:
        words = ["mem", "run", str(study_files[0])]
    if len(study_files) > 1:
        words += ["--configfile", *map(str, study_files[1:])]
    return shlex.join(words)
