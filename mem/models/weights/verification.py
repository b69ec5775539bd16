"""What was verified of a weights file, in words that do not claim more than that."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mem.errors import UserError

_BITS_PER_DIGIT = 4
_SHA256_DIGITS = 64
Recorded = Literal["before", "now", "never"]
"""When the SHA-256 of a file was recorded, which later downloads of the file must equal."""
_RECORDED: Mapping[Recorded, str] = {
    "before": "Its SHA-256 equals the one that was recorded on first use",
    "now": "Its SHA-256 is recorded on this first use, and later downloads must equal it",
    "never": "Its SHA-256",
}
_ALGORITHMS = {"md5": "MD5", "sha256": "SHA-256"}


@dataclass(frozen=True)
class Verification:
    """The digest of a weights file, and what it was compared with."""

    sha256: str
    authenticated: bool
    """Whether the publisher's full SHA-256 is that of the file. Only then, the file is certainly the published one."""
    text: str

    def document(self) -> dict[str, str | bool]:
        """Return the verification as JSON data for run.json."""
        return {"sha256": self.sha256, "authenticated": self.authenticated, "verification": self.text}


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_id_of(path: Path) -> str:
    """Return git's id of a file: the SHA-1 of its size and content, 40 hexadecimal digits."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def has_checksum(path: Path, checksum: str | None) -> bool:
    """Return whether a file has a published checksum. Without a checksum, every file has it.

    Args:
        path: The file.
        checksum: `sha256:` with 64 digits, or `git:` with git's id of the file.
    """
    algorithm, _, expected = (checksum or "").partition(":")
    return not expected or (git_id_of(path) if algorithm == "git" else sha256_of(path)) == expected


def require_checksum(path: Path, checksum: str | None, name: str, get_again: str) -> str:
    """Compare a file of the hub with its published checksum, and return its SHA-256.

    Args:
        path: The file.
        checksum: As in `has_checksum`.
        name: Name of the weights, for the message.
        get_again: Command that replaces the file, for the message.

    Raises:
        UserError: The digest differs.
    """
    algorithm, _, expected = (checksum or "").partition(":")
    sha256 = sha256_of(path)
    found = git_id_of(path) if algorithm == "git" else sha256
    if expected and found != expected:
        raise UserError(
            f"{path}: this is not the file that the hub publishes as {name}: its digest is {found}, but the published "
            f"one is {expected}. The file is incomplete, damaged or manipulated. To replace it, run: {get_again}. If "
            "this happens again, check HF_ENDPOINT and the proxy."
        )
    return sha256


def verification_of(sha256: str, checksum: str | None, recorded: Recorded) -> Verification:
    """Describe how a file was verified that has the published checksum and, if recorded, the recorded SHA-256.

    Args:
        sha256: Digest of the file.
        checksum: Published checksum as `algorithm:digits`; None if there is none.
        recorded: When the SHA-256 was recorded.
    """
    if is_full(checksum):
        return Verification(sha256, True, f"authenticated by the full SHA-256 that is published: {sha256}")
    text = f"not authenticated: {published_part(checksum)}. {_RECORDED[recorded]}: {sha256}"
    return Verification(sha256, False, text)


def is_full(checksum: str | None) -> bool:
    """Return whether a published checksum is a complete SHA-256, which nobody can imitate."""
    algorithm, _, digits = (checksum or "").partition(":")
    return algorithm == "sha256" and len(digits) == _SHA256_DIGITS


def published_part(checksum: str | None) -> str:
    """Return a description of a published checksum that does not authenticate a file."""
    if checksum is None:
        return "no checksum is published"
    algorithm, _, digits = checksum.partition(":")
    bits = len(digits) * _BITS_PER_DIGIT
    if algorithm == "git":
        return "the hub publishes no SHA-256 of this file, only git's id (SHA-1), which it has"
    return f"checked by a {bits}-bit prefix of {_ALGORITHMS.get(algorithm, algorithm)} only, which detects only damage"
