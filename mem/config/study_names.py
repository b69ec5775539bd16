"""Find the file of a study by its path or its name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mem.errors import UserError, first_of
from mem.installation import packaged_studies

OWN_STUDIES = Path("config")
"""Folder of the user's studies, relative to the folder in which a command is started."""
SUFFIXES = (".yaml", ".yml")
"""Suffixes of files of studies. A study that is given by its name has the first one."""


def study_folders(packaged: Path | None = None) -> tuple[Path, ...]:
    """Return the folders in which studies are found by name, in the order in which they are searched.

    Args:
        packaged: Folder of the studies that are delivered with mem. Default: `packaged_studies()`.
    """
    packaged = relative_to_working_folder(packaged_studies()) if packaged is None else packaged
    return (packaged,) if _is_same(OWN_STUDIES, packaged) else (OWN_STUDIES, packaged)


def find_study(name: str | Path, folders: Sequence[Path] | None = None) -> Path:
    """Return the file of a study, given its path or its name.

    A name is the path of a file in `config/` or in the folder of the studies that are delivered with mem, without
    `.yaml`, for example `digits_lt` or `paper/imagenet_lt_resnext50`. An existing file takes precedence over a name.
    The path of a missing file is returned if it ends in `.yaml`: `load_study` explains what is wrong with it.

    Args:
        name: The path or the name.
        folders: Folders to search. Default: `study_folders()`.

    Raises:
        UserError: There is neither such a file nor such a study.
    """
    path = Path(name)
    if _is_file(path):
        return path
    folders = study_folders() if folders is None else folders
    if path.suffix in SUFFIXES:
        meant = path.with_suffix("").as_posix().removeprefix(f"{OWN_STUDIES}/")
        if not path.is_absolute() and meant in study_names(folders):
            raise UserError(f"{path}: no such file; did you mean the study `{meant}`, without .yaml?")
        return path
    if not path.is_absolute() and ".." not in path.parts and path.parts:
        for folder in folders:
            if _is_file(found := folder / f"{path}.yaml"):
                return found
    raise UserError(_no_such_study(str(name), folders))


def study_names(folders: Sequence[Path] | None = None) -> list[str]:
    """Return the names of all studies in the given folders, or in `study_folders()`."""
    folders = study_folders() if folders is None else folders
    return sorted({name for folder in folders for name in _names_in(folder)})


def _names_in(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*.yaml"):
        yield path.relative_to(folder).with_suffix("").as_posix()


def _no_such_study(name: str, folders: Sequence[Path]) -> str:
    names = study_names(folders)
    same = [each for each in names if each.rpartition("/")[2] == name.rpartition("/")[2]]
    similar = difflib.get_close_matches(name, names, n=1)
    what = "this is a folder" if name and os.path.isdir(name) else "no such study"
    meant = f"; did you mean `{(same or similar)[0]}`?" if same or similar else "."
    top = [each for each in names if "/" not in each]
    available = f" Studies: {first_of(top)}" if top else ""
    searched = " and ".join(str(folder) for folder in folders if folder.is_dir())
    return (
        f"{name or '(empty text)'}: {what}{meant} Expected the path of a YAML file, or the name of one in {searched} "
        f"without .yaml.{available}"
    )


def _is_file(path: Path) -> bool:
    """Return whether a path leads to a file or a pipe. In contrast to `Path.exists`, no path raises an error."""
    return os.path.exists(path) and not os.path.isdir(path)


def _is_same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def relative_to_working_folder(path: Path) -> Path:
    """Return a path in the working folder without the path of this folder, for messages; other paths unchanged."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
