"""Addresses of tracking servers: the database in a folder, and texts without passwords and tokens."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes, urlsplit

import sqlalchemy.exc
from sqlalchemy.engine import make_url

from mem.errors import UserError

HIDDEN = "***"
"""Text that replaces a user name with a password, or a token, in messages."""
_SQLITE = ("sqlite", "sqlite+pysqlite")
_ADDRESS_WITH_USER = re.compile(r"\b([a-zA-Z][\w+.-]*)://[^\s'\"<>]*@")
_QUERY_VALUE = re.compile(r"([?&][\w.%~-]+=)[^&#\s'\"<>)]+")
_SECRET_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_SHORTEST_SECRET = 4
"""Minimum length of a secret that is replaced wherever it occurs. Shorter texts occur in words."""


def database_uri(database: Path) -> str:
    """Return the SQLAlchemy address of a SQLite database.

    SQLAlchemy does not decode the path in an address, and `?` ends the path. A path with `?` is therefore written as a
    `file:` address, which SQLite decodes. The name of the driver keeps MLflow from using this address as a path.

    Raises:
        UserError: The path is not valid UTF-8, which MLflow does not support.
    """
    try:
        str(database).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{database}: MLflow cannot store a database or artifacts in a folder whose path is not valid UTF-8. "
            "Rename the folder, or set MLFLOW_TRACKING_URI to a tracking server."
        ) from None
    if "?" in str(database):
        return f"sqlite+pysqlite:///file:{quote(str(database))}?uri=true"
    return f"sqlite:///{database}"


def database_path(uri: str) -> Path | None:
    """Return the file of a SQLite database, or None for all other addresses and for databases in memory."""
    if urlsplit(uri).scheme not in _SQLITE:
        return None
    try:
        database = make_url(uri).database or ""
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return None
    if database.startswith("file:"):
        database = os.fsdecode(unquote_to_bytes(database.removeprefix("file:").removeprefix("//")))
    return None if database in ("", ":memory:") else Path(database)


def is_embedded(uri: str) -> bool:
    """Return whether the tracking store is a file on this machine."""
    return urlsplit(uri).scheme in (*_SQLITE, "", "file")


def without_secrets(text: str) -> str:
    """Return a text in which addresses contain no user names, passwords and values of parameters.

    The values of MLflow's variables for a password and a token are replaced as well.
    """
    for name in _SECRET_VARIABLES:
        if len(secret := os.environ.get(name, "")) >= _SHORTEST_SECRET:
            text = text.replace(secret, HIDDEN)
    text = _ADDRESS_WITH_USER.sub(_without_user, text)
    return _QUERY_VALUE.sub(rf"\1{HIDDEN}", text)


def shown(uri: str) -> str:
    """Return an address for a message, without secrets. The address of a SQLite database contains none."""
    return without_secrets(uri) if database_path(uri) is None else uri


def _without_user(found: re.Match[str]) -> str:
    """Return an address without the user. The path of a file may contain `@`."""
    return found[0] if found[1].lower() in (*_SQLITE, "file") else f"{found[1]}://{HIDDEN}@"
