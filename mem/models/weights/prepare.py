"""What has to happen to initial weights before jobs start: the commit is known, and the files are on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mem.config.initial import Initial
from mem.config.weights_names import check_name, folder_of, is_on_hub
from mem.errors import UserError
from mem.models.weights.hub import cache_folder, cached_file, repository_at
from mem.models.weights.hub_download import DESCRIPTIONS, fetch_from_hub
from mem.models.weights.hub_weights import get_command, location_of, stored_commit
from mem.models.weights.official import fetch_official, official_weights


def require_revision(initial: Initial | None) -> None:
    """Check that the weights of a hub's repository have a commit. If not, ask the hub for the newest one.

    Raises:
        UserError: The commit is missing. The message contains the lines to add to the study.
    """
    if initial is None or initial.weights is None or not initial.missing_revision:
        return
    problem, name = initial.missing_revision, initial.weights
    repository, _ = location_of(name)
    try:
        commit, source = repository_at(repository, None).commit, "the newest one"
    except UserError as error:
        cached = _cached_commit(repository)
        if cached is None:
            raise UserError(f"{problem} The newest commit could not be found: {error}") from None
        commit, source = cached, "the one in the cache, because the hub could not be asked"
    raise UserError(f"{problem} Add the commit to the study ({source}):\n\n{yaml_lines(name, commit)}")


def yaml_lines(name: str, revision: str | None) -> str:
    """Return the lines of a study that specify weights."""
    return f"initial:\n  weights: {name}" + (f"\n  revision: {revision}" if revision else "")


def fetch_weights(initial: Initial, say: Callable[[str], None]) -> None:
    """Download weights that have a name unless they are on this machine, and verify them.

    Raises:
        UserError: As in `fetch_from_hub` and `fetch_official`.
    """
    if initial.weights is None or not download_command(initial):
        return
    if initial.on_hub:
        fetch_from_hub(initial.weights, initial.revision, say)
    else:
        fetch_official(initial.weights, None, say)


def download_command(initial: Initial) -> str:
    """Return the command that downloads weights with a name. Empty for the files and folders of the user."""
    if initial.weights is None or initial.file is not None or initial.folder is not None:
        return ""
    return get_command(initial.weights, initial.revision)


def get_weights(name: str, revision: str | None, source: str | None, say: Callable[[str], None]) -> None:
    """Download weights by their name, verify them, and state the lines to add to a study.

    Args:
        name: Name of official weights, `hf-hub:OWNER/REPOSITORY` or a timm tag.
        revision: A commit, a branch or a tag of the hub's repository. Default: the newest commit.
        source: A file or an address to use instead of the published address of official weights.
        say: Called with messages.

    Raises:
        UserError: As in `fetch_from_hub` and `fetch_official`; an option does not apply to the weights; or the name is
            that of a folder or is unknown.
    """
    require_name(name, revision)
    if is_on_hub(name) and source is not None:
        raise UserError(
            f"--from: applies only to official weights. To use {name} without internet access, copy the cache "
            f"{cache_folder()} from a machine that has the files, or set initial.file to a weights file."
        )
    if is_on_hub(name):
        revision = fetch_from_hub(name, revision, say).commit
    else:
        fetch_official(name, source, say)
    say(f"To use the weights in a study:\n\n{yaml_lines(name, revision)}")


def require_name(name: str, revision: str | None) -> None:
    """Check that a name is that of weights that can be downloaded, and that a revision applies to them.

    Raises:
        UserError: It is not, or the revision does not apply.
    """
    try:
        check_name(name)
    except ValueError as error:
        raise UserError(str(error)) from None
    if folder_of(name) is not None:
        raise UserError(f"{name}: a folder on this machine needs no download; set initial.weights to this name")
    if not is_on_hub(name):
        official_weights(name)
        if revision is not None:
            raise UserError("--revision: applies only to weights of the hub (hf-hub: or a timm tag); leave it out")


def _cached_commit(repository: str) -> str | None:
    """Return the commit of the branch main in the cache, or else that of mem's last download, or None."""
    found = (cached_file(repository, "main", name) for name in DESCRIPTIONS)
    return next((path.parent.name for path in found if isinstance(path, Path)), stored_commit(repository))
