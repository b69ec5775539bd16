"""Download and verification of weights of the Hugging Face hub, and their records."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from mem.config.weights_files import CONFIG, OPEN_CLIP_CONFIG, WEIGHTS_FILES, preferred_file
from mem.errors import UserError
from mem.models.weights.hub import HubFile, Repository, address, cached_file, download_file, repository_at
from mem.models.weights.hub_records import HubRecord, read_record, record_path, write_record
from mem.models.weights.hub_weights import (
    StoredWeights,
    get_command,
    linked_file,
    location_of,
    stored_commit,
    stored_weights,
    verify_stored,
)
from mem.models.weights.licences import CARD, Licence, licence_warning
from mem.models.weights.pretrained_config import config_beside, licence_beside
from mem.models.weights.verification import has_checksum, require_checksum, verification_of

DESCRIPTIONS = (CONFIG, OPEN_CLIP_CONFIG, CARD)
"""Small files that are stored with the weights: the architecture, the normalisation and the licence."""


def fetch_from_hub(name: str, revision: str | None, say: Callable[[str], None]) -> StoredWeights:
    """Download weights of the hub unless they are stored, and verify them.

    Weights of a commit that mem stored are not asked for again: no network is needed. Damaged files are replaced. For a
    file that another program downloaded, the hub is asked which file belongs to the name, if it can be reached.

    Args:
        name: `hf-hub:OWNER/REPOSITORY` or a timm tag.
        revision: A commit, a branch or a tag. Default: the newest commit of the branch main.
        say: Called with messages.

    Raises:
        UserError: The file cannot be downloaded, or its digest differs from the published one.
    """
    stored, problems = None, list[str]()
    try:
        stored = stored_weights(name, revision)
        if stored is not None and stored.record is not None:
            return _use_stored(stored, say)
    except UserError as error:
        problems.append(str(error))
    repository, file = location_of(name)
    try:
        found = ask_hub(repository, revision)
    except UserError as error:
        if stored is not None and stored.record is None:
            return _use_stored(stored, say)  # not recorded: the hub may name another file
        raise UserError("\n".join(dict.fromkeys([*problems, str(error)]))) from None
    descriptions = fetch_descriptions(found)
    file = file or weights_file_in(found)
    _announce(name, found.commit, licence_in(found, descriptions), say)
    if found.gated:
        say("The repository is gated: its conditions apply.")
    return _download(name, found, entry_of(found, file), say)


def ask_hub(repository: str, revision: str | None) -> Repository:
    """Ask the hub about a repository. If this fails, the message names the commit that is stored.

    Raises:
        UserError: As in `repository_at`.
    """
    try:
        return repository_at(repository, revision)
    except UserError as error:
        commit = stored_commit(repository)
        if commit is None or revision == commit:
            raise
        raise UserError(f"{error} The commit {commit} is stored: --revision {commit} needs no network.") from None


def fetch_descriptions(found: Repository) -> dict[str, Path]:
    """Download the small files of a repository that describe its weights, and return their paths by name.

    A file in the cache is used unless it is damaged.
    """
    return {
        each: download_file(found.name, found.commit, each, again=_is_damaged(found, found.files[each]))
        for each in DESCRIPTIONS
        if each in found.files
    }


def licence_in(found: Repository, descriptions: Mapping[str, Path]) -> Licence:
    """Return the licence that the descriptions of a repository state or, without them, the hub."""
    path = next(iter(descriptions.values()), None)
    return found.licence if path is None else licence_beside(path)


def weights_file_in(found: Repository) -> str:
    """Return the name of the weights file in a repository, whose descriptions are in the cache.

    Raises:
        UserError: There is none.
    """
    file = preferred_file(found.files, cached_file(found.name, found.commit, CONFIG))
    if file is None:
        raise UserError(
            f"{address(found.name)}: contains no weights file at {found.commit}; expected one of "
            f"{', '.join(WEIGHTS_FILES)}. Download the file that you need and set initial.file."
        )
    return file


def entry_of(found: Repository, file: str) -> HubFile:
    """Return what the hub states about a file.

    Raises:
        UserError: The repository does not contain the file.
    """
    if file not in found.files:
        raise UserError(f"{address(found.name)}: contains no file {file} at {found.commit}. Use another revision.")
    return found.files[file]


def _announce(name: str, commit: str, licence: Licence, say: Callable[[str], None]) -> None:
    """State the commit and the licence before the weights are downloaded."""
    say(f"{name}: commit {commit}, licence: {licence}")
    if warning := licence_warning(name, licence):
        say(warning)


def _use_stored(stored: StoredWeights, say: Callable[[str], None]) -> StoredWeights:
    """Verify weights in the cache and the files that describe them, and state the commit and the licence.

    Raises:
        UserError: As in `verify_stored` and `config_beside`.
    """
    verification = verify_stored(stored)
    config_beside(stored.path)
    _announce(stored.name, stored.commit, licence_beside(stored.path), say)
    say(f"{stored.name} is already stored: {stored.path}")
    say(f"{stored.name} is {verification.text}")
    return stored


def _download(name: str, found: Repository, entry: HubFile, say: Callable[[str], None]) -> StoredWeights:
    path = cached_file(found.name, found.commit, entry.name)
    damaged = _is_damaged(found, entry)
    if damaged:
        say(f"{path}: damaged or changed. Downloading it again.")
    elif path is None:
        say(f"Downloading {entry.name}{f' ({entry.size / 1e6:.0f} MB)' if entry.size else ''}.")
    path = download_file(found.name, found.commit, entry.name, again=damaged)
    earlier = read_record(found.name, found.commit, entry.name)
    try:
        digest = require_checksum(path, entry.checksum, name, get_command(name, found.commit))
        if earlier is not None and earlier.sha256 != digest:
            raise UserError(
                f"{name}: the file on the hub is not that of the first download (SHA-256 is {digest}, was "
                f"{earlier.sha256}). A commit never changes, so do not use this file. If you trust it, delete "
                f"{record_path(found.name, found.commit, entry.name)} and download it again."
            )
    except UserError:
        _delete(path)
        raise
    stored = StoredWeights(name, found.name, found.commit, path, earlier)
    say(f"{name} is stored: {path}")
    if earlier is None:
        stored = _recorded(stored, entry, digest)
    say(f"{name} is {verification_of(digest, entry.checksum, 'now' if earlier is None else 'before').text}")
    return stored


def _is_damaged(found: Repository, entry: HubFile) -> bool:
    """Return whether the cache contains a file of a repository with another content than the published one."""
    path = cached_file(found.name, found.commit, entry.name)
    return path is not None and not has_checksum(path, entry.checksum)


def _recorded(stored: StoredWeights, entry: HubFile, sha256: str) -> StoredWeights:
    """Record the digest of a verified file."""
    today = time.strftime("%Y-%m-%d")
    record = HubRecord(stored.name, stored.repository, stored.commit, entry.name, sha256, entry.checksum, today)
    write_record(record)
    return replace(stored, record=record)


def _delete(path: Path) -> None:
    """Delete a file in the cache, and the file that it links to."""
    for each in (linked_file(path), path):
        if each is not None:
            each.unlink(missing_ok=True)
