"""Official checkpoints on this machine: where they lie, how they come here, whether they are the right ones."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mem import files
from mem.config.initial import OFFICIAL, Initial, Official
from mem.errors import UserError
from mem.models.weights.download import download

FOLDER_VARIABLE = "MEM_WEIGHTS"


def weights_folder() -> Path:
    """Where downloaded weights lie: $MEM_WEIGHTS, or ~/.cache/mem/weights."""
    given = os.environ.get(FOLDER_VARIABLE)
    return Path(given) if given else Path.home() / ".cache" / "mem" / "weights"


def official(name: str) -> Official:
    """The checkpoint of a name.

    Raises:
        UserError: There is none.
    """
    try:
        return OFFICIAL[Initial(weights=name).weights or ""]
    except ValueError:
        raise UserError(f"There are no official weights {name}. There are: {', '.join(OFFICIAL)}") from None


def local_file(initial: Initial) -> Path:
    """The file that holds the weights of a study's section `initial`.

    Raises:
        UserError: It is not here; says how to get it. Or it is not the official one.
    """
    if initial.file is not None:
        path = Path(initial.file)
        if not path.is_file():
            raise UserError(f"{path}: no such weights file (initial.file)")
        if initial.weights is not None:
            verify(path, official(initial.weights), initial.weights)
        return path
    assert initial.weights is not None
    path = weights_folder() / official(initial.weights).file
    if not path.is_file():
        raise UserError(
            f"The weights {initial.weights} are not on this machine ({path}). Where there is a network: "
            f"mem weights get {initial.weights}. Elsewhere: fetch {official(initial.weights).address} on another "
            f"machine, and name the file in initial.file, or give it to: mem weights get {initial.weights} --from FILE"
        )
    return path


def get(name: str, source: str | None, say: Callable[[str], None]) -> Path:
    """Have an official checkpoint on this machine, from its address or from `source` (a file or another address).

    What was interrupted goes on where it stopped. Where no checksum is published, the file's own is recorded the
    first time, and must be the same ever after.

    Raises:
        UserError: It cannot be fetched, or is not the right file.
    """
    entry = official(name)
    path = weights_folder() / entry.file
    note = path.with_name(f"{path.name}.json")
    with _alone(path, say):
        recorded = json.loads(note.read_text())["sha256"] if note.is_file() else None
        if path.is_file():
            digest = verify(path, entry, name)
            if recorded not in (None, digest):
                raise UserError(
                    f"{path}: has changed since it was fetched (SHA-256 {digest}, then {recorded}). Remove it"
                )
            say(f"{name} is here already: {path}")
        else:
            part = path.with_name(f".{path.name}.part")
            download(_address(source) if source else entry.address, part, say)
            try:
                digest = verify(part, entry, name)
                if recorded not in (None, digest):
                    raise UserError(
                        f"{name}: the file fetched now has the SHA-256 {digest}, the one fetched before had "
                        f"{recorded}. Somebody changed it. If that is well, remove {note} and fetch it again"
                    )
            except UserError:
                part.unlink()
                raise
            os.replace(part, path)
            say(f"{name} is now at {path}")
        if recorded is None:
            record = {
                "name": name,
                "from": source or entry.address,
                "sha256": digest,
                "fetched": time.strftime("%Y-%m-%d"),
            }
            files.write_text(note, json.dumps(record, indent=2) + "\n")
            if entry.checksum is None:
                say(f"No checksum is published for it. Recorded for later: SHA-256 {digest}")
    return path


def verify(path: Path, entry: Official, name: str) -> str:
    """Check a file against the published checksum; returns its SHA-256.

    Raises:
        UserError: It is another file.
    """
    digests = {"sha256": hashlib.sha256()}
    algorithm, _, expected = (entry.checksum or "sha256:").partition(":")
    digests.setdefault(algorithm, hashlib.new(algorithm, usedforsecurity=False))
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            for digest in digests.values():
                digest.update(block)
    found = digests[algorithm].hexdigest()
    if not found.startswith(expected):
        raise UserError(
            f"{path}: is not {name}: its {algorithm} begins with {found[: len(expected)]}, published is {expected} "
            f"({entry.source}). Fetch it again from {entry.address}"
        )
    return digests["sha256"].hexdigest()


def listing() -> str:
    """The official checkpoints, where they come from, and which are here."""
    lines: list[str] = []
    for name, entry in OFFICIAL.items():
        path = weights_folder() / entry.file
        here = f"here: {path}" if path.is_file() else "not here"
        checksum = entry.checksum or "no published checksum"
        lines.append(f"{name}\n    {entry.about}\n    {entry.address}\n    {checksum}; {here}")
    return "\n".join(lines)


def _address(source: str) -> str:
    return source if "://" in source else Path(source).absolute().as_uri()


@contextlib.contextmanager
def _alone(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """One process fetches a file at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Another process is fetching {path.name}; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
