"""Names of initial weights: repositories of the Hugging Face hub, timm tags and local folders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from mem.config.timm_names import check_timm_tag

HUB_PREFIX, FOLDER_PREFIX = "hf-hub:", "local-dir:"
COMMIT = re.compile(r"[0-9a-f]{40}")
"""Form of a commit."""
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_TIMM_TAG = re.compile(r"[a-z]\w*\.\w+", re.ASCII)


def repository_of(name: str) -> str | None:
    """Return the repository that `hf-hub:OWNER/REPOSITORY` names, or None for other names."""
    return name.removeprefix(HUB_PREFIX) if name.startswith(HUB_PREFIX) else None


def folder_of(name: str) -> Path | None:
    """Return the folder that `local-dir:PATH` names, or None for other names."""
    return Path(name.removeprefix(FOLDER_PREFIX)).expanduser() if name.startswith(FOLDER_PREFIX) else None


def is_timm_tag(name: str) -> bool:
    """Return whether a name is a timm tag: an architecture, a dot and the name of its weights."""
    return _TIMM_TAG.fullmatch(name) is not None


def architecture_of_tag(name: str) -> str | None:
    """Return the architecture of a timm tag, or None for other names."""
    return name.partition(".")[0] if is_timm_tag(name) else None


def is_on_hub(name: str) -> bool:
    """Return whether a name is a repository of the hub, or a timm tag, which stands for one."""
    return name.startswith(HUB_PREFIX) or is_timm_tag(name)


def check_name(name: str) -> None:
    """Check the form of a name with a prefix, and that timm has the weights of a timm tag.

    Raises:
        ValueError: The name of the repository or of the folder is missing or malformed, or timm has no such weights.
    """
    repository = repository_of(name)
    if repository is not None and "@" in repository:
        short, _, revision = repository.partition("@")
        raise ValueError(
            f"write the commit as a setting of its own, revision: {revision}, and the name as {HUB_PREFIX}{short}"
        )
    if repository is not None and not _REPOSITORY.fullmatch(repository):
        raise ValueError(f"{name}: expected {HUB_PREFIX}OWNER/REPOSITORY, for example hf-hub:timm/resnet50.a1_in1k")
    if name == FOLDER_PREFIX:
        raise ValueError(f"{name}: expected {FOLDER_PREFIX}PATH, the path of a folder")
    if is_timm_tag(name):
        check_timm_tag(name)


def _commit(revision: str) -> str:
    if not COMMIT.fullmatch(revision):
        raise ValueError(
            f"expected a commit (40 hexadecimal digits), got {revision}. `mem weights show NAME --revision {revision}` "
            "prints the commit of a branch or a tag"
        )
    return revision


Commit = Annotated[str, AfterValidator(_commit)]
"""A commit of a repository. A branch or a tag, which can change, is refused."""
