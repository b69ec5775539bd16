"""Locations of artifacts in an embedded database that was copied or moved together with its artifacts.

MLflow stores absolute addresses in the database. In a copy of a working folder, they refer to the original.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

ARTIFACTS = "mlflow-artifacts"
"""Folder next to the database with one folder of artifacts per experiment."""
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns of MLflow's database that contain addresses of artifacts."""
_TIMEOUT_SECONDS = 20.0


def artifact_location(database_folder: Path, experiment: str) -> str:
    """Return the address of the artifacts of an experiment.

    Raises:
        ValueError: The name of the experiment is not the name of a folder.
    """
    artifacts = (database_folder / ARTIFACTS).resolve()
    if experiment in ("", ".", "..") or "/" in experiment or "\0" in experiment:
        raise ValueError(f"{experiment!r} cannot be the name of an experiment")
    return (artifacts / experiment).as_uri()


def relocate(database: Path) -> str | None:
    """Let the locations in an embedded database refer to the artifacts next to it.

    A location is changed if the folder that it refers to is missing, or if the folder of this experiment next to the
    database is another one, as in a copy. Locations that do not end with `mlflow-artifacts/<experiment>` are not
    changed. A database that cannot be written is not changed.

    Returns:
        A message, or None if nothing was changed.
    """
    if not database.is_file():
        return None
    address = f"file:{quote(os.fsencode(database))}?mode=rw"
    with contextlib.suppress(sqlite3.Error):  # MLflow's client reports a database that cannot be used
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=_TIMEOUT_SECONDS)) as connection:
            changed = _changed_locations(connection, database.parent)
            if changed:
                with connection:
                    for before, after in changed.items():
                        _replace(connection, before, after)
                origin = _folder(next(iter(changed))).parent
                return (
                    f"{database} was copied or moved. The locations of its artifacts are changed from {origin} to "
                    f"{database.parent / ARTIFACTS}."
                )
    return None


def _changed_locations(connection: sqlite3.Connection, folder: Path) -> dict[str, str]:
    """Return the locations of experiments that refer to another folder, and the location that replaces each."""
    changed: dict[str, str] = {}
    for (before,) in connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall():
        if not isinstance(before, str) or not before.startswith("file:"):
            continue
        recorded = _folder(before)
        if recorded.parent.name != ARTIFACTS:
            continue
        here = folder / ARTIFACTS / recorded.name
        if (here.exists() or not recorded.exists()) and not _same(recorded, here) and recorded.parent != here.parent:
            changed[before] = artifact_location(folder, recorded.name)
    return changed


def _folder(location: str) -> Path:
    return Path(url2pathname(urlsplit(location).path))


def _same(one: Path, other: Path) -> bool:
    """Return whether two paths lead to the same folder, for example through two mounts."""
    try:
        return os.path.samefile(one, other) or os.path.samefile(one.parent, other.parent)
    except OSError:
        return False


def _replace(connection: sqlite3.Connection, before: str, after: str) -> None:
    """Replace a location at the start of all addresses in the database."""
    for table, column in _COLUMNS:
        if connection.execute(
            "SELECT 1 FROM pragma_table_info(?) WHERE name = ?", (table, column)
        ).fetchone():  # older versions of MLflow do not have all tables
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                f"WHERE {column} = ? OR substr({column}, 1, ?) = ? || '/'",
                (after, len(before) + 1, before, len(before) + 1, before),
            )
