"""Messages about values of a wrong type and about invalid YAML: no Python types, no patterns, and what to do next."""

from __future__ import annotations

import pytest

from mem.config.load import load_study
from mem.errors import UserError
from tests.conftest import REPOSITORY

MINI = REPOSITORY / "tests" / "mini.yaml"
NAME = "expected letters, digits, `_` and `.`, starting with a letter or a digit"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seeds": 0}, "`seeds` is 0: expected a list, for example [0]"),
        ({"heads": {"tau": {"taus": 0.5}}}, "`heads.tau.taus` is 0.5: expected a list, for example [0.5]"),
        ({"orders": None}, "`orders` is null: expected a list"),
        ({"study": "a/b"}, f"`study` is 'a/b': {NAME}"),
        ({"heads": {"a/b": {"method": "ncm"}}}, f"`heads.a/b` has an invalid name: {NAME}"),
        ({"sweeps": {"x y": {"of": "mem", "over": {"xi": [1]}}}}, f"`sweeps.x y` has an invalid name: {NAME}"),
        ({"heads": []}, "`heads` is []: expected a mapping of names to settings"),
        ({"dataset": 5}, "`dataset` is 5: expected a mapping of settings"),
        ({"finetune": [1]}, "`finetune` is [1]: expected a mapping of settings"),
        ({"study": 5}, "`study` is 5: expected text; put it in quotes"),
        ({"pretrain": {"betas": [0.9]}}, "`pretrain.betas` has too few values: value 2 is missing"),
        ({"pretrain": {"betas": [0.9, 0.5, 0.1]}}, "`pretrain.betas` is [0.9, 0.5, 0.1]: expected at most 2 values"),
        ({"pretrain": {"norm_pix_loss": "maybe"}}, "`pretrain.norm_pix_loss` is 'maybe': expected true or false"),
        ({"heads": {1: {}}}, "`heads.1` has an invalid name: expected text; put it in quotes"),
        (
            {"finetune": {"objective": {"tau": 1.0}}},
            "`finetune.objective.name` is missing; expected one of: cross_entropy, balanced_softmax, ",
        ),
        ({"heads": {"mem": {"method": None}}}, "`heads.mem.method` is `null`. Expected one of: ce, finetuned, "),
    ],
)
def test_a_value_of_a_wrong_type_is_reported_in_terms_of_yaml(changes, expected):
    with pytest.raises(UserError) as error:
        load_study([MINI], changes)
    assert expected in str(error.value)
    for word in ("tuple", "dictionary", "pattern", "None", "instance of"):
        assert word not in str(error.value)


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("a: b: c", 1, "`:` is not allowed here. Check the indentation of this line and of the line above"),
        ("a:\n\tb: 1", 2, "a tab is not allowed here. Indent with spaces."),
        ("a: [1, 2\nb: 3", 2, "expected `,` or `]`. Check that the list or mapping is closed"),
        ("a: {x: 1\n", 2, "expected `,` or `}`."),
        ("a: 'x\nb: 2", 2, "a quote is not closed. Add the closing quote. (The block or value starts in line 1.)"),
        ("a:\n - 1\n b: 2", 3, "this line does not continue the block above"),
        ("a: b\nccc\nd: e", 3, "expected `:` and a value after the name of a setting"),
        ("a: @x", 1, "a value cannot start with `@`. Put it in quotes."),
        ('a: "\\q"', 1, "Write `\\\\` for a backslash, or use single quotes."),
        ("a: *x", 1, "no value has the anchor `&x`"),
        ("a: !foo 1", 1, "the tag `!foo` is not supported"),
        ("a: 1\n---\nb: 2", 2, "`---` starts a second study"),
        ("<<: 3\na: 1", 1, "`<<` requires a mapping"),
        ("{a: 1}}", 1, "there is text after the end of the study"),
        ("a: >x\n", 1, "text that follows `|` or `>` must start on the next line"),
    ],
)
def test_a_syntax_error_says_how_to_correct_the_line(tmp_path, text, line, expected):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_study([path])
    assert str(error.value).startswith(f"{path}:{line}: invalid YAML: ")
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 2024-13-45", ":1: invalid YAML: `2024-13-45` cannot be read as a value: month must be in 1..12"),
        ("a: 1\nb: " + "9" * 5000, ":2: invalid YAML: `99999999999999999999` cannot be read as a value"),
        ("? [a, b]\n: 1", ":1: invalid YAML: a key must be plain text."),
        ("a: 1\nb: \x01", ":2: invalid YAML: a control character is not allowed. Delete it."),
        ("a: &a {b: *a}", ":1: invalid YAML: a value contains itself"),
    ],
)
def test_content_that_pyyaml_cannot_read_is_reported_without_a_traceback(tmp_path, text, expected):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_study([path])
    assert str(error.value).startswith(f"{path}{expected}")


def test_a_check_of_the_study_names_the_line_of_the_key_that_it_names(tmp_path):
    path = tmp_path / "changes.yaml"
    path.write_text("seeds: [0]\nheads:\n  mem:\n    finetuning: other\n")
    with pytest.raises(UserError) as error:
        load_study([MINI, path])
    assert str(error.value).startswith(
        f"{path}:4: heads.mem.finetuning: this study has no variant of finetuning `other`"
    )


def test_a_check_of_a_section_names_the_line_of_the_key_that_it_names(tmp_path):
    path = tmp_path / "changes.yaml"
    path.write_text("heads:\n  ce:\n    method: ce\n    cosine_scale: 3\n")
    with pytest.raises(UserError) as error:
        load_study([MINI, path])
    assert str(error.value).startswith(f"{path}:4: `heads.ce`: cosine_scale: is for a linear probe")


def test_a_missing_study_in_a_folder_without_studies_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        load_study(["mine.yaml"])
    assert f"mine.yaml: no such study. Relative paths start at the current folder, {tmp_path}." in str(error.value)
