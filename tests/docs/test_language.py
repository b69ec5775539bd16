"""No file contains the words and phrases that the project replaced with plain words."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.conftest import REPOSITORY

REPLACED = {
    "goes " + "on": "continues, resumes",
    "went " + "on": "continued, resumed",
    "(?<!com)(?<!recom)(?<!a)" + "me" + "nd(?:s|ed|ing)?": "fix, correct",
    "as " + "ever": "as before",
    "in one " + "go": "at once, in a single pass",
    "to be " + "had": "available",
    "who" + "ever": "anyone who, users",
    "the grav" + "est": "the most serious",
    "made " + "anew": "recomputed, rebuilt",
    "before" + "hand": "in advance, first",
}
PATTERN = re.compile("|".join(rf"\b{phrase}\b" for phrase in REPLACED), re.IGNORECASE)
TEXT = (".md", ".py", ".smk", ".rst", ".j2", ".yaml", ".yml", ".sh", ".toml", ".def", ".cff")


@pytest.mark.stage
def test_no_line_uses_a_replaced_phrase():
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    found = [
        f"{name}:{number}: {line.strip()}"
        for name in listed.splitlines()
        if name.endswith(TEXT) or name in ("Snakefile", "Makefile")
        for number, line in enumerate((REPOSITORY / name).read_text(encoding="utf-8").splitlines(), 1)
        if PATTERN.search(line)
    ]
    assert found == []


def test_the_pattern_matches_the_phrases_and_not_ordinary_words():
    assert PATTERN.search("It goes " + "on from there.")
    assert PATTERN.search("Me" + "nded by hand.")
    assert not PATTERN.search("We rec" + "ommend what the am" + "ended guide says everywhere.")
