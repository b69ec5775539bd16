"""Where the workflow, the studies and the profiles are that belong to the installed version of mem.

In a checkout, and with an editable install of it, they are the files of the repository. The wheel contains copies of
them in the folder `mem/workflow_files/`, which setup.py creates. The folders have the same structure in both cases.
"""

from __future__ import annotations

from pathlib import Path

from mem.errors import UserError

WHEEL_FOLDER = "workflow_files"
"""Folder in the package that contains the workflow in a wheel. setup.py has the same name."""
PROFILES = ("slurm", "local")
"""Profiles that `snakemake --profile NAME` finds in the working folder."""


def workflow_folder() -> Path:
    """Return the folder that contains `Snakefile`, `workflow/`, `config/`, `slurm/`, `local/` and `profiles/`.

    Raises:
        UserError: There is no workflow, because mem was copied or installed incompletely.
    """
    package = Path(__file__).parent
    for folder in (package / WHEEL_FOLDER, package.parent):
        if (folder / "Snakefile").is_file():
            return folder
    raise UserError(
        f"{package}: this installation of mem has no workflow. Expected {package / WHEEL_FOLDER} (from a wheel) or "
        f"{package.parent / 'Snakefile'} (in a checkout). Install mem again: pip install --force-reinstall mem-longtail"
    )


def snakefile() -> Path:
    """Return the path of the workflow's Snakefile."""
    return workflow_folder() / "Snakefile"


def packaged_studies() -> Path:
    """Return the folder of the studies that are delivered with mem."""
    return workflow_folder() / "config"


def is_checkout() -> bool:
    """Whether mem is used from a checkout of its repository, for example through an editable install."""
    return workflow_folder() == Path(__file__).parents[1]
