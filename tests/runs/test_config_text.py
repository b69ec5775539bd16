"""The text of run configurations: written and read with libyaml in the same way as with PyYAML."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mem.config.load import load_study
from mem.runs.config_text import format_config, has_content, has_other_values, read_config_file
from mem.runs.dag import study_runs
from tests.conftest import REPOSITORY

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.text("aé '\"\n:#-\t\\")
)
CONTENTS = st.dictionaries(
    st.text(max_size=5),
    st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner), max_leaves=20),
    max_size=5,
)
IGNORED = frozenset({"defaults", "labels"})


def python_text(content: dict) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


@given(CONTENTS)
def test_the_text_is_that_of_pyyaml(content):
    assert format_config(content) == python_text(content)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=300))
def test_a_plain_text_is_written_like_pyyaml_does(text):
    assert format_config({text: [text]}) == python_text({text: [text]})


@pytest.mark.parametrize("study", ["config/digits_lt.yaml", "config/paper/imagenet_lt_convmae_base.yaml"])
def test_configurations_of_shipped_studies_are_those_of_pyyaml(study):
    for run in study_runs(load_study([REPOSITORY / study])):
        assert format_config(run.document()) == python_text(run.document())


@settings(deadline=None, max_examples=50)
@given(content=CONTENTS)
def test_a_configuration_is_read_like_pyyaml_does(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(python_text(content), encoding="utf-8")
    with open(path, encoding="utf-8") as file:
        expected = yaml.safe_load(file)
    assert read_config_file(path) == expected
    assert has_content(path, expected, IGNORED)
    assert has_content(path, {**expected, "labels": {"variant": "other"}}, IGNORED)
    assert not has_content(path, {**expected, "another key": 1}, IGNORED)


@pytest.mark.parametrize("text", ['a: "\\uDCFF"\n', "a: '\ud800'\n".encode("utf-8", "replace").decode()])
def test_a_text_that_libyaml_rejects_is_read_by_pyyaml(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    assert has_content(path, yaml.safe_load(text), IGNORED)


def test_an_error_contains_the_path_and_the_line(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("stage: convert\nseed: [1\n")
    with pytest.raises(yaml.YAMLError, match=rf'in "{path}", line 3') as found:
        read_config_file(path)
    with pytest.raises(yaml.YAMLError) as expected, open(path) as file:
        yaml.safe_load(file)
    assert str(found.value) == str(expected.value)
    assert not has_content(path, {"stage": "convert"}, IGNORED)


def test_deeply_nested_values_do_not_end_the_process(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("[" * 200_000)
    with pytest.raises(RecursionError):
        read_config_file(path)


@pytest.mark.parametrize("content", [b"", b"text", b"- 1", b"\xff\xfe\xfa", b"a: [", None])
def test_another_file_has_not_the_content(tmp_path, content):
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_bytes(content)
    assert not has_content(path, {"stage": "convert"}, IGNORED)


@pytest.mark.parametrize(
    ("text", "differs"),
    [
        ("stage: convert\n", False),  # a file without this section
        ("defaults: {a: {b: 1, c: 2}}\n", False),  # a value that is only in the file
        ("defaults: {a: {c: 2}}\n", False),
        ("defaults: {a: {b: 2}}\n", True),
        ("defaults: {a: 1}\n", True),
        ("defaults: {d: null}\n", True),  # a default that had no value
    ],
)
def test_only_values_in_both_places_can_differ(tmp_path, text, differs):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert has_other_values(path, "defaults", {"a": {"b": 1}, "d": 3}) == differs
