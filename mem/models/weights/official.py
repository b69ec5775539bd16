"""Storage, download and verification of official checkpoints."""

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
from mem.config.initial import OFFICIAL, Initial, OfficialWeights
from mem.download import download
from mem.errors import UserError

FOLDER_VARIABLE = "MEM_WEIGHTS"


def weights_folder() -> Path:
    """Return the folder for downloaded weights: $MEM_WEIGHTS, or ~/.cache/mem/weights if the variable is not set."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return Path(folder) if folder else Path.home() / ".cache" / "mem" / "weights"


def official_weights(name: str) -> OfficialWeights:
    """Return the official checkpoint with this name.

    Raises:
        UserError: The name is unknown.
    """
    try:
        return OFFICIAL[Initial(weights=name).weights or ""]
    except ValueError:
        raise UserError(f"Unknown official weights {name}. Available: {', '.join(OFFICIAL)}") from None


def weights_file(initial: Initial) -> Path:
    """Return the weights file that the `initial` section of a study specifies.

    Raises:
        UserError: The file is missing, or it is not the official checkpoint.
    """
    if initial.file is not None:
        path = Path(initial.file)
        if not path.is_file():
            raise UserError(f"{path}: weights file not found (initial.file)")
        if initial.weights is not None:
            verify(path, official_weights(initial.weights), initial.weights)
        return path
    assert initial.weights is not None
    weights = official_weights(initial.weights)
    path = weights_folder() / weights.file
    if not path.is_file():
        raise UserError(
            f"The weights {initial.weights} are not on this machine ({path}). With network access, run: "
            f"mem weights get {initial.weights}. Without network access, download {weights.address} on another "
            f"machine. Then set initial.file to the file, or run: mem weights get {initial.weights} --from FILE"
        )
    return path


def fetch_official(name: str, source: str | None, say: Callable[[str], None]) -> Path:
    """Download an official checkpoint unless it is already on this machine, and verify it.

    An interrupted download is resumed. If no checksum is published, the SHA-256 of the first download is recorded, and
    later downloads must match it.

    Args:
        name: Name of the checkpoint.
        source: A file or an address to use instead of the published address.
        say: Called with progress messages.

    Raises:
        UserError: The file cannot be downloaded, or its checksum is wrong.
    """
    weights = official_weights(name)
    path = weights_folder() / weights.file
    note = path.with_name(f"{path.name}.json")
    with _download_lock(path, say):
        recorded = json.loads(note.read_text())["sha256"] if note.is_file() else None
        if path.is_file():
            digest = verify(path, weights, name)
            if recorded not in (None, digest):
                raise UserError(
                    f"{path}: changed since it was downloaded (SHA-256 is {digest}, was {recorded}). Delete the file "
                    "and download it again."
                )
            say(f"{name} is already stored: {path}")
        else:
            part = path.with_name(f".{path.name}.part")
            download(_address(source) if source else weights.address, part, say, "mem weights get NAME --from FILE")
            try:
                digest = verify(part, weights, name)
                if recorded not in (None, digest):
                    raise UserError(
                        f"{name}: the file at the source changed since the last download (SHA-256 is {digest}, was "
                        f"{recorded}). If you trust the new file, delete {note} and download it again."
                    )
            except UserError:
                part.unlink()
                raise
            os.replace(part, path)
            say(f"{name} is stored: {path}")
        if recorded is None:
            record = {
                "name": name,
                "from": source or weights.address,
                "sha256": digest,
                "fetched": time.strftime("%Y-%m-%d"),
            }
            files.write_text(note, json.dumps(record, indent=2) + "\n")
            if weights.checksum is None:
                say(f"No checksum is published for this file. Recorded its SHA-256 to verify later downloads: {digest}")
    return path


def verify(path: Path, weights: OfficialWeights, name: str) -> str:
    """Check a file against the published checksum, and return the file's SHA-256.

    Raises:
        UserError: The checksum differs.
    """
    digests = {"sha256": hashlib.sha256()}
    algorithm, _, expected = (weights.checksum or "sha256:").partition(":")
    digests.setdefault(algorithm, hashlib.new(algorithm, usedforsecurity=False))
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            for digest in digests.values():
                digest.update(block)
    found = digests[algorithm].hexdigest()
    if not found.startswith(expected):
        raise UserError(
            f"{path}: this file is not {name}: its {algorithm} starts with {found[: len(expected)]}, but the published "
            f"checksum starts with {expected} ({weights.source}). Download it again from {weights.address}"
        )
    return digests["sha256"].hexdigest()


def list_official() -> str:
    """Return a text that lists the official checkpoints, their addresses and checksums, and whether they are stored."""
    lines: list[str] = []
    for name, weights in OFFICIAL.items():
        path = weights_folder() / weights.file
        stored = f"stored: {path}" if path.is_file() else "not stored"
        checksum = weights.checksum or "no published checksum"
        lines.append(f"{name}\n    {weights.about}\n    {weights.address}\n    {checksum}; {stored}")
    return "\n".join(lines)


def _address(source: str) -> str:
    return source if "://" in source else Path(source).absolute().as_uri()


@contextlib.contextmanager
def _download_lock(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Allow only one process at a time to download a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Another process is downloading {path.name}. Waiting for it to finish.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
