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
from mem.config.initial import OFFICIAL, OfficialWeights, unknown_weights
from mem.download import download
from mem.errors import UserError
from mem.models.weights.licences import Licence, licence_warning
from mem.models.weights.verification import Verification, verification_of

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
    if name not in OFFICIAL:
        raise UserError(unknown_weights(name))
    return OFFICIAL[name]


def official_file(name: str) -> Path:
    """Return the file of official weights in the folder for downloaded weights.

    Raises:
        UserError: The file is missing.
    """
    weights = official_weights(name)
    path = weights_folder() / weights.file
    if not path.is_file():
        raise UserError(
            f"The weights {name} are not on this machine ({path}). With network access, run: mem weights get {name}. "
            f"Without network access, download {weights.address} on another machine. Then set initial.file to the "
            f"file, or run: mem weights get {name} --from FILE"
        )
    return path


def verify_official(path: Path, name: str) -> Verification:
    """Compare a file with the published checksum of official weights and with the recorded SHA-256, if there is one.

    Raises:
        UserError: A digest differs.
    """
    weights = official_weights(name)
    digest, recorded = verify(path, weights, name), _recorded(path)
    if recorded not in (None, digest):
        raise UserError(
            f"{path}: changed since it was downloaded (SHA-256 is {digest}, was {recorded}). Delete the file and "
            "download it again."
        )
    return verification_of(digest, weights.checksum, "never" if recorded is None else "before")


def fetch_official(name: str, source: str | None, say: Callable[[str], None]) -> Path:
    """Download an official checkpoint unless it is already on this machine, and verify it.

    The licence is stated first. An interrupted download is resumed. If no full SHA-256 is published, that of the first
    download is recorded, and later downloads must match it.

    Args:
        name: Name of the checkpoint.
        source: A file or an address to use instead of the published address.
        say: Called with messages.

    Raises:
        UserError: The file cannot be downloaded, `source` is missing, or the checksum is wrong.
    """
    weights = official_weights(name)
    path = weights_folder() / weights.file
    say(f"{name}: licence: {weights.licence or 'none stated'}")
    if warning := licence_warning(name, Licence(weights.licence)):
        say(warning)
    with _download_lock(path, say):
        if path.is_file():
            verification = verify_official(path, name)
            say(f"{name} is already stored: {path}")
        else:
            part = path.with_name(f".{path.name}.part")
            download(_address(source) if source else weights.address, part, say, f"mem weights get {name} --from FILE")
            try:
                verification = _verify_download(part, path, name)
            except UserError:
                part.unlink()
                raise
            os.replace(part, path)
            say(f"{name} is stored: {path}")
        if _recorded(path) is None:
            _record(path, name, source or weights.address, verification.sha256)
            verification = verification_of(verification.sha256, weights.checksum, "now")
        say(f"{name} is {verification.text}")
    return path


def _verify_download(part: Path, path: Path, name: str) -> Verification:
    """Verify a new download that becomes the file `path`."""
    weights = official_weights(name)
    digest, recorded = verify(part, weights, name), _recorded(path)
    if recorded not in (None, digest):
        raise UserError(
            f"{name}: the file at the source changed since the last download (SHA-256 is {digest}, was {recorded}). If "
            f"you trust the new file, delete {_note(path)} and download it again."
        )
    return verification_of(digest, weights.checksum, "never" if recorded is None else "before")


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _recorded(path: Path) -> str | None:
    """Return the SHA-256 that was recorded when a file was downloaded for the first time, or None.

    Raises:
        UserError: The record is damaged.
    """
    note = _note(path)
    try:
        return str(json.loads(note.read_text())["sha256"]) if note.is_file() else None
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{note}: this record of the SHA-256 of a download is damaged. If you trust {path}, delete the record."
        ) from None


def _record(path: Path, name: str, source: str, sha256: str) -> None:
    record = {"name": name, "from": source, "sha256": sha256, "fetched": time.strftime("%Y-%m-%d")}
    files.write_text(_note(path), json.dumps(record, indent=2) + "\n")


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


def _address(source: str) -> str:
    """Return the address of a file or an address.

    Raises:
        UserError: The file is missing.
    """
    if "://" in source:
        return source
    if not Path(source).is_file():
        raise UserError(f"{source}: no such file (--from). Pass a weights file or its address.")
    return Path(source).absolute().as_uri()


@contextlib.contextmanager
def _download_lock(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Allow only one process at a time to download a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "w") as lock:
        locked = files.try_lock(lock)
        if locked is False:
            say(f"Another process is downloading {path.name}. Waiting for it to finish.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        elif locked is None:
            say(f"{path.parent}: the file system does not support locks. Do not start a second download here.")
        yield
