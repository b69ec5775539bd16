"""The arguments STUDY and RUN, which every command accepts in the same forms.

A study is given by its path or its name (see `mem.config.study_names.find_study`). Files that follow it override its
settings. A run is given by its folder, its key, the beginning of its key, the name of its head, or STUDY:HEAD (see
`mem.runs.find.find_run`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mem.config import Study

STUDY_HELP = "path or name of a study, for example digits_lt for config/digits_lt.yaml"
OVERRIDES_HELP = f"{STUDY_HELP}; further files override its settings"
RUN_HELP = "a run: its folder, its key, the first digits of its key, the name of its head, or STUDY:HEAD"


def add_study(command: Any) -> None:
    """Add the positional argument STUDY, with files that override its settings, to a command."""
    command.add_argument("study", nargs="+", metavar="STUDY", help=OVERRIDES_HELP)


def add_run(command: Any, name: str = "run", text: str = RUN_HELP) -> None:
    """Add a positional argument for a run to a command."""
    command.add_argument(name, metavar=name.upper(), help=text)


def study_files(given: Sequence[str]) -> list[Path]:
    """Return the files of a study: that of the study itself, and the files that override its settings.

    Raises:
        UserError: There is no such study, or another study follows the first one.
    """
    from mem.config.study_names import find_study

    first, *others = given
    return [find_study(first), *(_override(name, first) for name in others)]


def load_given_study(given: Sequence[str]) -> Study:
    """Load the study that the arguments specify.

    Raises:
        UserError: As in `study_files` and `load_study`.
    """
    from mem.config.load import load_study

    return load_study(study_files(given))


def name_of_study(given: str, root: Path) -> str:
    """Return the name of a study that has results in a working folder, given its name, or the path or name of its file.

    The name of a study is its setting `study`, which is also the name of its folder in `results/`. The name of its file
    may differ.

    Raises:
        UserError: The file is not a valid study.
    """
    from mem.config.load import load_study
    from mem.config.study_names import find_study
    from mem.errors import UserError

    if given and "/" not in given and (root / "results" / given).is_dir():
        return given
    try:
        file = find_study(given)
    except UserError:
        # The study's file may be elsewhere. The caller looks for its results and lists the studies that have some.
        if not given or "/" in given:
            raise
        return given
    return load_study([file]).study


def _override(name: str, study: str) -> Path:
    """Return the path of a file that overrides settings. It has no name, only a path."""
    from mem.config.study_names import study_names
    from mem.errors import UserError

    if not Path(name).exists() and name in study_names():
        raise UserError(
            f"{name}: expected a single study, but {study} is one already. To merge the settings of {name} over those "
            "of the study, pass the path of its file."
        )
    return Path(name)
