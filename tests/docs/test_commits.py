"""Commits that pages name can be found: in the history, in the table of former commits, or in another repository."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.stage  # starts git
TABLE = "docs/reference/commits.md"
COMMIT = re.compile(r"\b(?=[0-9]*[a-f])(?=[a-f]*[0-9])[0-9a-f]{7}\b")
OTHER_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+\s+at\s+([0-9a-f]{7})\b|\bat\s+([0-9a-f]{7})\s+\(folder")


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout


def published(commits: Iterable[str]) -> set[str]:
    """Return those of the commits that the history of the current commit contains."""
    return {line[:7] for line in git("rev-list", "HEAD").splitlines()} & set(commits)


def named_commits() -> dict[str, str]:
    """Return the commits of this repository that pages name, each with a page."""
    found: dict[str, str] = {}
    others: set[str] = set()
    for name in git("ls-files", "*.md").splitlines():
        text = (REPOSITORY / name).read_text()
        others |= {commit for groups in OTHER_REPOSITORY.findall(text) for commit in groups}
        found |= dict.fromkeys(COMMIT.findall(text), name)
    return {commit: name for commit, name in found.items() if commit not in others}


@pytest.fixture(autouse=True)
def complete_history() -> None:
    if git("rev-parse", "--is-shallow-repository").strip() == "true":
        pytest.skip("the history is incomplete")


def test_every_commit_that_a_page_names_can_be_found():
    named = named_commits()
    former = dict(re.findall(r"^\| `(\w{7})` \| `(\w{7})` \|$", (REPOSITORY / TABLE).read_text(), re.MULTILINE))
    assert len(named) > 30 and len(former) > 10
    missing = named.keys() - former.keys() - published(named)
    assert not missing, {commit: named[commit] for commit in missing}
    assert published(former.values()) == set(former.values())
    assert not published(former), "these commits are in the history"
    only_in_table = [commit for commit in former if named.get(commit) == TABLE and not mentioned(commit)]
    assert not only_in_table, "no page names these commits"


def mentioned(commit: str) -> bool:
    """Return whether a page other than the table names a commit."""
    return git("grep", "--files-with-matches", commit, "--", "*.md").splitlines() != [TABLE]
