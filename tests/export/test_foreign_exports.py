"""An export.json that is damaged, or was made to cause harm, gets one short message."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from mem.errors import UserError
from mem.export.exported_model import load_export
from tests.conftest import REPOSITORY

EXPORT = REPOSITORY / "tests" / "fixtures" / "earlier_version" / "export"


@pytest.fixture
def export(tmp_path) -> Path:
    folder = tmp_path / "export"
    shutil.copytree(EXPORT, folder, ignore=shutil.ignore_patterns("mlflow"))
    return folder


CONTENTS = {
    "deep nesting": 100_000 * "[" + 100_000 * "]",
    "control characters": '{"format": "\\u001b[2J", "mem": "\\u001b]0;title\\u0007", "classes": []}',
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_file_that_is_no_description_of_an_export_is_reported(export, kind):
    (export / "export.json").write_text(CONTENTS[kind])
    with pytest.raises(UserError) as error:
        load_export(export)
    assert "Export the head again." in str(error.value)
    assert len(str(error.value)) < 800
    assert "\x1b" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("classes", [1, 2]),
        ("backbone", "vit"),
        ("backbone", {"kind": "vit", "\x1b[2J": 500 * "x"}),
    ],
)
def test_a_field_of_a_wrong_type_is_reported(export, name, value):
    path = export / "export.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(UserError) as error:
        load_export(export)
    assert "cannot be read" in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 800


def test_a_folder_instead_of_the_file_is_reported(export):
    (export / "export.json").unlink()
    (export / "export.json").mkdir()
    with pytest.raises(UserError, match="cannot be read: IsADirectoryError"):
        load_export(export)


def test_a_class_name_that_is_not_utf8_is_read_as_it_was_written(export):
    path = export / "export.json"
    about = json.loads(path.read_text())
    about["classes"][0] = os.fsdecode(b"caf\xe9")
    path.write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8", errors="surrogateescape")
    assert b"caf\xe9" in path.read_bytes()
    assert load_export(export).classes[0] == os.fsdecode(b"caf\xe9")
