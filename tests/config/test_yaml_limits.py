"""YAML files that are built to exhaust memory or time, or that refer to themselves, get one short message."""

from __future__ import annotations

import pytest

from mem.config import load
from mem.config.load import load_study
from mem.errors import UserError
from tests.conftest import REPOSITORY

MINI = REPOSITORY / "tests" / "mini.yaml"
BOMB = "\n".join(["a0: &a0 [x, x]", *[f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]])
MAPPINGS = "\n".join(["a0: &a0 {x: 1}", *[f"a{i}: &a{i} {{p: *a{i - 1}, q: *a{i - 1}}}" for i in range(1, 40)]])
MERGES = "\n".join(["a0: &a0 {x: 1}", *[f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 40)]])
FILES = {
    "lists that double": (BOMB, "there are more than 100,000 values. Aliases (`*name`) repeat values"),
    "mappings that double": (MAPPINGS, "there are more than 100,000 values"),
    "merges that double": (MERGES, "there are more than 100,000 values"),
    "the bomb in a setting": (f"{BOMB}\nseeds: *a39", "there are more than 100,000 values"),
    "a list that contains itself": ("a: &a [*a]", "a value contains itself (`&name`, `*name`). Remove the alias."),
    "a mapping that contains itself": ("a: &a {b: *a}", "a value contains itself"),
    "a mapping that merges itself": ("a: &a\n  <<: *a", "a value contains itself"),
    "two levels": ("a: &a {b: &b [*a]}", "a value contains itself"),
    "deep lists": ("a: " + 200 * "[" + 200 * "]", "values are nested more than 100 levels deep"),
    "very deep lists": ("a: " + 20_000 * "[" + 20_000 * "]", "values are nested more than 100 levels deep"),
    "deep mappings": ("a: " + 150 * "{a: " + "1" + 150 * "}", "values are nested more than 100 levels deep"),
    "a chain of aliases": (
        "\n".join(["a0: &a0 [x]", *[f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 2000)]]),
        "values are nested more than 100 levels deep",
    ),
    "a bomb as a key": (f"{BOMB}\n? *a39\n: 1", "there are more than 100,000 values"),
    "a long key": (f"{300 * 'k'}: 1", "a key has more than 200 characters. Shorten it."),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_built_to_exhaust_memory_gets_one_short_message(tmp_path, kind):
    text, expected = FILES[kind]
    path = tmp_path / "study.yaml"
    path.write_text(text + "\n")
    with pytest.raises(UserError) as error:
        load_study([path])
    assert f"{path}" in str(error.value)
    assert expected in str(error.value)
    assert len(str(error.value)) < 1000
    assert "\n" not in str(error.value)


def test_a_huge_file_is_refused_before_it_is_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr(load, "_MAX_BYTES", 1000)
    path = tmp_path / "study.yaml"
    path.write_text(f"# {2000 * 'ä'}\n")
    with pytest.raises(UserError, match=r"study\.yaml: this file has more than 1,000 bytes"):
        load_study([path])


def test_an_endless_file_is_refused(monkeypatch):
    monkeypatch.setattr(load, "_MAX_BYTES", 1000)
    with pytest.raises(UserError, match=r"/dev/zero: this file has more than 1,000 bytes"):
        load_study(["/dev/zero"])


def test_the_number_of_reported_errors_is_limited(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(MINI.read_text() + "\n".join(f"x{i}: 1" for i in range(300)) + "\n")
    with pytest.raises(UserError) as error:
        load_study([path])
    assert len(str(error.value).splitlines()) == 101
    assert str(error.value).endswith("and 200 more errors")


def test_control_characters_in_a_study_do_not_reach_the_terminal(tmp_path):
    path = tmp_path / "a\x1b[2Jstudy.yaml"
    path.write_text(MINI.read_text() + '"x\\e[31m": 1\n')
    with pytest.raises(UserError) as error:
        load_study([path])
    assert "\x1b" not in str(error.value)
    assert r"a\x1b[2Jstudy.yaml" in str(error.value)
