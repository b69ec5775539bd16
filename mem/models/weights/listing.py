"""Texts of `mem weights list` and `mem weights show`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from mem.config.initial import OFFICIAL
from mem.config.weights_names import is_on_hub
from mem.errors import UserError
from mem.models.weights.hub import Repository, address, cached_file
from mem.models.weights.hub_download import ask_hub, entry_of, fetch_descriptions, licence_in, weights_file_in
from mem.models.weights.hub_records import records
from mem.models.weights.hub_weights import get_command, location_of, stored_weights, verify_stored
from mem.models.weights.licences import Licence, licence_warning
from mem.models.weights.official import official_weights, verify_official, weights_folder
from mem.models.weights.prepare import require_name, yaml_lines
from mem.models.weights.pretrained_config import PretrainedConfig, config_beside, licence_beside
from mem.models.weights.timm_tags import tags_matching
from mem.models.weights.verification import is_full, published_part


def list_weights(pattern: str | None) -> str:
    """Return a text that lists official weights, and weights of the hub that are stored.

    Args:
        pattern: If given, only names that contain this text are listed, and also all timm tags that do.
    """
    lines: list[str] = []
    for name, weights in OFFICIAL.items():
        if pattern is None or pattern.lower() in name.lower():
            path = weights_folder() / weights.file
            stored = f"stored: {path}" if path.is_file() else "not stored"
            lines += [name, f"    {weights.about}", f"    {weights.address}"]
            lines.append(f"    licence: {weights.licence or 'none stated'}")
            lines.append(f"    {_trust(weights.checksum)}; {stored}")
    for record in records():
        if pattern is None or pattern.lower() in record.name.lower():
            path = cached_file(record.repository, record.commit, record.file)
            stored = f"stored: {path}" if path is not None else "not stored any more"
            lines += [record.name, f"    revision: {record.commit}"]
            if path is not None:
                lines.append(f"    licence: {_licence_text(path)}")
            lines.append(f"    {_trust(record.checksum)}; {stored}")
    if pattern is None:
        lines.append(
            "Other weights: hf-hub:OWNER/REPOSITORY, and timm tags. `mem weights list PATTERN` lists timm tags."
        )
    elif importlib.util.find_spec("timm") is None:
        lines.append("timm is not installed in this environment, so its tags are not listed.")
    else:
        lines += [f"{tag}\n    {address(repository)}" for tag, repository in tags_matching(pattern)]
    return "\n".join(lines) if lines else f"No name contains {pattern}."


def show_weights(name: str, revision: str | None) -> str:
    """Return a text about weights: commit, licence, architecture, normalisation, verification, and lines for a study.

    The weights themselves are not downloaded.

    Args:
        name: Name of official weights, `hf-hub:OWNER/REPOSITORY` or a timm tag.
        revision: A commit, a branch or a tag of the hub's repository. Default: the newest commit.

    Raises:
        UserError: The name is unknown, the revision does not apply, or the hub cannot be asked and the weights are not
            stored.
    """
    require_name(name, revision)
    return _show_on_hub(name, revision) if is_on_hub(name) else _show_official(name)


def _show_official(name: str) -> str:
    weights = official_weights(name)
    path = weights_folder() / weights.file
    stored = (
        f"{path}\n  is {verify_official(path, name).text}" if path.is_file() else f"no; run: {get_command(name, None)}"
    )
    rows = {
        "about": weights.about,
        "address": weights.address,
        "licence": weights.licence or "none stated",
        "checksum": f"{_trust(weights.checksum)} ({weights.source})",
        "stored": stored,
    }
    return _page(name, rows, Licence(weights.licence), None)


def _show_on_hub(name: str, revision: str | None) -> str:
    stored = stored_weights(name, revision)
    if stored is not None:
        licence = licence_beside(stored.path)
        rows = {
            "address": address(stored.repository),
            "commit": stored.commit,
            "licence": str(licence),
            **_config_rows(config_beside(stored.path)),
            "checksum": _trust(stored.checksum),
            "stored": f"{stored.path}\n  is {verify_stored(stored).text}",
        }
        return _page(name, rows, licence, stored.commit)
    repository, file = location_of(name)
    return _show_repository(name, ask_hub(repository, revision), file)


def _show_repository(name: str, found: Repository, file: str | None) -> str:
    try:
        descriptions = fetch_descriptions(found)
    except UserError:
        if not found.gated:
            raise
        descriptions = {}  # without access to the files, only what the hub states publicly is shown
    beside = next(iter(descriptions.values()), None)
    licence = licence_in(found, descriptions)
    file = file or weights_file_in(found)
    entry = entry_of(found, file)
    size = f", {entry.size / 1e6:.0f} MB" if entry.size else ""
    path = cached_file(found.name, found.commit, file)
    rows = {
        "address": address(found.name),
        "commit": found.commit,
        "licence": str(licence),
        "access": "gated: accept the conditions on its page, and log in" if found.gated else "free",
        **_config_rows(PretrainedConfig() if beside is None else config_beside(beside)),
        "file": f"{file}{size}",
        "checksum": _trust(entry.checksum),
        "stored": str(path) if path is not None else f"no; run: {get_command(name, found.commit)}",
    }
    return _page(name, rows, licence, found.commit)


def _config_rows(stated: PretrainedConfig) -> dict[str, str]:
    rows: dict[str, str] = {}
    if stated.architecture:
        rows["architecture"] = stated.architecture
    if stated.image_size:
        rows["image_size"] = str(stated.image_size)
    if stated.mean and stated.std:
        rows |= {"pixel_mean": str(list(stated.mean)), "pixel_std": str(list(stated.std))}
    return rows


def _page(name: str, rows: dict[str, str], licence: Licence, commit: str | None) -> str:
    width = max(map(len, rows))
    lines = [name, *(f"  {key:<{width}}  {value}" for key, value in rows.items())]
    if warning := licence_warning(name, licence):
        lines.append(warning)
    return "\n".join([*lines, "", yaml_lines(name, commit)])


def _licence_text(weights: Path) -> str:
    try:
        return str(licence_beside(weights))
    except UserError as error:  # one damaged file must not hide the other weights
        return f"unknown. {error}"


def _trust(checksum: str | None) -> str:
    """Return what the published checksum of a file is worth."""
    if is_full(checksum):
        return "authenticated by the full SHA-256 that is published"
    return f"not authenticated: {published_part(checksum)}"
