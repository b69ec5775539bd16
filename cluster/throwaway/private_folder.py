"""A folder whose contents only the current user can have written.

The folder of the throwaway SLURM cluster has a fixed path in /tmp, where all users can create files. Root runs daemons
with the configuration in this folder and ends the processes that are recorded in it. Another user must therefore not be
able to create, replace or modify the folder or its files.

The check has no race. If `check` finds the folder, no other user can replace it afterwards: the sticky bit of /tmp
prevents users from removing or renaming a folder of another user. If `check` does not find the folder, another user may
create it at any time, and callers must not use the path. `create` fails if the path exists.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from cluster.throwaway.packages import ThrowawayError, Unavailable, unavailable_reason

ENTER_MODE = 0o711
"""Mode of the folders that lead to the MUNGE socket. munged requires that all users can enter them."""
PRIVATE_MODE = 0o700
"""Mode of the other folders."""
_FILE_MODE = 0o600
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_READ_BELOW = ("etc", "log", "munge", "spool")
"""Folders whose entries are checked as well: configuration, keys, logs and the working directories of daemons."""


def check(folder: Path) -> bool:
    """Return whether the folder exists, after checking that no other user controls it or its contents.

    Raises:
        Unavailable: The folder belongs to root, and the current user is not root.
        ThrowawayError: The folder, an entry or a parent belongs to another user, can be modified by other users, or is
            a symbolic link.
    """
    for parent in reversed(folder.absolute().parents):
        if not _check_parent(parent):
            return False
    found = _status(folder)
    if found is None:
        return False
    if found.st_uid == 0 != os.geteuid():
        raise Unavailable(unavailable_reason())
    problem = "is not a folder" if not stat.S_ISDIR(found.st_mode) else ""
    _refuse_if(folder, _problem(found) or problem, folder)
    for path in _entries(folder):
        _refuse_if(path, _problem(_status(path)), folder)
    return True


def create(folder: Path, mode: int = PRIVATE_MODE) -> None:
    """Create a folder that does not exist yet. An empty file system that is mounted there is also accepted.

    Raises:
        ThrowawayError: The path exists.
    """
    try:
        folder.mkdir(mode=PRIVATE_MODE)
    except FileExistsError:
        check(folder)
        if not folder.is_mount():
            raise ThrowawayError(
                f"Another process created {folder} in the meantime. Expected that only this command creates it. Run "
                "the command again."
            ) from None
    folder.chmod(mode)  # mkdir applies the umask


def read(path: Path) -> str:
    """Return the text of a file, after checking its folder.

    Raises:
        FileNotFoundError: The file or its folder does not exist.
        ThrowawayError: `check` refuses the folder.
    """
    if not check(path.parent):
        raise FileNotFoundError(path)
    return path.read_text()


def write(path: Path, text: str, mode: int = _FILE_MODE) -> None:
    """Create or replace a file atomically. Nothing is written if its folder does not exist.

    Raises:
        ThrowawayError: `check` refuses the folder.
    """
    if not check(path.parent):
        return
    partial = path.with_name(f"{path.name}.new")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE), "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
    partial.rename(path)


def open_log(path: Path) -> int:
    """Open a log file to append to it, and return its file descriptor.

    Raises:
        ThrowawayError: The folder does not exist, or `check` refuses it.
    """
    if not check(path.parent):
        raise ThrowawayError(f"The folder {path.parent} does not exist. Run `make slurm-up` to create it.")
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, _FILE_MODE)


def remove(folder: Path, kept: Path | None = None) -> None:
    """Remove a folder if it exists, or its contents if a file system is mounted there.

    Args:
        folder: The folder.
        kept: Entry that is not removed. If given, the folder is not removed either.

    Raises:
        ThrowawayError: `check` refuses the folder.
    """
    if not check(folder):
        return
    for path in folder.iterdir():
        if path == kept:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    if kept is None and not folder.is_mount():
        folder.rmdir()


def _check_parent(parent: Path) -> bool:
    """Check that no other user can replace what the parent contains. Return whether the parent exists."""
    found = _status(parent)
    if found is None:
        return False
    problem = ""
    if stat.S_ISLNK(found.st_mode):
        problem = "is a symbolic link"
    elif found.st_uid not in (0, os.geteuid()):
        problem = f"belongs to user {found.st_uid}"
    elif found.st_mode & _WRITABLE_BY_OTHERS and not found.st_mode & stat.S_ISVTX:
        problem = f"is writable by other users without the sticky bit (mode {stat.S_IMODE(found.st_mode):o})"
    if problem:
        raise ThrowawayError(
            f"{parent} {problem}. Other users could replace the folder of the throwaway SLURM cluster in it. Expected "
            "a folder of root in which users can remove only their own files (mode 1777), or to which only root can "
            "write. Correct its owner and mode, or run the throwaway SLURM cluster in a container."
        )
    return True


def _entries(folder: Path) -> Iterator[Path]:
    """Yield the entries of the folder, and the entries of the subfolders in `_READ_BELOW`."""
    for path in sorted(folder.iterdir()):
        yield path
        if path.name in _READ_BELOW and path.is_dir():
            yield from path.iterdir()


def _problem(found: os.stat_result | None) -> str:
    """Return why other users may control a path, or an empty string. The modes of sockets and devices do not matter."""
    if found is None:  # a daemon removed it in the meantime
        return ""
    if stat.S_ISLNK(found.st_mode):
        return "is a symbolic link"
    if found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}, not to the current user {os.geteuid()}"
    checked = stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)
    if checked and found.st_mode & _WRITABLE_BY_OTHERS:
        return f"is writable by other users (mode {stat.S_IMODE(found.st_mode):o})"
    return ""


def _refuse_if(path: Path, problem: str, folder: Path) -> None:
    if problem:
        raise ThrowawayError(
            f"{path} {problem}. Another user may have written the configuration and process records in {folder}, so "
            "the throwaway SLURM cluster does not use them. Expected a folder that only the current user can write to. "
            f"Examine the folder, remove it with `rm -rf {folder}`, then run the command again."
        )


def _status(path: Path) -> os.stat_result | None:
    """Return the status of a path without following a symbolic link, or None if the path does not exist."""
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
