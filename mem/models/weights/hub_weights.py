"""Weights of the Hugging Face hub on this machine: which file belongs to a name, and whether it is intact.

The files are in the cache of huggingface_hub. For each commit, a record in the folder of downloaded weights (see
`mem.models.weights.hub_records`) contains the published or, on first use, the computed SHA-256. Stages read only these
files; `mem.models.weights.hub_download` downloads them.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from mem.config.weights_files import CONFIG, WEIGHTS_FILES, preferred_file
from mem.config.weights_names import COMMIT, repository_of
from mem.errors import UserError
from mem.models.weights.hub import cached_file
from mem.models.weights.hub_records import HubRecord, read_record, records
from mem.models.weights.timm_tags import timm_weights
from mem.models.weights.verification import Verification, require_checksum, verification_of

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class StoredWeights:
    """Weights of the hub in the cache."""

    name: str
    repository: str
    commit: str
    path: Path
    record: HubRecord | None
    """None if another program downloaded the file."""

    @property
    def checksum(self) -> str | None:
        """Published checksum. Without a record, the cache's name of the file, which is its SHA-256 with Git LFS."""
        if self.record is not None:
            return self.record.checksum
        blob = linked_file(self.path)
        return f"sha256:{blob.name}" if blob is not None and _SHA256.fullmatch(blob.name) else None


def location_of(name: str) -> tuple[str, str | None]:
    """Return the repository of a name, and the file if the name determines it.

    Args:
        name: `hf-hub:OWNER/REPOSITORY` or a timm tag.

    Raises:
        UserError: As in `timm_weights`.
    """
    repository = repository_of(name)
    if repository is not None:
        return repository, None
    found = timm_weights(name)
    return found.repository, found.file


def stored_weights(name: str, revision: str | None) -> StoredWeights | None:
    """Return the weights of a name in the cache, or None. The hub is not contacted.

    Args:
        name: `hf-hub:OWNER/REPOSITORY` or a timm tag.
        revision: A commit. For a branch or a tag, whose commit only the hub knows, the result is None.

    Raises:
        UserError: As in `location_of`, `config.json` is damaged, or the library huggingface_hub is missing.
    """
    if revision is None or not COMMIT.fullmatch(revision):
        return None
    repository, file = location_of(name)
    names = (file,) if file else WEIGHTS_FILES
    cached = {each: path for each in names if (path := cached_file(repository, revision, each)) is not None}
    found = {each: read_record(repository, revision, each) for each in cached}
    # Other programs can have downloaded other files. A record shows which file belongs to the name.
    recorded = [each for each, record in found.items() if record is not None]
    chosen = file or preferred_file(recorded or cached, cached_file(repository, revision, CONFIG))
    if chosen is None or chosen not in cached:
        return None
    return StoredWeights(name, repository, revision, cached[chosen], found[chosen])


def stored_commit(repository: str) -> str | None:
    """Return the commit of the last download of a repository whose weights are still in the cache, or None."""
    found = [
        record
        for record in records()
        if record.repository == repository and cached_file(repository, record.commit, record.file) is not None
    ]
    return max(found, key=lambda record: record.fetched).commit if found else None


def verify_stored(stored: StoredWeights) -> Verification:
    """Compare a file in the cache with its published checksum and with the recorded SHA-256.

    Raises:
        UserError: A digest differs: the file is damaged, or it was changed.
    """
    command = get_command(stored.name, stored.commit)
    digest = require_checksum(stored.path, stored.checksum, stored.name, command)
    if stored.record is not None and stored.record.sha256 != digest:
        raise UserError(
            f"{stored.path}: changed since it was downloaded (SHA-256 is {digest}, was {stored.record.sha256}). To "
            f"download it again, run: {command}"
        )
    return verification_of(digest, stored.checksum, "never" if stored.record is None else "before")


def get_command(name: str, revision: str | None) -> str:
    """Return the command that downloads weights of the hub."""
    return f"mem weights get {name}" + (f" --revision {revision}" if revision else "")


def linked_file(path: Path) -> Path | None:
    """Return the file in the cache's folder `blobs` that a path links to, or None if the cache contains no links.

    This file may be a link itself, to a file with another name that repositories share.
    """
    return path.parent / os.readlink(path) if path.is_symlink() else None
