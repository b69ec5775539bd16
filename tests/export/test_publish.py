"""An export appears at once, replaces only an earlier export, and is never recognised when it is incomplete."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mem.errors import UserError
from mem.export.publish import MEM, ONNX, TIMM, check_destination, published

TIMM_FILES = ("config.json", "model.safetensors", "README.md")


def write(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(name)
    return folder


def test_a_new_folder_appears_at_the_end_with_usual_permissions(tmp_path):
    out, usual = tmp_path / "a" / "out", tmp_path / "usual"
    usual.mkdir()
    with published(out, []) as stage:
        write(stage, *TIMM_FILES)
        assert not out.exists()
    assert {path.name for path in out.iterdir()} == set(TIMM_FILES)
    assert out.stat().st_mode == usual.stat().st_mode
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_other_files_and_formats_that_are_not_replaced_remain(tmp_path):
    out = write(tmp_path / "out", *TIMM_FILES, "notes.txt")
    (out / "export.json").mkdir()  # not part of the earlier export
    with published(out, [TIMM]) as stage:
        write(stage, "model.onnx")
    assert {path.name for path in out.iterdir()} == {"notes.txt", "export.json", "model.onnx"}


def test_a_folder_in_an_earlier_export_is_replaced(tmp_path):
    out = write(tmp_path / "out", "export.json")
    write(out / "mlflow", "MLmodel")
    with published(out, [MEM]) as stage:
        write(stage, "export.json")
    assert {path.name for path in out.rglob("*")} == {"export.json"}


@pytest.mark.parametrize("is_empty", [True, False])
def test_a_symbolic_link_remains_and_its_folder_is_filled(tmp_path, is_empty):
    target = write(tmp_path / "target", *(() if is_empty else TIMM_FILES))
    (tmp_path / "out").symlink_to(target)
    with published(tmp_path / "out", [] if is_empty else [TIMM]) as stage:
        write(stage, "model.onnx")
    assert (tmp_path / "out").is_symlink()
    assert [path.name for path in target.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("completed", range(5))
def test_a_folder_is_no_export_while_its_files_are_replaced(tmp_path, monkeypatch, completed):
    out = write(tmp_path / "out", "model.onnx", "model.onnx.data")
    seen: list[str] = []

    def step(call):
        def wrapped(*arguments, **options):
            if len(seen) == completed:
                raise KeyboardInterrupt
            seen.append(str(arguments[0]))
            return call(*arguments, **options)

        return wrapped

    with pytest.raises(KeyboardInterrupt), published(out, [ONNX]) as stage:
        write(stage, *TIMM_FILES)
        monkeypatch.setattr(os, "replace", step(os.replace))
        monkeypatch.setattr(Path, "unlink", step(Path.unlink))
    monkeypatch.undo()
    # Nothing was done yet, or neither the earlier nor the new export is recognised.
    assert len(seen) == completed
    assert (out / "model.onnx").is_file() == (completed == 0)
    assert not (out / "config.json").exists()


def test_a_failure_leaves_no_partial_folder(tmp_path):
    with pytest.raises(ValueError, match="refused"), published(tmp_path / "out", []) as stage:
        write(stage, *TIMM_FILES)
        raise ValueError("refused")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("names", "earlier", "overwrite", "message"),
    [
        ((), [], False, None),
        (("thesis.tex",), [], True, "already exists and is not an export"),
        (TIMM_FILES, [TIMM], False, "already contains an export. Pass --overwrite"),
        (TIMM_FILES, [TIMM], True, None),
        ((*TIMM_FILES, "model.onnx.data"), [TIMM], True, r"model\.onnx\.data: this file is not part of the export"),
        ((*TIMM_FILES, "export.json"), [TIMM], True, None),  # not a file of the formats that are written
    ],
)
def test_only_an_export_may_be_replaced(tmp_path, names, earlier, overwrite, message):
    out = write(tmp_path / "out", *names)
    if message is None:
        check_destination(out, earlier, [TIMM, ONNX], overwrite=overwrite)
        return
    with pytest.raises(UserError, match=message):
        check_destination(out, earlier, [TIMM, ONNX], overwrite=overwrite)


def test_a_file_is_no_destination(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="already exists and is not an export"):
        check_destination(tmp_path / "out", [], [MEM], overwrite=True)
    check_destination(tmp_path / "new", [], [MEM], overwrite=False)
