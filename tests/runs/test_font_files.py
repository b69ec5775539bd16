"""Run keys of `source: glyphs`: they contain a digest of the fonts and the version of FreeType."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PIL import features

from mem.config import Study
from mem.runs import font_files
from mem.runs.dag import study_runs
from mem.runs.font_files import FONT_DIGEST, FREETYPE, find_fonts, font_folder, font_settings
from tests.data.font_files import write_families
from tests.data.miniatures import glyphs


@pytest.fixture
def fonts(tmp_path) -> Path:
    return write_families(tmp_path / "fonts", families=3, faces=2)


def keys(mini_values, root: Path, order: int = 1, **changes) -> list[str]:
    study = Study.model_validate({**mini_values, "dataset": glyphs(root, **changes), "orders": [order]})
    return [run.key for run in study_runs(study)]


def test_the_settings_identify_fonts_and_freetype(fonts):
    found = font_settings(str(fonts))
    assert set(found) == {FREETYPE, FONT_DIGEST}
    assert found[FREETYPE] == features.version("freetype2")
    assert len(found[FONT_DIGEST]) == 12


def test_fonts_have_names_relative_to_their_innermost_common_folder(fonts):
    assert [font.name for font in find_fonts(fonts)][:2] == [
        "opentype/foundry/family00/style0.otf",
        "opentype/foundry/family00/style1.otf",
    ]
    assert find_fonts(fonts / "truetype")[0].name == "family01/style0.ttf"
    assert find_fonts(fonts / "nothing") == []


def test_the_default_folder_is_the_first_that_exists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    debian = tmp_path / "texmf-dist" / "fonts"
    monkeypatch.setattr(font_files, "FONT_FOLDERS", ("data/fonts", str(debian)))
    assert font_folder("/fonts") == Path("/fonts")
    assert font_folder(None) == debian
    assert font_settings(None) == {}
    write_families(debian, families=1)
    from_debian = font_settings(None)
    assert set(from_debian) == {FREETYPE, FONT_DIGEST}
    write_families(tmp_path / "data" / "fonts", families=2)
    assert font_folder(None) == Path("data/fonts")
    assert font_settings(None)[FONT_DIGEST] != from_debian[FONT_DIGEST]


def test_keys_do_not_depend_on_the_place_of_the_fonts(mini_values, fonts, tmp_path):
    copy = tmp_path / "elsewhere" / "usr" / "share"
    shutil.copytree(fonts, copy)
    assert keys(mini_values, copy.parent.parent) == keys(mini_values, fonts)
    (copy / "README.txt").write_text("no font")
    assert keys(mini_values, copy) == keys(mini_values, fonts)


@pytest.mark.parametrize("change", ["content", "name", "folder", "removed", "added", "broken link"])
def test_changed_fonts_change_every_key(mini_values, fonts, change):
    before = keys(mini_values, fonts)
    font = fonts / "truetype" / "foundry" / "family01" / "style0.ttf"
    if change == "content":
        content = bytearray(font.read_bytes())
        content[-1] ^= 1
        status = font.stat()
        font.write_bytes(content)
        os.utime(font, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    elif change == "name":
        font.rename(font.with_name("other.ttf"))
    elif change == "folder":
        (font.parent.parent / "family09").mkdir()
        font.rename(font.parent.parent / "family09" / font.name)
    elif change == "removed":
        font.unlink()
    elif change == "added":
        shutil.copy(font, font.with_name("copy.ttf"))
    else:
        font.unlink()
        font.symlink_to("/nowhere.ttf")
    after = keys(mini_values, fonts)
    assert not set(before) & set(after)


def test_another_version_of_freetype_changes_every_key(mini_values, fonts, monkeypatch):
    before = keys(mini_values, fonts)
    monkeypatch.setattr(font_files, "_freetype_version", lambda: "1.0")
    assert not set(before) & set(keys(mini_values, fonts))


def test_the_class_order_and_the_settings_of_the_cut_change_every_key(mini_values, fonts):
    before = keys(mini_values, fonts)
    for changed in (
        keys(mini_values, fonts, order=2),
        keys(mini_values, fonts, seed=1),
        keys(mini_values, fonts, em=11),
        keys(mini_values, fonts, look_alikes="merge"),
        keys(mini_values, fonts, classes=5),
    ):
        assert not set(before) & set(changed)


def test_a_study_can_be_planned_before_its_fonts_are_available(mini_values, fonts, tmp_path):
    missing = keys(mini_values, tmp_path / "nothing")
    assert len(missing) == len(keys(mini_values, fonts))
    assert not set(missing) & set(keys(mini_values, fonts))
